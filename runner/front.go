package runner

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// Run runs a program on the stack and waits for it to end. Signals that reach this process
// meanwhile go on to the program. What the program has started and left behind stays on the
// stack: the supervisor lives until the last of it has ended.
//
// The program's supervisor is a stage of this process's own executable, whose main must call
// Stage.
func Run(ctx context.Context, cfg Config) (Status, error) {
	if nativeArch(runtime.GOARCH) == nil {
		return Status{}, fmt.Errorf("run %s: %w: %s", cfg.Path, ErrNotSupported, runtime.GOARCH)
	}
	f, err := startSupervisor(ctx, cfg)
	if err != nil {
		return Status{}, err
	}
	status, err := f.wait(ctx)
	f.release()
	return status, err
}

// A front is the process that the user started, towards its supervisor.
type front struct {
	cfg  Config
	conn *os.File
	// supervisor is a child of this process.
	supervisor int
	// leaves says that the supervisor lives on for what the program has left.
	leaves bool
}

// A stageConfig is what the front tells the supervisor, beside its order.
type stageConfig struct {
	Socket  []byte // JSON has no other text than UTF-8
	Verbose bool
	// Mount says that the mount namespace is the program's own.
	Mount bool
	// State is what its namespaces are to look like.
	State *control.Status `json:",omitempty"`
}

// A stageReport is what the supervisor tells the front: that the program runs, that it was
// stopped, that it has ended, or why it was not started.
type stageReport struct {
	PID     int    `json:"pid,omitempty"`
	Stopped bool   `json:"stopped,omitempty"`
	Ended   bool   `json:"ended,omitempty"`
	Status  uint32 `json:"status,omitempty"`
	// Left says that the program has left processes that the supervisor lives on for.
	Left  bool          `json:"left,omitempty"`
	Step  string        `json:"step,omitempty"`
	Errno syscall.Errno `json:"errno,omitempty"`
	Error string        `json:"error,omitempty"`
}

func startSupervisor(ctx context.Context, cfg Config) (*front, error) {
	around := surroundingsOf(cfg)
	warnOfPrivileges(cfg)
	socket, err := filepath.Abs(cfg.Socket)
	if err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	f := &front{cfg: cfg, conn: os.NewFile(uintptr(fds[0]), "supervisor")}
	// The supervisor starts while the daemon answers.
	type state struct {
		*control.Status
		err error
	}
	asked := make(chan state, 1)
	go func() {
		st, err := stateFor(ctx, cfg, around)
		asked <- state{st, err}
	}()
	err = f.startSupervisor(around, fds[1])
	unix.Close(fds[1])
	st := <-asked
	if st.err != nil { // more to the point than any other
		err = st.err
	}
	var b []byte
	if err == nil {
		b, err = json.Marshal(stageConfig{
			Socket: []byte(socket), Verbose: cfg.Verbose, Mount: around.mount, State: st.Status,
		})
	}
	if err == nil {
		_, err = f.conn.Write(append(b, '\n'))
	}
	if err != nil {
		f.release()
		return nil, err
	}
	return f, nil
}

// release lets go of the supervisor, and waits for its end unless it lives on: nobody else would
// take its exit status where the first process of a container does not.
func (f *front) release() {
	f.conn.Close() // ends a supervisor that has no program yet
	if f.supervisor == 0 || f.leaves {
		return
	}
	for {
		if _, err := unix.Wait4(f.supervisor, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// startSupervisor starts it with what the program is to inherit. end is its end of the socket.
func (f *front) startSupervisor(around surroundings, end int) error {
	_, free := passedDescriptors()
	std := [3]uintptr{0, 1, 2}
	for i, file := range []*os.File{f.cfg.Stdin, f.cfg.Stdout, f.cfg.Stderr} {
		if file != nil {
			std[i] = file.Fd()
		}
	}
	files := std[:]
	for fd := 3; fd < free; fd++ {
		files = append(files, uintptr(fd))
	}
	files = append(files, uintptr(end))
	env := f.cfg.Env
	if env == nil {
		env = os.Environ()
	}
	o := order{
		FD: free, Group: unix.Getpgrp(), Ignore: ignoredSignals(), Drop: around.user && os.Geteuid() != 0, Net: around.net,
		Path: f.cfg.Path, Args: f.cfg.Args,
	}
	pid, err := syscall.ForkExec("/proc/self/exe", o.argv(), &syscall.ProcAttr{
		Dir: f.cfg.Dir, Env: env, Files: files, Sys: around.supervisorAttr(),
	})
	if err == nil {
		f.supervisor = pid
		return nil
	}
	step := "start"
	if _, serr := os.Lstat("/proc/self/exe"); serr != nil {
		step = "proc"
	} else if around.net || around.mount {
		step = "namespaces"
	}
	return &LaunchError{Step: step, Path: f.cfg.Path, Err: plainErrno(err)}
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
	isFirst := unix.Gettid() == os.Getpid()
	caught := catchSignals(signals, !isFirst)
	defer caught.stop()
	if !isFirst {
		return f.follow(ctx, signals, func() {})
	}
	done := make(chan struct{})
	go func() {
		status, err = f.follow(ctx, signals, caught.catchAll)
		close(done)
		wakeFirstThread()
	}()
	receiveSignals(done, signals)
	<-done
	return status, err
}

// follow does what signals and reports ask for, until the program has ended. It calls more after a signal, of
// which there may be more then.
func (f *front) follow(ctx context.Context, signals <-chan received, more func()) (Status, error) {
	reports := make(chan stageReport)
	failed := make(chan error, 1)
	go f.reports(reports, failed)
	p := program{fd: -1}
	defer p.close()
	var pending []received
	cancelled := ctx.Done()
	for {
		select {
		case s := <-signals:
			if p.pid == 0 {
				pending = append(pending, s)
				continue
			}
			p.forward(s)
			more()
		case <-cancelled:
			if cancelled = nil; p.pid == 0 {
				f.leaves = true // it kills what it starts when it sees us gone
				return Status{}, ctx.Err()
			}
			p.signal(unix.SIGKILL)
		case r := <-reports:
			switch {
			case r.Ended:
				if f.leaves = r.Left; cancelled == nil && ctx.Err() != nil {
					return Status{}, ctx.Err()
				}
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
