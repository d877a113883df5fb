package runner

import (
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// launch starts the program with the filter on it. The filter is installed on one thread of this
// process, whose child the program is; the thread ends, so that only the program and what it
// starts have the filter. No thread inherits it: Go starts none from one that a goroutine keeps
// to itself.
func (sup *supervisor) launch() (pid int, err error) {
	o := sup.order
	// A program has the signals of its parent ignored that the parent has ignored.
	for s := syscall.Signal(1); s < wakeSignal; s++ {
		if o.Ignore&(1<<(s-1)) != 0 {
			signal.Ignore(s)
		}
	}
	onThreadOfItsOwn(func() {
		if sup.notifier.fd, err = installFilter(sup.arch.filter()); err != nil {
			err = &LaunchError{Step: "seccomp", Path: o.Path, Err: err}
			return
		}
		if o.Drop {
			err = dropCapabilities()
		}
		if err == nil {
			pid, err = syscall.ForkExec(o.Path, o.Args, &syscall.ProcAttr{
				Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true, Pgid: o.Group},
			})
		}
		if err != nil {
			unix.Close(sup.notifier.fd)
			err = &LaunchError{Step: "exec", Path: o.Path, Err: plainErrno(err)}
		}
	})
	for _, fd := range sup.passed {
		unix.Close(fd)
	}
	return pid, err
}

// onThreadOfItsOwn runs f on a thread that ends with it. That is never the process's first, which
// would stay.
func onThreadOfItsOwn(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			onThreadOfItsOwn(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// installFilter puts the filter on this thread and returns its descriptor. Where the process may
// do without, programs keep what set-user-ID gives them; elsewhere the kernel asks for
// PR_SET_NO_NEW_PRIVS.
func installFilter(prog []unix.SockFilter) (int, error) {
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
	return fd, nil // closed on exec, as the kernel makes it
}

// dropCapabilities gives up what this thread may do beyond its user.
func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&head, &none[0])
}

// passedDescriptors returns those above 2 that this process leaves to a program it executes, and
// the lowest number that none of them has.
func passedDescriptors() (fds []int, free int) {
	free = 3
	for inherited(free) {
		free++
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, free
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 && inherited(fd) {
			fds = append(fds, fd)
		}
	}
	return fds, free
}

func inherited(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}
