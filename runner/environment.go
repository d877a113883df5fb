package runner

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// forwarded are the signals that go on to the program. Those that a terminal sends reach it
// as they reach the front, by the process group.
var forwarded = []os.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGINT, unix.SIGQUIT}

// forward passes a signal on, unless the terminal has sent it to the program, too.
func forward(pid int, s os.Signal) {
	if (s == unix.SIGINT || s == unix.SIGQUIT) && inForeground() {
		return
	}
	_ = unix.Kill(pid, s.(syscall.Signal))
}

// inForeground reports whether the keys of a terminal send signals to this process, and so to the
// program, which is in its process group.
func inForeground() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	group, err := unix.IoctlGetUint32(fd, unix.TIOCGPGRP)
	return err == nil && int(group) == unix.Getpgrp()
}

// supervisorAttr says how the supervisor is started: in a process group of its own, so that
// what a terminal sends to the program does not reach it.
func supervisorAttr(Config) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// prepare runs in the supervisor before anything else: what it changes of its namespaces the
// program inherits.
func prepare(stageConfig) error { return nil }
