package runner

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
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
	f, err := startSupervisor(cfg)
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
	proc *os.Process
}

// A stageConfig is what the front tells the supervisor.
type stageConfig struct {
	Socket   string
	Path     string
	Args     []string
	Env      []string
	Dir      string
	ShareNet bool
	Verbose  bool
	// Group is the process group of the program.
	Group int
}

// A stageReport is what the supervisor tells the front: that the program runs, that it has ended, or
// why it was not started.
type stageReport struct {
	PID    int           `json:"pid,omitempty"`
	Ended  bool          `json:"ended,omitempty"`
	Status uint32        `json:"status,omitempty"`
	Step   string        `json:"step,omitempty"`
	Errno  syscall.Errno `json:"errno,omitempty"`
	Error  string        `json:"error,omitempty"`
}

func startSupervisor(cfg Config) (*front, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	own, theirs := os.NewFile(uintptr(fds[0]), "supervisor"), os.NewFile(uintptr(fds[1]), "front")
	defer theirs.Close()
	std := func(f, own *os.File) *os.File {
		if f == nil {
			return own
		}
		return f
	}
	proc, err := os.StartProcess("/proc/self/exe", []string{supervisorName}, &os.ProcAttr{
		Files: []*os.File{std(cfg.Stdin, os.Stdin), std(cfg.Stdout, os.Stdout), std(cfg.Stderr, os.Stderr), theirs},
		Sys:   supervisorAttr(cfg),
	})
	if err != nil {
		own.Close()
		return nil, &LaunchError{Step: "start", Path: cfg.Path, Err: plainErrno(err)}
	}
	f := &front{cfg: cfg, conn: own, proc: proc}
	env := cfg.Env
	if env == nil {
		env = os.Environ()
	}
	b, err := json.Marshal(stageConfig{
		Socket: cfg.Socket, Path: cfg.Path, Args: cfg.Args, Env: env, Dir: cfg.Dir,
		ShareNet: cfg.ShareNet, Verbose: cfg.Verbose, Group: unix.Getpgrp(),
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

// wait forwards signals until the program has ended.
func (f *front) wait(ctx context.Context) (Status, error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)
	reports := make(chan stageReport)
	failed := make(chan error, 1)
	go f.reports(reports, failed)
	pid := 0
	var pending []os.Signal
	for {
		select {
		case s := <-signals:
			if pid == 0 {
				pending = append(pending, s)
				continue
			}
			forward(pid, s)
		case <-ctx.Done():
			if pid != 0 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			return Status{}, ctx.Err()
		case r := <-reports:
			switch {
			case r.Ended:
				return Status{syscall.WaitStatus(r.Status)}, nil
			case r.PID != 0:
				pid = r.PID
				for _, s := range pending {
					forward(pid, s)
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
		if r.PID == 0 {
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
