package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netns"
)

// A process runs in a namespace and cannot outlive it.
type process struct {
	// family says that it is the first of several: their processor time and memory are all
	// its descendants' too.
	family bool

	title string
	cmd   *exec.Cmd
	said  *tail
	ended chan struct{}

	// Of a process that takes jobs.
	in      io.WriteCloser
	answers chan result // closed at the end
}

// start starts a program in a namespace, on the processors cpus if there are any. It
// has files open as descriptors 3 and following.
func start(ns *netns.NS, cpus []int, files []*os.File, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...)}
	p.cmd.ExtraFiles = files
	p.title = filepath.Base(name)
	return p, p.start(ns, cpus)
}

func (p *process) start(ns *netns.NS, cpus []int) error {
	p.said, p.ended = &tail{}, make(chan struct{})
	if p.cmd.Stdout == nil {
		p.cmd.Stdout = p.said
	}
	p.cmd.Stderr = p.said
	// A grandchild that keeps the pipe must not hold up Wait.
	p.cmd.WaitDelay = time.Second
	// Ctrl-C at the terminal is the runner's to handle.
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := ns.Start(p.cmd, cpus...); err != nil {
		return err
	}
	go func() {
		defer close(p.ended)
		p.cmd.Wait()
	}()
	return nil
}

// startProcess starts this program again in one of its roles and waits until it is ready.
func startProcess(ctx context.Context, ns *netns.NS, cpus []int, files []*os.File, role ...string) (*process, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.ExtraFiles = files
	cmd.Args = append([]string{"bench", roleArg}, role...)
	p := &process{title: strings.Join(role, " "), cmd: cmd}
	return p, p.startRole(ctx, ns, cpus)
}

// startUnder does the same by means of another program: under is the beginning of its
// command line, which that of the role follows.
func startUnder(ctx context.Context, under []string, ns *netns.NS, cpus []int, role ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := slices.Concat(under, []string{self, roleArg}, role)
	p := &process{title: strings.Join(role, " "), cmd: exec.Command(args[0], args[1:]...), family: true}
	return p, p.startRole(ctx, ns, cpus)
}

func (p *process) startRole(ctx context.Context, ns *netns.NS, cpus []int) error {
	p.answers = make(chan result)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	p.cmd.Stdout = w
	if p.in, err = p.cmd.StdinPipe(); err == nil {
		err = p.start(ns, cpus)
	}
	w.Close()
	if err != nil {
		r.Close()
		return err
	}
	go func() {
		defer close(p.answers)
		defer r.Close()
		in := bufio.NewScanner(r)
		for in.Scan() {
			var a result
			if err := json.Unmarshal(in.Bytes(), &a); err != nil {
				a.Error = fmt.Sprintf("answer %q: %v", in.Bytes(), err)
			}
			select {
			case p.answers <- a:
			case <-p.ended: // nobody waits for it
				return
			}
		}
	}()
	if _, err := p.answer(ctx, 10*time.Second); err != nil {
		p.stop()
		return err
	}
	return nil
}

// do hands a job to the process and waits for the result: as long as the job may
// take, and a margin.
func (p *process) do(ctx context.Context, j job) (result, error) {
	b, err := json.Marshal(j)
	if err != nil {
		return result{}, err
	}
	if _, err := p.in.Write(append(b, '\n')); err != nil {
		return result{}, fmt.Errorf("%s: %w%s", p.title, err, p.said)
	}
	return p.answer(ctx, j.Time+30*time.Second)
}

func (p *process) answer(ctx context.Context, within time.Duration) (result, error) {
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case a, ok := <-p.answers:
		switch {
		case !ok:
			return a, fmt.Errorf("%s ended%s", p.title, p.said)
		case a.Error != "":
			return a, fmt.Errorf("%s: %s%s", p.title, a.Error, p.said)
		}
		return a, nil
	case <-t.C:
		return result{}, fmt.Errorf("%s: no answer within %v%s", p.title, within, p.said)
	case <-ctx.Done():
		return result{}, context.Cause(ctx)
	}
}

// stop ends the process: in good order where its input says so, else by SIGTERM, at
// last by SIGKILL.
func (p *process) stop() {
	if p.in != nil {
		p.in.Close()
	} else {
		p.cmd.Process.Signal(unix.SIGTERM)
	}
	t := time.NewTimer(2 * time.Second)
	defer t.Stop()
	select {
	case <-p.ended:
	case <-t.C:
		unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL) // its group: start makes one
		<-p.ended
	}
}

// cpuTime returns the processor time that the process, all its threads and those
// that have ended, has used: its CPU clock (clock_getcpuclockid(3)).
func (p *process) cpuTime() (sum time.Duration, err error) {
	const cpuclockSched = 2 // include/linux/posix-timers.h
	for _, pid := range p.pids() {
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|cpuclockSched), &ts); err != nil {
			return 0, fmt.Errorf("%s: read its CPU clock: %w", p.title, err)
		}
		sum += time.Duration(ts.Nano())
	}
	return sum, nil
}

// pids are the process itself, and of a family its descendants.
func (p *process) pids() []int {
	pids := []int{p.cmd.Process.Pid}
	for i := 0; p.family && i < len(pids); i++ {
		// proc_pid_task_tid_children(5)
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		for _, list := range lists {
			b, _ := os.ReadFile(list) // a thread that has ended has none
			for f := range strings.FieldsSeq(string(b)) {
				if child, err := strconv.Atoi(f); err == nil {
					pids = append(pids, child)
				}
			}
		}
	}
	return pids
}

// rss returns the resident set in bytes (proc_pid_status(5), VmRSS).
func (p *process) rss() (sum int64, err error) {
	for _, pid := range p.pids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		n, err := parseRSS(b)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func parseRSS(status []byte) (int64, error) {
	for line := range bytes.Lines(status) {
		if v, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(string(bytes.TrimSpace(v)), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("no VmRSS in the status of the process")
}

// tail keeps the last of what a process said.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if over := len(t.b) - 2000; over > 0 {
		t.b = append([]byte(nil), t.b[over:]...)
	}
	return len(b), nil
}

// String returns it as the end of an error message.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.b) == 0 {
		return ""
	}
	return "; it said: " + strings.TrimSpace(string(t.b))
}
