package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A launchReport is what the launcher tells the supervisor: the number that the filter's
// descriptor has in the launcher, or what went wrong.
type launchReport struct {
	Listener int           `json:"listener,omitempty"`
	Step     string        `json:"step,omitempty"`
	Errno    syscall.Errno `json:"errno,omitempty"`
}

// launch is the life of the launcher: install the filter, hand it over, become the
// program. args are the path of the file and the program's argument list. It returns
// only when that did not work.
func launch(args []string) int {
	unix.CloseOnExec(stageFD)
	fail := func(step string, err error) int {
		var errno syscall.Errno
		errors.As(err, &errno)
		report(launchReport{Step: step, Errno: errno})
		return 127
	}
	if len(args) < 2 {
		return fail("arguments", syscall.EINVAL)
	}
	a := nativeArch(runtime.GOARCH)
	if a == nil {
		return fail("seccomp", syscall.ENOSYS)
	}
	listener, err := install(a)
	if err != nil {
		return fail("seccomp", err)
	}
	report(launchReport{Listener: listener})
	var ack [1]byte
	if n, err := unix.Read(stageFD, ack[:]); n != 1 || err != nil {
		return 127 // the supervisor is gone
	}
	return fail("exec", syscall.Exec(args[0], args[1:], os.Environ()))
}

// report writes a message with write(2), which the filter lets pass.
func report(r launchReport) {
	b, err := json.Marshal(r)
	if err == nil {
		_, _ = unix.Write(stageFD, append(b, '\n'))
	}
}

// install puts the filter on this thread and returns its descriptor. Where the process may
// do without, programs keep what set-user-ID gives them; elsewhere the kernel asks for
// PR_SET_NO_NEW_PRIVS.
func install(a *arch) (int, error) {
	prog := a.filter()
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	set := func() (int, syscall.Errno) {
		fd, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
			unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&fprog)))
		return int(fd), errno
	}
	fd, errno := set()
	if errno == unix.EACCES {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return -1, err
		}
		fd, errno = set()
	}
	runtime.KeepAlive(prog)
	if errno != 0 {
		return -1, errno
	}
	return fd, nil
}

// A LaunchError says why a program could not be started.
type LaunchError struct {
	// Step is "seccomp", "exec" or "start".
	Step string
	Path string
	Err  error
}

func (e *LaunchError) Error() string {
	errno, _ := e.Err.(syscall.Errno)
	switch {
	case e.Step == "exec":
		return fmt.Sprintf("run %s: %v", e.Path, e.Err)
	case errno == unix.EBUSY:
		return "a supervisor of system calls watches this process already: ustack run cannot run inside ustack run"
	case errno == unix.ENOSYS, errno == unix.EINVAL:
		return "this kernel does not pass system calls to a supervisor (seccomp user notification, Linux 5.14)"
	}
	return fmt.Sprintf("start %s: %s: %v", e.Path, e.Step, e.Err)
}

// Unwrap returns the cause.
func (e *LaunchError) Unwrap() error { return e.Err }

// Is makes errors.Is find ErrNotSupported.
func (e *LaunchError) Is(target error) bool {
	errno, _ := e.Err.(syscall.Errno)
	return target == ErrNotSupported && e.Step == "seccomp" && (errno == unix.ENOSYS || errno == unix.EINVAL)
}
