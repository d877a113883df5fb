package netlab

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Proc is a background process in a namespace. It is killed, by its process id, at
// the end of the test, and by the kernel if the test process dies first. What it
// printed is shown when the test fails.
type Proc struct {
	title string
	cmd   *exec.Cmd
	out   *output // standard output and error
	std   *output // standard output alone
	done  chan struct{}
	err   error // of cmd.Wait; set before done is closed
}

// Start starts a program, a peer's or one of PATH, in the namespace, in the
// background.
func (ns *NS) Start(t testing.TB, name string, args ...string) *Proc {
	t.Helper()
	return ns.StartCmd(t, exec.Command(resolve(t, name), args...))
}

// StartCmd starts a prepared command in the namespace. Its Stdout and Stderr are
// collected unless set.
func (ns *NS) StartCmd(t testing.TB, cmd *exec.Cmd) *Proc {
	t.Helper()
	p := &Proc{
		title: ns.name + ": " + strings.Join(cmd.Args, " "),
		cmd:   cmd,
		out:   newOutput(),
		std:   newOutput(),
		done:  make(chan struct{}),
	}
	if cmd.Stdout == nil {
		cmd.Stdout = io.MultiWriter(p.std, p.out)
	}
	if cmd.Stderr == nil {
		cmd.Stderr = p.out
	}
	// A grandchild that keeps the pipe must not hold up Wait.
	cmd.WaitDelay = time.Second
	if err := ns.ns.Start(cmd); err != nil {
		t.Fatalf("netlab: start %s: %v", p.title, err)
	}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
		p.std.close()
		p.out.close()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s (%v) printed:\n%s", p.title, p.cmd.ProcessState, p.Output())
		}
	})
	return p
}

// PID returns the process id.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Output returns what it has printed so far.
func (p *Proc) Output() string { return p.out.String() }

// Exited reports whether it has ended.
func (p *Proc) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// WaitOutput waits until what it printed matches the regular expression and
// returns the match and its groups; the end of the process fails the test.
func (p *Proc) WaitOutput(t testing.TB, expr string, timeout time.Duration) []string {
	t.Helper()
	return p.wait(t, p.out, expr, timeout)
}

// FirstLine waits for the first line on standard output and returns it without its
// newline.
func (p *Proc) FirstLine(t testing.TB, timeout time.Duration) string {
	t.Helper()
	return p.wait(t, p.std, `\A(.*)\n`, timeout)[1]
}

func (p *Proc) wait(t testing.TB, o *output, expr string, timeout time.Duration) []string {
	t.Helper()
	re := regexp.MustCompile("(?m)" + expr)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		text, more := o.watch()
		if m := re.FindStringSubmatch(text); m != nil {
			return m
		}
		if more == nil {
			t.Fatalf("netlab: %s ended (%v) before it printed %q; it printed:\n%s", p.title, p.cmd.ProcessState, expr, p.Output())
		}
		select {
		case <-more:
		case <-timer.C:
			t.Fatalf("netlab: %s did not print %q within %v; it printed:\n%s", p.title, expr, timeout, p.Output())
		}
	}
}

// Signal sends a signal to it.
func (p *Proc) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("netlab: signal %v to %s: %v", sig, p.title, err)
	}
}

// Wait waits for the end and returns the exit code, 128 + N after signal N.
func (p *Proc) Wait(t testing.TB, timeout time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(timeout):
		t.Fatalf("netlab: %s still runs after %v; it printed:\n%s", p.title, timeout, p.Output())
	}
	return ExitCode(p.cmd.ProcessState)
}

// Kill ends it with SIGKILL and waits for the end.
func (p *Proc) Kill(t testing.TB) {
	t.Helper()
	p.Signal(t, unix.SIGKILL)
	p.Wait(t, 10*time.Second)
}

// ExitCode is the exit code as a shell has it: 128 + N after signal N.
func ExitCode(s *os.ProcessState) int {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return s.ExitCode()
}

// output collects what a process prints and tells who waits for more.
type output struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	more   chan struct{} // closed and replaced at each write
	closed bool
}

func newOutput() *output { return &output{more: make(chan struct{})} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(b)
	if !o.closed {
		close(o.more)
		o.more = make(chan struct{})
	}
	return len(b), nil
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.closed = true
		close(o.more)
	}
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// watch returns the text so far and a channel that is closed when there is more; it
// is nil after the end.
func (o *output) watch() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return o.buf.String(), nil
	}
	return o.buf.String(), o.more
}
