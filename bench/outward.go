package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netns"
)

// An outward is how the programs of a subject dial a server of the kernel's.
type outward struct {
	inside  *netns.NS // where programs are started
	outside *netns.NS // where servers are
	under   []string  // the beginning of a command line that puts a program on the stack; nil for none
	target  string    // the server's address as programs dial it
	// Roles of the bench, a program and a server.
	dial, serve *process
}

// out is the instance's outward: without one of its own the kernel's side is where programs
// run, and what is the stack's side else where servers are.
func (in *instance) out() outward {
	if in.outward.under != nil {
		return in.outward
	}
	return outward{inside: in.spaces[0], outside: in.spaces[len(in.spaces)-1], target: in.addr, dial: in.dial, serve: in.serve}
}

// underRun runs under `ustack run` what is to be on the stack: a server for the kernel's side
// and a program that dials it.
func (in *instance) underRun(ctx context.Context, k *netns.NS, ustack string, cpu []int) error {
	socket, err := in.startDaemon(ctx, k, ustack, cpu)
	if err != nil {
		return err
	}
	o := &in.outward
	o.inside, o.outside, o.target = k, k, kernelPrefix.Addr().String()
	o.under = []string{ustack, "--socket", socket, "run", "-v", "--"}
	if in.serve, err = startUnder(ctx, o.under, k, cpu, "serve", "kernel"); err != nil {
		return err
	}
	if o.serve, err = startProcess(ctx, k, nil, nil, "serve", "kernel"); err != nil {
		return err
	}
	o.dial, err = startUnder(ctx, o.under, k, cpu, "dial")
	return err
}

// A ran is what a program did that ran to its end.
type ran struct {
	stdout []byte
	// calls are the system calls that were passed to the supervisor, by name; nil where there
	// is none.
	calls map[string]int
}

// errFailed is a program's that ended by itself, but not well.
var errFailed = errors.New("did not work")

// program runs one of the peers' programs on the stack, to its end.
func (in *instance) program(ctx context.Context, within time.Duration, name string, args ...string) (r ran, err error) {
	o := in.out()
	argv := slices.Concat(o.under, []string{filepath.Join(in.peers, name)}, args)
	var stdout bytes.Buffer
	p := &process{title: name, cmd: exec.Command(argv[0], argv[1:]...)}
	p.cmd.Stdout = &stdout
	if err := p.start(o.inside, nil); err != nil {
		return r, err
	}
	over := time.NewTimer(within)
	defer over.Stop()
	select {
	case <-p.ended:
	case <-over.C:
		err = fmt.Errorf("%s: has not ended within %v", name, within)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL) // its group: start makes one
		<-p.ended
		return r, err
	}
	r.stdout = stdout.Bytes()
	if !p.cmd.ProcessState.Success() {
		return r, fmt.Errorf("%s %w: %v%s; %.200s", name, errFailed, p.cmd.ProcessState, p.said, r.stdout)
	}
	if o.under != nil {
		r.calls, err = parseSummary(p.said.String())
	}
	return r, err
}

// peerServer starts one of the peers' programs as a server and waits until it has said that it
// is ready.
func (in *instance) peerServer(ctx context.Context, ready, name string, args ...string) (*process, error) {
	p, err := start(in.out().outside, nil, nil, filepath.Join(in.peers, name), args...)
	if err != nil {
		return nil, err
	}
	if err := p.await(ctx, ready, func() bool { return strings.Contains(p.said.String(), ready) }); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// errSummary is a program's that ended without the closing summary of `ustack run -v`.
var errSummary = errors.New("no closing summary of `ustack run -v` on standard error")

// parseSummary reads how often each call was passed to the supervisor, from the last line like
// "ustack: 3 calls were passed to the supervisor: socket 2, connect 1".
func parseSummary(said string) (map[string]int, error) {
	const before = " calls were passed to the supervisor:"
	at := strings.LastIndex(said, before)
	if at < 0 {
		return nil, fmt.Errorf("%w: %q", errSummary, said)
	}
	line, _, _ := strings.Cut(said[at+len(before):], "\n")
	calls := make(map[string]int)
	for part := range strings.SplitSeq(line, ",") {
		name, count, ok := strings.Cut(strings.TrimSpace(part), " ")
		if name == "" {
			continue
		}
		n, err := strconv.Atoi(count)
		if !ok || err != nil {
			return nil, fmt.Errorf("%w: count in %q", errSummary, part)
		}
		calls[name] = n
	}
	return calls, nil
}
