// Package curl is the body of apps/curl and of `ustack curl`: curl's command line
// on Go's net/http, with every connection made by the stack's daemon.
//
//	curl [flags] URL...|HOST [PORT]
//
// Flags, messages and exit codes are curl's; `curl --help` lists them. What
// differs:
//
//   - The names are resolved and the connections made by the stack. The proxy
//     variables of the environment are not honoured and there is no flag for a
//     proxy, a unix socket or an interface: nothing goes around the stack.
//   - An all-digit second argument is the port: curl www.baidu.com 80.
//   - Only http and https. HTTP/2 over TLS by ALPN, and without TLS by
//     --http2-prior-knowledge. HTTP/3 and HTTP/1.0 requests are not there.
//   - URLs are not globbed: [1-3] and {a,b} are sent as they stand.
//   - Not supported: cookie files, .curlrc and -K, .netrc, digest, NTLM and
//     Kerberos authentication, brotli and zstd, parallel transfers, --next, HSTS,
//     --trace, content-disposition file names.
//   - Header lines of an HTTP/1 response are shown byte for byte as received. Those
//     of HTTP/2 come in alphabetical order, in lower case.
//   - "Expect: 100-continue" is sent only when -H asks for it.
//   - The progress meter appears only when standard error is a terminal.
package curl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"
)

// A Dialer makes the connections. When it also is a Resolver, names are resolved
// by that and DialContext gets IP addresses only.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// A Resolver finds the addresses of a name; network is "ip", "ip4" or "ip6". A
// name that cannot be resolved is a *net.DNSError.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Env is what Main has of the process it runs in.
type Env struct {
	// Stdin, Stdout and Stderr are, when nil, empty and discarded.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// StdoutTerminal and StderrTerminal say that these are terminals: binary is not
	// written to the one, the progress meter only to the other.
	StdoutTerminal, StderrTerminal bool
	// Dialer, when nil, is the daemon's client, by --socket, $USTACK_SOCKET or the
	// default paths.
	Dialer Dialer
	// Version is shown by --version and in User-Agent. Empty means "dev".
	Version string
}

// Main runs curl with the arguments after the program's name and returns its
// exit code: curl's, or 130 when ctx is cancelled, as by an interrupt.
func Main(ctx context.Context, args []string, env Env) int {
	if env.Stdin == nil {
		env.Stdin = eofReader{}
	}
	if env.Stdout == nil {
		env.Stdout = io.Discard
	}
	if env.Stderr == nil {
		env.Stderr = io.Discard
	}
	if env.Version == "" {
		env.Version = "dev"
	}
	stderr := &lockedWriter{w: env.Stderr}
	env.Stderr = stderr

	c, err := parseArgs(args, &inputReader{ctx: ctx, r: env.Stdin})
	if ctx.Err() != nil {
		return exitInterrupted
	}
	if err != nil {
		var e *exitError
		if !errors.As(err, &e) {
			e = &exitError{exitUsage, err.Error()}
		}
		fmt.Fprintf(stderr, "curl: %s\n", e.msg)
		if e.code == exitUsage {
			fmt.Fprintln(stderr, "curl: try 'curl --help' for more information")
		}
		return e.code
	}
	switch {
	case c.help:
		return printed(fmt.Fprint(env.Stdout, helpText()))
	case c.version:
		return printed(fmt.Fprintf(env.Stdout, "curl (ustack) %s net/http %s\nProtocols: http https\nFeatures: HTTP2 HTTPS IDN IPv6 libz SSL\n",
			env.Version, runtime.Version()))
	}
	d := env.Dialer
	if d == nil {
		d = newDaemonDialer(c.socket)
	}
	s := newSession(c, env, d)
	defer s.close()
	return s.run(ctx)
}

func printed(_ int, err error) int {
	if err != nil {
		return exitWrite
	}
	return exitOK
}

// run makes the transfers one after another. As curl's, its exit code is that of
// the last one unless --fail-early was given.
func (s *session) run(ctx context.Context) int {
	code := exitOK
	targets := s.c.targets
	for i := range targets {
		t := &targets[i]
		if !t.hasURL {
			s.warn("Got more output options than URLs")
			continue
		}
		code = s.withRetries(ctx, t)
		if code == exitInterrupted || code != exitOK && s.c.failEarly {
			break
		}
	}
	return code
}

func (s *session) withRetries(ctx context.Context, t *target) int {
	began := time.Now()
	delay := time.Second
	for left := s.c.retry; ; left-- {
		r := s.transfer(ctx, t)
		if left <= 0 || !s.transient(r) || t.fromStdin() {
			s.report(r)
			return r.code
		}
		wait := delay
		if s.c.retryDelay > 0 {
			wait = s.c.retryDelay
		} else if r.retryAfter > 0 {
			wait = r.retryAfter
		}
		if s.c.retryMaxTime > 0 && time.Since(began)+wait > s.c.retryMaxTime {
			s.report(r)
			return r.code
		}
		s.warn("Problem: %s. Will retry in %v. %d retries left.", r.problem(), wait, left)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return exitInterrupted
		}
		delay = min(2*delay, 10*time.Minute)
	}
}

// transient tells whether --retry is for this result.
func (s *session) transient(r result) bool {
	switch r.code {
	case exitInterrupted, exitWrite, exitURL, exitProtocol, exitRead:
		return false
	case exitTimeout, exitResolve:
		return true
	case exitConnect:
		return s.c.retryConnrefused || s.c.retryAll
	}
	switch r.status {
	case 408, 429, 500, 502, 503, 504:
		return true
	}
	return r.code != exitOK && s.c.retryAll
}

func (s *session) warn(format string, args ...any) {
	if !s.c.silent {
		fmt.Fprintf(s.env.Stderr, "Warning: "+format+"\n", args...)
	}
}

type eofReader struct{}

func (eofReader) Read([]byte) (int, error) { return 0, io.EOF }

// lockedWriter lets the transport's goroutines write -v lines beside the meter.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
