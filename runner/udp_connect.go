package runner

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// connect connects the socket, again or to nobody if need be.
func (u *udp) connect(c *call, to sockaddr) verdict {
	u.mu.Lock()
	defer u.mu.Unlock()
	d := c.detached()
	if to.family == unix.AF_UNSPEC {
		if !u.remote.IsValid() {
			return ret(0)
		}
		return c.once(func() verdict {
			u.changing.Lock()
			defer u.changing.Unlock()
			return answer(u.disconnect(d))
		})
	}
	a := to.addr.Addr()
	switch {
	case u.options["ipv6.v6only"] != 0 && a.Is4In6():
		return fail(unix.ENETUNREACH)
	case a.Unmap() == broadcast && u.options["so.broadcast"] == 0:
		return fail(unix.EACCES)
	}
	return c.once(func() verdict {
		u.changing.Lock()
		defer u.changing.Unlock()
		u.mu.Lock()
		have, connected := u.flow != 0 || u.hadFlow(), u.far >= 0
		u.mu.Unlock()
		if have {
			if errno := u.ensureOpen(d); errno != 0 {
				return fail(errno)
			}
		}
		switch {
		case connected:
			return answer(u.connectAnew(d, to.addr))
		case have:
			return answer(u.connectBound(d, to.addr))
		}
		return answer(u.connectFresh(d, to.addr))
	})
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// connectFresh connects a socket that the daemon does not know yet: its peer from the first
// datagram on is the daemon. changing is held.
func (u *udp) connectFresh(c *call, to netip.AddrPort) syscall.Errno {
	far, err := u.newFar(c)
	if err != nil {
		return errnoOf(err)
	}
	rep, session, errno := u.dial(far, netip.AddrPort{}, to)
	if errno != 0 {
		unix.Close(far)
		return errno
	}
	if err = u.join(c, far); err != nil {
		unix.Close(far)
		session.Post(control.Request{Op: "close", Flow: rep.Flow})
		return errnoOf(err)
	}
	u.mu.Lock()
	u.session, u.flow, u.far = session, rep.Flow, far
	u.local, u.remote = parseWire(rep.Local), to
	u.mu.Unlock()
	u.follow(rep)
	u.handOver()
	return 0
}

// dial makes the daemon's socket, connected, with a duplicate of far as its end, and from local if that is
// valid. changing is held.
func (u *udp) dial(far int, local, to netip.AddrPort) (control.Reply, *control.Session, syscall.Errno) {
	theirs, err := unix.FcntlInt(uintptr(far), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return control.Reply{}, nil, unix.ENFILE
	}
	u.mu.Lock()
	r := control.Request{
		Op: "udp", Network: u.network(to.Addr()), Address: sockaddr{addr: to}.wire(), Options: u.optionsFor(to.Addr().Unmap()),
	}
	u.mu.Unlock()
	if local.IsValid() {
		r.Local = sockaddr{addr: local}.wire()
	}
	rep, session, err := u.s.sup.daemon.call(u.s.sup.ctx, r, theirs)
	return rep, session, errnoOf(err)
}

// detach stops the daemon's data path. What it had received is delivered, or held in the
// result if the program's queue has no room. changing is held.
func (u *udp) detach() ([]inbound, syscall.Errno) {
	var held []inbound
	u.mu.Lock()
	p := u.pipe
	u.stash = &held
	u.mu.Unlock()
	_, errno := u.request(control.Request{Op: "detach"})
	if p != nil && errno == 0 {
		<-p.done
		p.file.Close()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stash = nil
	if p != nil && errno == 0 {
		u.pipe = nil
	}
	return held, errno
}

// attachPipe gives the daemon's socket a pipe again, after detach. changing is held.
func (u *udp) attachPipe(held []inbound) syscall.Errno {
	p, theirs, err := newPipe()
	if err != nil {
		return errnoOf(err)
	}
	u.mu.Lock()
	u.pipe = p
	session, flow := u.session, u.flow
	u.mu.Unlock()
	for _, in := range held {
		u.deliver(in)
	}
	session.PostFD(control.Request{Op: "attach", Flow: flow}, theirs)
	u.start(p)
	return 0
}

// connectBound connects a socket that received from anybody before: nothing may get lost in
// between. changing is held.
func (u *udp) connectBound(c *call, to netip.AddrPort) syscall.Errno {
	held, errno := u.detach()
	if errno != 0 {
		return errno
	}
	rep, errno := u.request(control.Request{Op: "connect", Address: sockaddr{addr: to}.wire()})
	if errno != 0 {
		_ = u.attachPipe(held)
		return errno
	}
	errno = u.attachFar(c, to, rep, held)
	if errno == 0 {
		u.handOver()
	}
	return errno
}

// attachFar makes the daemon the program's peer, after detach and connect.
func (u *udp) attachFar(c *call, to netip.AddrPort, rep control.Reply, held []inbound) syscall.Errno {
	far, err := u.newFar(c)
	if err != nil {
		return errnoOf(err)
	}
	theirs, err := unix.FcntlInt(uintptr(far), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		if err = u.join(c, far); err != nil {
			unix.Close(theirs)
		}
	}
	if err != nil {
		unix.Close(far)
		return errnoOf(err)
	}
	u.mu.Lock()
	u.far, u.remote, u.local = far, to, parseWire(rep.Local)
	session, flow := u.session, u.flow
	u.mu.Unlock()
	for _, in := range held {
		u.putConnected(in)
	}
	session.PostFD(control.Request{Op: "attach", Flow: flow}, theirs)
	return 0
}

// connectAnew connects a connected socket to another peer. changing is held.
func (u *udp) connectAnew(c *call, to netip.AddrPort) syscall.Errno {
	u.mu.Lock()
	other := u.network(u.remote.Addr()) != u.network(to.Addr())
	bound := u.wanted.IsValid()
	u.mu.Unlock()
	if other && !bound {
		if errno := u.disconnect(c); errno != 0 {
			return errno
		}
		return u.connectFresh(c, to)
	}
	if _, errno := u.detach(); errno != 0 {
		return errno
	}
	rep, errno := u.request(control.Request{Op: "connect", Address: sockaddr{addr: to}.wire()})
	if errno != 0 {
		// As in the kernel it stays connected as it was.
		u.mu.Lock()
		was := u.remote
		u.mu.Unlock()
		if again, e := u.request(control.Request{Op: "connect", Address: sockaddr{addr: was}.wire()}); e == 0 {
			_ = u.attachFar(c, was, again, u.leave(c))
		}
		return errno
	}
	return u.attachFar(c, to, rep, u.leave(c))
}

// disconnect is connect with AF_UNSPEC: the socket keeps its port only if it was bound.
// changing is held.
func (u *udp) disconnect(c *call) syscall.Errno {
	u.mu.Lock()
	bound, lost := u.wanted, u.flow == 0
	u.mu.Unlock()
	var held []inbound
	if !lost {
		var errno syscall.Errno
		if held, errno = u.detach(); errno != 0 {
			return errno
		}
	}
	queue := append(u.leave(c), held...)
	switch {
	case lost:
		u.mu.Lock()
		u.local = bound
		u.mu.Unlock()
	case bound.IsValid():
		if _, errno := u.request(control.Request{Op: "connect", Framed: true}); errno != 0 {
			return errno
		}
		u.mu.Lock()
		u.local = bound
		u.mu.Unlock()
		return u.attachPipe(queue)
	default:
		u.mu.Lock()
		session, flow := u.session, u.flow
		u.flow, u.local = 0, netip.AddrPort{}
		u.mu.Unlock()
		session.Post(control.Request{Op: "close", Flow: flow})
	}
	for _, in := range queue {
		u.deliver(in)
	}
	return 0
}
