package runner

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A launched is the launcher as the supervisor sees it: later the program.
type launched struct {
	pid  int
	path string
	conn *os.File
	in   *bufio.Reader
}

// startLauncher starts the launcher. The program gets the supervisor's standard streams.
func (sup *supervisor) startLauncher() (*launched, error) {
	fail := func(err error) (*launched, error) {
		return nil, &LaunchError{Step: "start", Path: sup.cfg.Path, Err: plainErrno(err)}
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	own, theirs := os.NewFile(uintptr(fds[0]), "launcher"), os.NewFile(uintptr(fds[1]), "supervisor")
	defer theirs.Close()
	p, err := os.StartProcess("/proc/self/exe", append([]string{launcherName, sup.cfg.Path}, sup.cfg.Args...), &os.ProcAttr{
		Dir: sup.cfg.Dir, Env: sup.cfg.Env,
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pgid: sup.cfg.Group},
	})
	if err != nil {
		own.Close()
		return fail(err)
	}
	l := &launched{pid: p.Pid, path: sup.cfg.Path, conn: own, in: bufio.NewReader(own)}
	_ = p.Release() // reap waits for it
	return l, nil
}

// next reads one report of the launcher.
func (l *launched) next() (launchReport, error) {
	var r launchReport
	line, err := l.in.ReadBytes('\n')
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, err
	}
	if r.Step != "" {
		return r, &LaunchError{Step: r.Step, Path: l.path, Err: r.Errno}
	}
	return r, nil
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
