# make            bin/ustack, bin/curl and bin/ping, static
# make demo       builds and shows the round trip, in namespaces of its own
# make test       all tests; as root also those with namespaces, TAPs and real peers
# make test-wires  all end-to-end tests over every kind of tap: WIRES (root)
# make bench      measures beside the kernel and other stacks; writes bench/RESULTS.md (root)
# make check      format, vet, staticcheck, architecture, cross-builds
# make fuzz       every fuzz target, FUZZTIME each: a number of runs (20000x) or a time (1m)
# make install    ustack, its manual pages, completions and systemd unit
# make clean      removes what the above made here
#
# Needs Go and, for the peers of the tests, the Debian archive; nothing is installed
# on the machine except by `make install`.

PREFIX  ?= /usr/local
DESTDIR ?=
VERSION ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null),devel)
GO      ?= go

GOBUILD     = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION)'
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
CROSS       = arm64 s390x
FUZZTIME   ?= 20000x

# The race detector needs cgo, and that a C compiler with its headers.
RACE ?= $(shell printf '\043include <stdlib.h>\n' | $$($(GO) env CC) -E - >/dev/null 2>&1 && echo -race)
# Packages to test, and more flags.
PKG       ?= ./...
TESTFLAGS ?=
# Options of the taps, one run for each.
WIRES     ?= offload=auto offload=off driver=water queues=2
# For instance: -quick, or -only stream.
BENCHFLAGS ?=

.PHONY: all build demo test test-wires peers bench check fmt-check arch cross fuzz install uninstall clean

all: build

build:
	$(GOBUILD) -o bin/ ./cmd/ustack ./apps/curl ./apps/ping

demo: build
	bin/ustack demo

# Without the peers the tests that need them are skipped, except where CI=true.
test: build
	@internal/netlab/peers.sh || [ "$$CI" != true ]
	$(if $(RACE),CGO_ENABLED=1) $(GO) test $(RACE) -count=1 -timeout 15m $(TESTFLAGS) $(PKG)
	@[ "$$(id -u)" = 0 ] || echo "note: not root, so the tests with taps, namespaces and real peers were skipped"

# `make test` has the tests that matter most over all of them.
test-wires: build
	@internal/netlab/peers.sh || [ "$$CI" != true ]
	@for tap in $(WIRES); do \
		echo "e2e -tap $$tap"; \
		$(GO) test -count=1 -timeout 15m $(TESTFLAGS) ./e2e -tap $$tap || failed="$$failed $$tap"; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

peers:
	internal/netlab/peers.sh

# Without the peers their rows are left out.
bench:
	@internal/netlab/peers.sh || true
	$(GO) run ./bench $(BENCHFLAGS)

check: fmt-check arch cross
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

fmt-check:
	@out=$$(gofmt -l $$(find . -name '*.go' -not -path './.cache/*')); \
	if [ -n "$$out" ]; then echo "not gofmt'ed:" $$out >&2; exit 1; fi

arch:
	$(GO) test -count=1 ./internal/archtest

cross:
	@for arch in $(CROSS); do \
		echo "GOOS=linux GOARCH=$$arch build, vet"; \
		CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) build ./... && \
		CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) vet ./... || exit 1; \
	done

fuzz:
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

bindir  = $(DESTDIR)$(PREFIX)/bin
mandir  = $(DESTDIR)$(PREFIX)/share/man/man1
docdir  = $(DESTDIR)$(PREFIX)/share/doc/ustack
unitdir = $(DESTDIR)$(PREFIX)/lib/systemd/system
bashdir = $(DESTDIR)$(PREFIX)/share/bash-completion/completions
zshdir  = $(DESTDIR)$(PREFIX)/share/zsh/site-functions
fishdir = $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d

# Built beforehand where possible: under sudo there may be no Go.
bin/ustack:
	$(MAKE) build

# Only ustack: bin/curl and bin/ping would shadow the system's; they are also
# `ustack curl` and `ustack ping`.
install: bin/ustack
	install -d $(bindir) $(mandir) $(docdir) $(unitdir) $(bashdir) $(zshdir) $(fishdir)
	install -m 755 bin/ustack $(bindir)/ustack
	bin/ustack man $(mandir)
	bin/ustack completion bash >$(bashdir)/ustack
	bin/ustack completion zsh >$(zshdir)/_ustack
	bin/ustack completion fish >$(fishdir)/ustack.fish
	sed 's|@BINDIR@|$(PREFIX)/bin|' packaging/ustack.service.in >$(unitdir)/ustack.service
	chmod 644 $(unitdir)/ustack.service
	install -m 644 packaging/ustack.toml $(docdir)/ustack.toml

uninstall:
	rm -f $(bindir)/ustack $(mandir)/ustack.1 $(mandir)/ustack-*.1 $(unitdir)/ustack.service \
		$(bashdir)/ustack $(zshdir)/_ustack $(fishdir)/ustack.fish $(docdir)/ustack.toml

clean:
	rm -rf bin .cache
