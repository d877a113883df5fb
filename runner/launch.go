package runner

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/runner/launcher"
)

// A launched is the launcher as the supervisor sees it: later the program.
type launched struct {
	pid  int
	path string
	conn *os.File
}

// startLauncher starts the launcher. The program gets the supervisor's standard streams
// and what else was passed to it.
func (sup *supervisor) startLauncher() (*launched, error) {
	fail := func(err error) (*launched, error) {
		return nil, &LaunchError{Step: "start", Path: sup.cfg.path(), Err: plainErrno(err)}
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	own, end := os.NewFile(uintptr(fds[0]), "launcher"), fds[1]
	defer unix.Close(end)
	order := launcher.Order{
		FD: sup.stageFD, Ignore: sup.cfg.Ignore, Drop: sup.cfg.Drop, Path: sup.cfg.path(), Args: texts(sup.cfg.Args),
	}
	pid, err := syscall.ForkExec("/proc/self/exe", order.Argv(), &syscall.ProcAttr{
		Dir: string(sup.cfg.Dir), Env: texts(sup.cfg.Env),
		Files: childFiles(0, 1, 2, sup.stageFD, end),
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pgid: sup.cfg.Group},
	})
	if err != nil {
		own.Close()
		return fail(err)
	}
	l := &launched{pid: pid, path: sup.cfg.path(), conn: own}
	if _, err := own.Write(launcher.AppendFilter(nil, sup.arch.filter())); err != nil {
		l.discard()
		return fail(err)
	}
	return l, nil
}

// next reads one report of the launcher.
func (l *launched) next() (launcher.Report, error) {
	var b [launcher.ReportSize]byte
	var r launcher.Report
	if _, err := io.ReadFull(l.conn, b[:]); err != nil {
		return r, err
	}
	r.Decode(b)
	switch r.Step {
	case launcher.Installed:
		return r, nil
	case launcher.Filter:
		return r, &LaunchError{Step: "seccomp", Path: l.path, Err: r.Errno}
	}
	return r, &LaunchError{Step: "exec", Path: l.path, Err: r.Errno}
}

// takeFilter takes the filter's descriptor out of the launcher and lets it go on.
func (l *launched) takeFilter(sup *supervisor) error {
	r, err := l.next()
	if err == nil {
		sup.notifier.fd, err = sup.procs.dup(l.pid, uint64(r.Listener), 0)
	}
	if err == nil {
		unix.CloseOnExec(sup.notifier.fd)
		_, err = l.conn.Write([]byte{1})
	}
	if err != nil {
		l.discard()
		var le *LaunchError
		if !errors.As(err, &le) {
			err = &LaunchError{Step: "seccomp", Path: l.path, Err: plainErrno(err)}
		}
	}
	return err
}

// discard ends a launcher that is not to become the program.
func (l *launched) discard() {
	l.conn.Close()
	_ = unix.Kill(l.pid, unix.SIGKILL)
	_, _ = unix.Wait4(l.pid, nil, 0, nil)
}

// watchExec tells the front if the program could not be executed.
func (l *launched) watchExec(sup *supervisor) {
	defer sup.wg.Done()
	defer l.conn.Close()
	var le *LaunchError
	if _, err := l.next(); errors.As(err, &le) {
		sup.reportError(le)
	}
}
