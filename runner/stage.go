package runner

import (
	"os"

	"golang.org/x/sys/unix"

	_ "github.com/ustack/ustack/runner/launcher" // the stage after this one runs from its init
)

// supervisorName is the name under which this program starts itself again as a supervisor.
// It is argument 0, so that the environment of the program to run stays as it is.
const supervisorName = "ustack-run-supervisor"

// Stage runs the stage that Run started this process for, and does not return then.
// Every program that calls Run calls Stage first of all.
func Stage() {
	if len(os.Args) == 2 && os.Args[0] == supervisorName {
		os.Exit(supervisorMain(os.Args[1]))
	}
}

// passed returns the descriptors above 2 that this process would leave to a program it
// executes, and the lowest number that none of them has.
func passed() (fds []int, free int) {
	free = 3
	for inherits(free) {
		free++
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, free
	}
	for _, e := range entries {
		fd := 0
		for _, c := range []byte(e.Name()) {
			fd = 10*fd + int(c-'0')
		}
		if fd > 2 && inherits(fd) {
			fds = append(fds, fd)
		}
	}
	return fds, free
}

func inherits(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}

// childFiles is the table of descriptors of a child: standard streams, what is passed on, and
// the child's end of a socket at free.
func childFiles(stdin, stdout, stderr uintptr, free, end int) []uintptr {
	files := []uintptr{stdin, stdout, stderr}
	for fd := 3; fd < free; fd++ {
		files = append(files, uintptr(fd))
	}
	return append(files, uintptr(end))
}
