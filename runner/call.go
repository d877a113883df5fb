package runner

import (
	"errors"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

var errNoMore = errors.New("nobody has the filter any more")

// A call is one system call of the program that waits for an answer.
type call struct {
	sup  *supervisor
	id   uint64
	tid  int
	name sysno
	args [6]uint64
	ip   uint64 // where the program made it
	// fd is a duplicate of the descriptor in args[0], for as long as the handler runs;
	// -1 without one. Nothing may keep it: while it is open the program's close goes unseen.
	fd int
	// ino is the inode of fd.
	ino uint64
	// locked says that signals of this thread are blocked.
	locked bool
}

// A verdict is the answer to a call.
type verdict struct {
	mode  verdictMode
	val   int64
	errno syscall.Errno
}

type verdictMode uint8

const (
	modeReturn verdictMode = iota
	modeNative
	modeLater
	modeUnknown
)

var (
	// native lets the kernel run the call as if nobody had looked.
	native = verdict{mode: modeNative}
	// later says that somebody else answers, or has answered.
	later = verdict{mode: modeLater}
	// unknown is a kind's answer to an option that it does not have.
	unknown = verdict{mode: modeUnknown}
)

// ret answers a call by its result.
func ret(v int) verdict { return verdict{val: int64(v)} }

// fail answers a call by an error.
func fail(errno syscall.Errno) verdict { return verdict{val: -1, errno: errno} }

// answer is ret(0), or fail unless errno is 0.
func answer(errno syscall.Errno) verdict {
	if errno != 0 {
		return fail(errno)
	}
	return ret(0)
}

// send gives the program its answer. A call that a signal has interrupted meanwhile is
// gone; the kernel has answered it or makes it again.
func (c *call) send(v verdict) bool {
	if v.mode == modeLater {
		return true
	}
	r := &c.sup.restarts
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deliver(c, v)
}

// offer is send for one who undoes what the call did when the answer reaches nobody.
func (c *call) offer(v verdict) bool { return c.sup.notifier.send(v.response(c.id)) == nil }

// response is the verdict as the kernel takes it.
func (v verdict) response(id uint64) *response {
	r := &response{id: id, val: v.val, err: -int32(v.errno)}
	switch {
	case v.mode == modeNative:
		*r = response{id: id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	case v.errno != 0:
		r.val = 0
	}
	return r
}

// valid says whether the program still waits for the answer.
func (c *call) valid() bool { return c.sup.notifier.valid(c.id) }

// later answers with what f returns, from a goroutine of its own. c.fd is closed in it: f
// uses withFD.
func (c *call) later(f func() verdict) verdict {
	d := c.detached()
	c.sup.restarts.wait(d)
	c.sup.wg.Add(1)
	go func() {
		defer c.sup.wg.Done()
		v := f()
		c.sup.restarts.waited(d)
		d.send(v)
	}()
	return later
}

// detached is a copy of c for use after the handler has returned.
func (c *call) detached() *call {
	d := *c
	d.fd, d.locked = -1, false
	return &d
}

// withFD runs f with a new duplicate of the descriptor of socket ino, wherever the program
// had it when it was last seen.
func (c *call) withFD(f func(fd int) error) error {
	l := c.sup.loans.borrow()
	defer c.sup.loans.giveBack(l)
	fd, err := c.sup.procs.dup(c.tid, c.args[0], c.ino)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return f(fd)
}

// nonblocking says whether the descriptor has O_NONBLOCK.
func (c *call) nonblocking() bool {
	flags, err := unix.FcntlInt(uintptr(c.fd), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_NONBLOCK != 0
}

// value answers getsockopt.
func (c *call) value(b []byte) verdict { return c.valueAt(c.args[3], c.args[4], b, false) }

// valueAt answers a call by a value, as writeValue writes it, unless a signal has ended the call: its memory
// may be something else's by now.
func (c *call) valueAt(addr, lenp uint64, b []byte, full bool) verdict {
	if !c.valid() {
		return fail(unix.EINTR)
	}
	return answer(c.writeValue(addr, lenp, b, full))
}

// install gives the program a duplicate of fd, the unix socket of s, as the result of the call,
// and puts s into the table. When it did not work, ok is false: EMFILE, or ENOENT when the
// program does not wait for the answer any more.
func (c *call) install(s *socket, fd int, cloexec bool) (v verdict, ok bool) {
	if c.sup.table.add(s, place{c.tid, noFD}) {
		c.sup.sweepSoon()
	}
	a := addFD{id: c.id, flags: unix.SECCOMP_ADDFD_FLAG_SEND, srcFD: uint32(fd)}
	if cloexec {
		a.newFDFlags = unix.O_CLOEXEC
	}
	v = later
	n, err := c.addFD(&a)
	if errors.Is(err, unix.EINVAL) { // Linux before 5.14
		a.flags = 0
		n, err = c.addFD(&a)
		v = ret(n)
	}
	if err == nil {
		c.sup.table.seen(s, place{c.tid, uint64(n)})
		return v, true
	}
	c.sup.table.remove(s.ino)
	return fail(errnoOf(err)), false
}

// replace puts fd in the place of the program's descriptor in args[0].
func (c *call) replace(fd int, cloexec bool) error {
	a := addFD{id: c.id, flags: unix.SECCOMP_ADDFD_FLAG_SETFD, srcFD: uint32(fd), newFD: uint32(c.args[0])}
	if cloexec {
		a.newFDFlags = unix.O_CLOEXEC
	}
	_, err := c.addFD(&a)
	return err
}

func (c *call) addFD(a *addFD) (int, error) {
	if !c.locked {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		restore, err := blockSignals()
		if err != nil {
			return -1, err
		}
		defer restore()
	}
	return c.sup.notifier.addFD(a)
}
