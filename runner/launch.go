package runner

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/runner/launcher"
)

// A launched is the launcher as the supervisor sees it: later the program.
type launched struct {
	pid  int
	path string
	conn *os.File
	// became is closed when it is the program, or has told why not.
	became chan struct{}
}

// orderLauncher tells the launcher the filter.
func (sup *supervisor) orderLauncher() (*launched, error) {
	child := sup.child
	if child.Err != nil {
		return nil, &LaunchError{Step: "start", Path: child.Order.Path, Err: plainErrno(child.Err)}
	}
	l := &launched{pid: child.PID, path: child.Order.Path, conn: os.NewFile(uintptr(child.FD), "launcher"), became: make(chan struct{})}
	if _, err := l.conn.Write(launcher.AppendFilter(nil, sup.arch.filter())); err != nil {
		l.discard()
		return nil, &LaunchError{Step: "start", Path: l.path, Err: plainErrno(err)}
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
	defer close(l.became)
	var le *LaunchError
	if _, err := l.next(); errors.As(err, &le) {
		sup.reportError(le)
	}
}
