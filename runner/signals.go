package runner

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A received signal reached the front.
type received struct {
	signal syscall.Signal
	// terminal says that it came from the kernel, as what is typed at a terminal does: it
	// went to the program too, which is in the same process group.
	terminal bool
}

// siKernel is SI_KERNEL of include/uapi/asm-generic/siginfo.h.
const siKernel = 0x80

// wakeSignal ends the waiting of receiveSignals.
const wakeSignal = syscall.Signal(64)

// own are the signals that a process deals with itself: faults of its own, the end of its
// children, what Go's runtime uses, and stopping and continuing, which a shell sends to
// the program too.
var own = []syscall.Signal{
	unix.SIGKILL, unix.SIGSTOP, unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGSYS,
	unix.SIGCHLD, unix.SIGURG, unix.SIGPROF, unix.SIGPIPE, unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU,
}

func passedOn() (set unix.Sigset_t) {
	for i := range set.Val {
		set.Val[i] = ^set.Val[i]
	}
	for _, s := range own {
		setBit(&set, s, false)
	}
	return set
}

func hasBit(set *unix.Sigset_t, s syscall.Signal) bool {
	with := *set
	setBit(&with, s, true)
	return with == *set
}

func setBit(set *unix.Sigset_t, s syscall.Signal, on bool) {
	const bits = 8 * uint(unsafe.Sizeof(set.Val[0]))
	n := uint(s) - 1
	set.Val[n/bits] &^= 1 << (n % bits)
	if on {
		set.Val[n/bits] |= 1 << (n % bits)
	}
}

// receiveSignals takes the process's signals on its first thread until done is closed and the
// thread is woken. The kernel prefers that thread for signals of the process as long as it
// waits for them; in between, others of Go's threads take them, for a catcher.
func receiveSignals(done <-chan struct{}, out chan<- received) {
	set := passedOn()
	blocked := set
	setBit(&blocked, unix.SIGURG, true) // of Go's runtime; it would interrupt the waiting
	var old unix.Sigset_t
	if unix.PthreadSigmask(unix.SIG_BLOCK, &blocked, &old) != nil {
		return
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) }()
	var info struct {
		signo, errno, code int32
		_                  [29]int32
	}
	for {
		select {
		case <-done:
			return
		default:
		}
		n, _, errno := syscall.Syscall6(unix.SYS_RT_SIGTIMEDWAIT,
			uintptr(unsafe.Pointer(&set)), uintptr(unsafe.Pointer(&info)), 0, 8, 0, 0)
		if errno != 0 || syscall.Signal(n) == wakeSignal {
			continue
		}
		select {
		case out <- received{syscall.Signal(n), info.code == siKernel}:
		default: // more than anyone sends by hand
		}
	}
}

// wakeFirstThread makes receiveSignals look at its done.
func wakeFirstThread() { _ = unix.Tgkill(os.Getpid(), os.Getpid(), wakeSignal) }

// often are the signals that are caught from the start on. Go takes some time for each, and as much to let go
// of it: most programs end before anybody sends another.
var often = []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2}

// A catcher is receiveSignals for all threads. Origins are not known here: what a terminal can
// send it takes to come from there if it can.
type catcher struct {
	in          chan os.Signal
	done, ended chan struct{}
	catchesAll  bool
}

// catchSignals sends signals to out, those that are sent often or all.
func catchSignals(out chan<- received, all bool) *catcher {
	c := &catcher{in: make(chan os.Signal, 16), done: make(chan struct{}), ended: make(chan struct{})}
	if all {
		c.catchAll()
	} else {
		c.catch(often)
	}
	go func() {
		defer close(c.ended)
		for {
			select {
			case s := <-c.in:
				select {
				case out <- received{s.(syscall.Signal), (s == unix.SIGINT || s == unix.SIGQUIT) && inForeground()}:
				case <-c.done:
					return
				}
			case <-c.done:
				return
			}
		}
	}()
	return c
}

func (c *catcher) catch(set []syscall.Signal) {
	for _, s := range set {
		if !signal.Ignored(s) {
			signal.Notify(c.in, s)
		}
	}
}

// catchAll is for a process that is sent signals.
func (c *catcher) catchAll() {
	if c.catchesAll {
		return
	}
	c.catchesAll = true
	set := passedOn()
	var all []syscall.Signal
	for s := syscall.Signal(1); s < wakeSignal; s++ {
		if hasBit(&set, s) {
			all = append(all, s)
		}
	}
	c.catch(all)
}

func (c *catcher) stop() {
	signal.Stop(c.in)
	close(c.done)
	<-c.ended
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

// ignoredSignals are those that this process was started with as ignored, as far as Go leaves
// them to be seen: SIGHUP and SIGINT. A shell without job control ignores SIGQUIT with SIGINT
// for what it starts in the background.
func ignoredSignals() (set uint64) {
	if signal.Ignored(unix.SIGHUP) {
		set |= 1 << (unix.SIGHUP - 1)
	}
	if signal.Ignored(unix.SIGINT) {
		set |= 1<<(unix.SIGINT-1) | 1<<(unix.SIGQUIT-1)
	}
	return set
}

// A program is the process that the front stands for.
type program struct {
	pid int
	fd  int // a pidfd: the number may be another's by now. -1 is none
}

func (p *program) open(pid int) {
	p.pid = pid
	if fd, err := unix.PidfdOpen(pid, 0); err == nil {
		p.fd = fd
	}
}

func (p *program) close() {
	if p.fd >= 0 {
		unix.Close(p.fd)
	}
}

func (p *program) signal(s syscall.Signal) {
	if p.fd >= 0 {
		_ = unix.PidfdSendSignal(p.fd, s, nil, 0)
	}
}

func (p *program) forward(s received) {
	if !s.terminal {
		p.signal(s.signal)
	}
}

// suspendBoth stops this process after the program was stopped, so that a shell sees it, and
// continues the program after this process was continued.
func (p *program) suspendBoth() {
	if !p.stopped() {
		return // both were stopped by the terminal, and continued since
	}
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
	if p.stopped() {
		p.signal(unix.SIGCONT)
	}
}

func (p *program) stopped() bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/stat")
	if err != nil {
		return false
	}
	i := strings.LastIndexByte(string(b), ')') // the name may hold anything
	return i >= 0 && strings.HasPrefix(string(b[i+1:]), " T")
}

// Raise ends this process by the signal that ended the program, so that whoever waits for it
// sees the same. It leaves no second core. It returns if no signal ended the program.
func (s Status) Raise() {
	if !s.Signaled() {
		return
	}
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	var byDefault [4]uint64
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s.Signal()), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	var set unix.Sigset_t
	setBit(&set, s.Signal(), true)
	_ = unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, nil)
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), s.Signal())
}
