package runner

import (
	"maps"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func (t *tcp) accept(c *call, flags int) verdict {
	t.mu.Lock()
	l := t.lis
	t.mu.Unlock()
	if l == nil {
		return fail(unix.EINVAL)
	}
	v := l.take(c, flags)
	if v.errno != unix.EAGAIN || c.nonblocking() {
		return v
	}
	h := t.s.sup.held.hold(c.detached())
	h.flags = flags
	l.mu.Lock()
	for i, old := range l.waiting {
		if old.c.tid == c.tid { // a signal has ended that call
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			break
		}
	}
	l.waiting = append(l.waiting, h)
	if tv, err := unix.GetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO); err == nil && (tv.Sec != 0 || tv.Usec != 0) {
		h.timer = time.AfterFunc(time.Duration(tv.Nano()), func() {
			if l.unwait(h) {
				t.s.sup.held.done(h)
				h.c.send(fail(unix.EAGAIN))
			}
		})
	}
	l.mu.Unlock()
	if readable(c.fd) { // one has come in between
		l.wake()
	}
	return later
}

// wake lets one of the calls that wait look for a connection.
func (l *listening) wake() {
	for {
		l.mu.Lock()
		if len(l.waiting) == 0 {
			l.mu.Unlock()
			return
		}
		h := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.mu.Unlock()
		if l.answerHeld(h) {
			return
		}
	}
}

// answerHeld gives a connection to a call that waits for one. false means that nobody waits for its
// answer any more.
func (l *listening) answerHeld(h *heldCall) bool {
	v := fail(unix.EBADF)
	if !h.c.valid() {
		v.errno = unix.ENOENT
	} else if err := h.c.withFD(func(fd int) error {
		h.c.fd = fd
		v = l.take(h.c, h.flags)
		h.c.fd = -1
		return nil
	}); err == nil && v.errno == unix.EAGAIN { // another process took it
		l.mu.Lock()
		l.waiting = append(l.waiting, h)
		l.mu.Unlock()
		return true
	}
	l.sup.held.done(h)
	if h.timer != nil {
		h.timer.Stop()
	}
	if v.errno == unix.ENOENT {
		return false
	}
	h.c.send(v)
	return true
}

// look answers calls that wait on a listener that another thread has shut down.
func (l *listening) look() {
	l.mu.Lock()
	n := len(l.waiting)
	l.mu.Unlock()
	for range n {
		l.wake()
	}
}

// unwait takes a call out of those that wait.
func (l *listening) unwait(h *heldCall) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, other := range l.waiting {
		if other == h {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			return true
		}
	}
	return false
}

func readable(fd int) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p[:], 0)
	return err == nil && n > 0
}

// take answers an accept with a connection that is there, else EAGAIN. ENOENT says that the
// program does not wait any more; the connection stays for the next call.
func (l *listening) take(c *call, flags int) verdict {
	a, errno := l.next(c.fd)
	if errno != 0 {
		return fail(errno)
	}
	if err := unix.SetNonblock(a.fd, flags&unix.SOCK_NONBLOCK != 0); err != nil {
		errno = unix.ENOBUFS
	}
	if !c.valid() { // its memory may be something else's
		l.giveBack(a)
		return fail(unix.ENOENT)
	}
	if errno == 0 && c.args[1] != 0 {
		errno = c.writeValue(c.args[1], c.args[2], appendSockaddr(nil, a.t.s.domain, a.t.remote), true)
	}
	if errno != 0 { // as the kernel does it, the connection is lost
		unix.Close(a.fd)
		a.from.abandon()
		return fail(errno)
	}
	a.from.settle(a.t, a.fd)
	v, ok := c.install(a.t.s, a.fd, flags&unix.SOCK_CLOEXEC != 0)
	if ok {
		unix.Close(a.fd)
		a.from.follow(a.t) // now an error finds the descriptor
		return v
	}
	l.giveBack(a)
	return v
}

// giveBack keeps a connection for the next call, if there is to be one.
func (l *listening) giveBack(a accepted) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		unix.Close(a.fd)
		a.from.abandon()
		return
	}
	l.returned = append(l.returned, a)
}

// next takes a connection out of the queue of the listening descriptor fd. All accepts of a listener
// come here, so one that poll shows stays there.
func (l *listening) next(fd int) (accepted, syscall.Errno) {
	l.mu.Lock()
	if len(l.returned) > 0 {
		a := l.returned[0]
		l.returned = l.returned[1:]
		l.mu.Unlock()
		return a, 0
	}
	if !readable(fd) {
		l.mu.Unlock()
		return accepted{}, unix.EAGAIN
	}
	nfd, peer, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	close(l.room)
	l.room = make(chan struct{})
	var from *arrival
	if ua, ok := peer.(*unix.SockaddrUnix); ok {
		from = l.arrived[ua.Name]
		delete(l.arrived, ua.Name)
	}
	l.mu.Unlock()
	switch {
	case err == unix.EAGAIN: // readable and nothing there: the program has shut it down
		return accepted{}, unix.EINVAL
	case err != nil:
		return accepted{}, errnoOf(err)
	}
	if from == nil { // somebody else connected to the unix socket
		unix.Close(nfd)
		return accepted{}, unix.ECONNABORTED
	}
	return accepted{nfd, l.accepted(nfd, from), from}, 0
}

// accepted makes the socket of a connection.
func (l *listening) accepted(fd int, from *arrival) *tcp {
	sup, lis := l.sup, l.owner()
	sup.growSendBuffer(fd)
	s := &socket{sup: sup, domain: lis.s.domain, typ: lis.s.typ, proto: lis.s.proto, ino: inodeOf(fd)}
	t := &tcp{
		s: s, far: -1, spare: -1, state: tcpConnected, told: true, session: from.session, flow: from.rep.Flow,
		local: parseWire(from.rep.Local), remote: parseWire(from.rep.Remote), options: lis.inherited(),
	}
	s.kind = t
	return t
}

// inherited are the options that a connection has from its listener.
func (t *tcp) inherited() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.options) == 0 {
		return make(map[string]int)
	}
	return maps.Clone(t.options)
}
