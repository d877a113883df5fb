// Command ustack puts a user-space TCP/IP stack on a wire that carries Ethernet
// frames, first of all a TAP interface, and shows and changes what it does.
//
//	ustack up                          run the stack in the foreground
//	ustack status|link|addr|...        ask the running stack (--json for programs)
//	ustack curl|ping|nc ...            use the running stack
//	ustack run PROGRAM [ARG...]        any program on the running stack
//
// Exit codes: 0 done, 1 the thing asked for did not work, 2 wrong usage; curl,
// ping and nc have their own. `ustack help` lists everything.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/ustack/ustack/runner"
)

// The kernel gives the signals of a process to its first thread, where run waits for them.
func init() { runtime.LockOSThread() }

func main() {
	runner.Stage()
	if !slices.Contains(os.Args[1:], "run") {
		runtime.UnlockOSThread() // it makes switching goroutines slower
	}
	env := environ{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv,
	}
	// up handles its signals itself, because it has a host to put back in order;
	// for every other command the first signal cancels the context and the
	// second one kills, as a terminal user expects. One that was ignored stays ignored.
	signals := []os.Signal{syscall.SIGTERM}
	if !signal.Ignored(os.Interrupt) {
		signals = append(signals, os.Interrupt)
	}
	ctx, stop := signalled(context.Background(), signals...)
	code := run(ctx, os.Args[1:], env)
	stop()
	os.Exit(code)
}

// sameSignal is how long a second signal counts as the first: timeout(1) sends each twice, to the
// process and to its group.
const sameSignal = 300 * time.Millisecond

// signalled ends with the first of the signals; a second one kills.
func signalled(ctx context.Context, signals ...os.Signal) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, signals...)
	context.AfterFunc(ctx, func() { time.AfterFunc(sameSignal, stop) })
	return ctx, stop
}
