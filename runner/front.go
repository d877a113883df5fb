package runner

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// Run runs a program on the stack and waits for it to end. Signals that reach this process
// meanwhile go on to the program. What the program has started and left behind stays on the
// stack: the supervisor lives until the last of it has ended.
//
// The program is started by two stages of this process's own executable, whose main must
// call Stage.
func Run(ctx context.Context, cfg Config) (Status, error) {
	if nativeArch(runtime.GOARCH) == nil {
		return Status{}, fmt.Errorf("run %s: %w: %s", cfg.Path, ErrNotSupported, runtime.GOARCH)
	}
	f, err := startSupervisor(ctx, cfg)
	if err != nil {
		return Status{}, err
	}
	defer f.conn.Close()
	return f.wait(ctx)
}

// A front is the process that the user started, towards its supervisor.
type front struct {
	cfg  Config
	conn *os.File
}

// A stageConfig is what the front tells the supervisor. Paths and the like are bytes: JSON has
// no other text than UTF-8.
type stageConfig struct {
	Socket  []byte
	Path    []byte
	Args    [][]byte
	Env     [][]byte
	Dir     []byte
	Verbose bool
	// Group is the process group of the program.
	Group int
	// Ignore are the signals that the program ignores, signal n as bit n-1.
	Ignore uint64
	// Net and Mount say which namespaces the supervisor was started in.
	Net, Mount bool
	// Drop says that it has capabilities that the program is not to have.
	Drop bool
	// State is what the program's namespaces are to look like.
	State *control.Status `json:",omitempty"`
}

func (c *stageConfig) path() string { return string(c.Path) }

func texts(b [][]byte) []string {
	s := make([]string, len(b))
	for i := range b {
		s[i] = string(b[i])
	}
	return s
}

func bytesOf(s []string) [][]byte {
	b := make([][]byte, len(s))
	for i := range s {
		b[i] = []byte(s[i])
	}
	return b
}

// A stageReport is what the supervisor tells the front: that the program runs, that it was
// stopped, that it has ended, or why it was not started.
type stageReport struct {
	PID     int           `json:"pid,omitempty"`
	Stopped bool          `json:"stopped,omitempty"`
	Ended   bool          `json:"ended,omitempty"`
	Status  uint32        `json:"status,omitempty"`
	Step    string        `json:"step,omitempty"`
	Errno   syscall.Errno `json:"errno,omitempty"`
	Error   string        `json:"error,omitempty"`
}

func startSupervisor(ctx context.Context, cfg Config) (*front, error) {
	around := surroundingsOf(cfg)
	st, err := stateFor(ctx, cfg, around)
	if err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	own, end := os.NewFile(uintptr(fds[0]), "supervisor"), fds[1]
	defer unix.Close(end)
	std := func(f *os.File, own uintptr) uintptr {
		if f == nil {
			return own
		}
		return f.Fd()
	}
	_, free := passed()
	_, err = syscall.ForkExec("/proc/self/exe", []string{supervisorName, strconv.Itoa(free)}, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: childFiles(std(cfg.Stdin, 0), std(cfg.Stdout, 1), std(cfg.Stderr, 2), free, end),
		Sys:   around.supervisorAttr(),
	})
	if err != nil {
		own.Close()
		step := "start"
		if around.net || around.mount {
			step = "namespaces"
		}
		return nil, &LaunchError{Step: step, Path: cfg.Path, Err: plainErrno(err)}
	}
	f := &front{cfg: cfg, conn: own}
	env := cfg.Env
	if env == nil {
		env = os.Environ()
	}
	b, err := json.Marshal(stageConfig{
		Socket: []byte(cfg.Socket), Path: []byte(cfg.Path), Args: bytesOf(cfg.Args), Env: bytesOf(env), Dir: []byte(cfg.Dir),
		Verbose: cfg.Verbose, Group: unix.Getpgrp(), Ignore: ignoredSignals(),
		Net: around.net, Mount: around.mount, Drop: around.user && os.Geteuid() != 0, State: st,
	})
	if err == nil {
		_, err = own.Write(append(b, '\n'))
	}
	if err != nil {
		own.Close()
		return nil, &LaunchError{Step: "start", Path: cfg.Path, Err: err}
	}
	return f, nil
}

// stateFor asks the daemon what the program's namespaces are to look like, and warns of what
// they cannot have.
func stateFor(ctx context.Context, cfg Config, around surroundings) (*control.Status, error) {
	if !around.net && !around.mount {
		return nil, nil
	}
	client := control.Client{Path: cfg.Socket}
	defer client.Close()
	st, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	if servers, others := nameServers(st); len(others) > 0 && len(servers) == 0 {
		cfg.warn(fmt.Sprintf("%s finds no names: resolv.conf cannot name the port of the DNS server %s: start the daemon with one at port 53 (--dns)", cfg.Path, others[0]))
	}
	return &st, nil
}

// wait passes signals on until the program has ended. It does so on the thread that it is
// called on, if that is the process's first: the kernel gives it the process's signals then,
// with their origin.
func (f *front) wait(ctx context.Context) (status Status, err error) {
	signals := make(chan received, 64)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Gettid() != os.Getpid() {
		defer notifySignals(signals)()
		return f.follow(ctx, signals)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		status, err = f.follow(ctx, signals)
		wakeFirstThread()
	}()
	receiveSignals(done, signals)
	<-done
	return status, err
}

// follow does what signals and reports ask for, until the program has ended.
func (f *front) follow(ctx context.Context, signals <-chan received) (Status, error) {
	reports := make(chan stageReport)
	failed := make(chan error, 1)
	go f.reports(reports, failed)
	p := program{fd: -1}
	defer p.close()
	var pending []received
	for {
		select {
		case s := <-signals:
			if p.pid == 0 {
				pending = append(pending, s)
				continue
			}
			p.forward(s)
		case <-ctx.Done():
			p.signal(unix.SIGKILL)
			return Status{}, ctx.Err()
		case r := <-reports:
			switch {
			case r.Ended:
				return Status{syscall.WaitStatus(r.Status)}, nil
			case r.Stopped:
				p.suspendBoth()
			case r.PID != 0:
				p.open(r.PID)
				for _, s := range pending {
					p.forward(s)
				}
			case r.Errno != 0:
				return Status{}, &LaunchError{Step: r.Step, Path: f.cfg.Path, Err: r.Errno}
			default:
				return Status{}, errors.New(r.Error)
			}
		case err := <-failed:
			return Status{}, err
		}
	}
}

// reports reads what the supervisor tells, until it has told how it ended.
func (f *front) reports(out chan<- stageReport, failed chan<- error) {
	br := bufio.NewReader(f.conn)
	for {
		line, err := br.ReadBytes('\n')
		var r stageReport
		if err == nil {
			err = json.Unmarshal(line, &r)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("it has ended")
			}
			failed <- fmt.Errorf("supervisor of %s: %w", f.cfg.Path, err)
			return
		}
		out <- r
		if r.PID == 0 && !r.Stopped {
			return
		}
	}
}

// plainErrno takes the layers off an error of package os.
func plainErrno(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
