// Package launcher is the last stage before a program runs on the stack: it installs the
// filter, hands it over and becomes the program. The supervisor starts it. Both happen while
// packages are initialised, and this package imports little: it has done its work before most
// of its binary is ready, which takes longer than everything else here.
package launcher

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Names of the stages, as which an executable starts itself again. They are argument 0, so that the
// program's environment stays as it is.
const (
	Supervisor = "ustack-run-supervisor"
	launcher   = "ustack-run-launcher"
)

// An Order says what a supervisor's process is to launch.
type Order struct {
	// FD is the descriptor of the process's end of the socket to the one that started it, in the
	// supervisor as in the launcher. No other that they inherit has this number.
	FD int
	// Group is the process group of the program.
	Group int
	// Ignore are the signals that the program ignores, signal n as bit n-1.
	Ignore uint64
	// Drop gives up all capabilities before the program begins.
	Drop bool
	// Path is the program's file, Args its argument list.
	Path string
	Args []string
}

// Argv is the argument list with which an executable becomes the supervisor.
func (o Order) Argv() []string { return o.argv(Supervisor) }

const fixedArgs = 6 // before Args

func (o Order) argv(stage string) []string {
	return append([]string{
		stage, strconv.Itoa(o.FD), strconv.Itoa(o.Group), strconv.FormatUint(o.Ignore, 16), strconv.FormatBool(o.Drop), o.Path,
	}, o.Args...)
}

func parseOrder(argv []string) (o Order, err error) {
	if len(argv) < fixedArgs {
		return o, syscall.EINVAL
	}
	var errs [4]error
	o.FD, errs[0] = strconv.Atoi(argv[1])
	o.Group, errs[1] = strconv.Atoi(argv[2])
	o.Ignore, errs[2] = strconv.ParseUint(argv[3], 16, 64)
	o.Drop, errs[3] = strconv.ParseBool(argv[4])
	o.Path, o.Args = argv[5], argv[fixedArgs:]
	return o, errors.Join(errs[:]...)
}

// A Child is the launcher that a supervisor's process has started.
type Child struct {
	Order Order
	PID   int
	// FD is the supervisor's end of the socket to it.
	FD int
	// Err is why it was not started.
	Err error
}

// theChild is zero in processes that are no supervisor.
var theChild = begin()

// Started returns the launcher of this process. ok is false if this process is no supervisor.
func Started() (c Child, ok bool) { return theChild, theChild.PID != 0 || theChild.Err != nil }

// begin is the life of a launcher, and the first thing that a supervisor does.
func begin() (c Child) {
	if len(os.Args) == 0 || os.Args[0] != Supervisor && os.Args[0] != launcher {
		return c
	}
	c.Order, c.Err = parseOrder(os.Args)
	if os.Args[0] == launcher {
		runtime.LockOSThread()
		if c.Err != nil {
			os.Exit(cannotRun)
		}
		os.Exit(launch(c.Order))
	}
	if c.Err == nil {
		c.PID, c.FD, c.Err = start(c.Order)
	}
	return c
}

// start starts the launcher. It gets the standard streams and all else that was passed to this
// process, which keeps the streams only.
func start(o Order) (pid, fd int, err error) {
	unix.CloseOnExec(o.FD)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, -1, err
	}
	passed, _ := Passed()
	pid, err = syscall.ForkExec("/proc/self/exe", o.argv(launcher), &syscall.ProcAttr{
		Env: os.Environ(), Files: Files([3]uintptr{0, 1, 2}, o.FD, fds[1]),
		Sys: &syscall.SysProcAttr{Setpgid: true, Pgid: o.Group},
	})
	unix.Close(fds[1])
	for _, fd := range passed {
		unix.Close(fd)
	}
	return pid, fds[0], err
}

// Passed returns the descriptors above 2 that this process would leave to a program it
// executes, and the lowest number that none of them has.
func Passed() (fds []int, free int) {
	free = 3
	for inherits(free) {
		free++
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, free
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 && inherits(fd) {
			fds = append(fds, fd)
		}
	}
	return fds, free
}

func inherits(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}

// Files is the table of descriptors for a child: standard streams, what is passed on, and the
// child's end of a socket at free.
func Files(std [3]uintptr, free, end int) []uintptr {
	files := std[:]
	for fd := 3; fd < free; fd++ {
		files = append(files, uintptr(fd))
	}
	return append(files, uintptr(end))
}

// A Step is something a launcher reports.
type Step uint32

// What a launcher reports: that the filter is installed, or what did not work.
const (
	Installed Step = iota + 1
	Filter
	Exec
)

// A Report is what a launcher tells its supervisor, ReportSize bytes long.
type Report struct {
	Step Step
	// Listener is the number that the filter's descriptor has in the launcher.
	Listener int
	Errno    syscall.Errno
}

// ReportSize is the length of a report in bytes.
const ReportSize = 8

// Decode reads a report.
func (r *Report) Decode(b [ReportSize]byte) {
	r.Step = Step(binary.NativeEndian.Uint32(b[:]))
	value := binary.NativeEndian.Uint32(b[4:])
	if r.Step == Installed {
		r.Listener = int(value)
	} else {
		r.Errno = syscall.Errno(value)
	}
}

// AppendFilter appends what a launcher reads first: the filter.
func AppendFilter(b []byte, prog []unix.SockFilter) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(len(prog)))
	for _, f := range prog {
		b = binary.NativeEndian.AppendUint16(b, f.Code)
		b = append(b, f.Jt, f.Jf)
		b = binary.NativeEndian.AppendUint32(b, f.K)
	}
	return b
}

// cannotRun is the exit code of a launcher that did not become the program.
const cannotRun = 126

// launch returns only when something did not work.
func launch(o Order) int {
	fd := o.FD
	unix.CloseOnExec(fd)
	fail := func(step Step, err error) int {
		var errno syscall.Errno
		errors.As(err, &errno)
		report(fd, step, uint32(errno))
		return cannotRun
	}
	prog, err := readFilter(fd)
	if err != nil {
		return fail(Filter, err)
	}
	listener, err := install(prog)
	if err != nil {
		return fail(Filter, err)
	}
	report(fd, Installed, uint32(listener))
	var ack [1]byte
	if readFull(fd, ack[:]) != nil {
		return cannotRun // the supervisor is gone
	}
	if o.Drop {
		if err := dropCapabilities(); err != nil {
			return fail(Exec, err)
		}
	}
	for n := 1; n <= 64; n++ {
		if o.Ignore&(1<<(n-1)) != 0 {
			action := [4]uint64{1} // SIG_IGN
			_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
		}
	}
	return fail(Exec, syscall.Exec(o.Path, o.Args, os.Environ()))
}

// report uses write(2), which the filter lets pass.
func report(fd int, step Step, value uint32) {
	b := binary.NativeEndian.AppendUint32(nil, uint32(step))
	_, _ = unix.Write(fd, binary.NativeEndian.AppendUint32(b, value))
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return unix.EPIPE
		}
		b = b[n:]
	}
	return nil
}

func readFilter(fd int) ([]unix.SockFilter, error) {
	var head [4]byte
	if err := readFull(fd, head[:]); err != nil {
		return nil, err
	}
	n := binary.NativeEndian.Uint32(head[:])
	if n == 0 || n > unix.BPF_MAXINSNS {
		return nil, unix.EINVAL
	}
	b := make([]byte, 8*n)
	if err := readFull(fd, b); err != nil {
		return nil, err
	}
	prog := make([]unix.SockFilter, n)
	for i := range prog {
		in := b[8*i:]
		prog[i] = unix.SockFilter{
			Code: binary.NativeEndian.Uint16(in), Jt: in[2], Jf: in[3], K: binary.NativeEndian.Uint32(in[4:]),
		}
	}
	return prog, nil
}

// install puts the filter on this thread and returns its descriptor. Where the process may
// do without, programs keep what set-user-ID gives them; elsewhere the kernel asks for
// PR_SET_NO_NEW_PRIVS.
func install(prog []unix.SockFilter) (int, error) {
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

// dropCapabilities gives up what this thread may do beyond its user.
func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&head, &none[0])
}
