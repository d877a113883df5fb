// Package launcher is the last stage before a program runs on the stack: it installs the
// filter, hands it over and becomes the program. It does so from its init function and
// imports little: so it has done its work before most of its binary is initialised, which
// takes longer than everything else here.
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

// name is argument 0 of the stage, so that the program's environment stays as it is.
const name = "ustack-run-launcher"

func init() {
	if len(os.Args) > 0 && os.Args[0] == name {
		runtime.LockOSThread()
		os.Exit(launch(os.Args[1:]))
	}
}

// An Order says what a launcher is to do.
type Order struct {
	// FD is the descriptor of the launcher's end of the socket to its supervisor.
	FD int
	// Ignore are the signals that the program ignores, signal n as bit n-1.
	Ignore uint64
	// Drop gives up all capabilities before the program begins.
	Drop bool
	// Path is the program's file, Args its argument list.
	Path string
	Args []string
}

// Argv is the argument list to execute this process's own executable with.
func (o Order) Argv() []string {
	return append([]string{
		name, strconv.Itoa(o.FD), strconv.FormatUint(o.Ignore, 16), strconv.FormatBool(o.Drop), o.Path,
	}, o.Args...)
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

// launch returns only when something did not work.
func launch(args []string) int {
	const cannotRun = 126
	if len(args) < 5 {
		return cannotRun
	}
	fd, err := strconv.Atoi(args[0])
	if err != nil {
		return cannotRun
	}
	unix.CloseOnExec(fd)
	ignore, _ := strconv.ParseUint(args[1], 16, 64)
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
	if args[2] == "true" {
		if err := dropCapabilities(); err != nil {
			return fail(Exec, err)
		}
	}
	for n := 1; n <= 64; n++ {
		if ignore&(1<<(n-1)) != 0 {
			action := [4]uint64{1} // SIG_IGN
			_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
		}
	}
	return fail(Exec, syscall.Exec(args[3], args[4:], os.Environ()))
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
