package runner

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A receive is a call that takes a datagram: recvfrom, or recvmsg, or one message of recvmmsg.
type receive struct {
	d     *dgram
	c     *call
	flags int
	// room is how many bytes the program has for the datagram.
	room int
	// stamped says that the datagram has to pass through the unix socket, which adds the time.
	stamped bool
	// msg is recvmsg's and recvmmsg's, else nil.
	msg  *message
	held *heldCall
	// until is when the call ends without a datagram, zero for never.
	until time.Time
}

// receiveFlags are the flags of a receive that the unix socket gets.
const receiveFlags = unix.MSG_PEEK

// take receives a datagram from the unix socket without waiting.
func (d *dgram) take(fd, flags, room int) (inbound, syscall.Errno) {
	b := make([]byte, min(room, maxFrame))
	var oob [256]byte
	n, oobn, _, from, err := unix.Recvmsg(fd, b, oob[:], flags&receiveFlags|unix.MSG_DONTWAIT|unix.MSG_TRUNC|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return inbound{}, errnoOf(err)
	}
	in := inbound{data: b[:min(n, len(b))], length: n, control: plainControl(oob[:oobn])}
	d.mu.Lock()
	in.from = d.remote
	in.to = d.local.Addr()
	d.mu.Unlock()
	if ua, ok := from.(*unix.SockaddrUnix); ok {
		if key, ok := d.s.sup.voices.who(ua.Name); ok {
			in.from, in.to, in.ttl, in.tos = key.from, key.to, key.ttl, key.tos
		}
	}
	return in, 0
}

// plainControl keeps the control messages that make sense on any socket: timestamps.
func plainControl(oob []byte) []byte {
	var out []byte
	for len(oob) >= unix.SizeofCmsghdr {
		h, _, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return out
		}
		if n := len(oob) - len(rest); h.Level == unix.SOL_SOCKET && h.Type != unix.SCM_RIGHTS && h.Type != unix.SCM_CREDENTIALS {
			out = append(out, oob[:n]...)
		}
		oob = rest
	}
	return out
}

// receive answers a call that takes a datagram.
func (d *dgram) receive(r *receive) verdict {
	c := r.c
	if r.flags&unix.MSG_ERRQUEUE != 0 {
		return d.receiveError(r)
	}
	d.mu.Lock()
	errno := d.takeError(c.fd)
	connected := d.far >= 0
	r.stamped = d.queued || d.options["kept.stamp"] != 0
	wants := d.wantsControl()
	d.mu.Unlock()
	switch {
	case errno != 0:
		return fail(errno)
	case connected && (r.msg == nil || r.msg.controlLen == 0 || !wants) &&
		(readable(c.fd) || r.flags&unix.MSG_DONTWAIT != 0 || c.nonblocking()):
		return answerOr(r.prefill(), native)
	}
	in, errno := d.take(c.fd, r.flags, r.room)
	switch {
	case errno == 0:
		return r.result(in)
	case errno != unix.EAGAIN || r.flags&unix.MSG_DONTWAIT != 0 || c.nonblocking():
		return fail(errno)
	}
	limit := receiveTime(c.fd)
	if connected {
		r.c = c.detached()
		return c.later(func() verdict { return r.poll(limit) })
	}
	r.hold(limit)
	d.wakeIfReadable(c.fd)
	return later
}

// receiveTime is SO_RCVTIMEO, 0 for none.
func receiveTime(fd int) time.Duration {
	tv, err := unix.GetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO)
	if err != nil {
		return 0
	}
	return time.Duration(tv.Nano())
}

// prefill writes the peer's address for a receive that the kernel makes: with no room for
// it, it leaves it alone and tells the length of the unix socket's, which is the same.
func (r *receive) prefill() syscall.Errno {
	d, c := r.d, r.c
	d.mu.Lock()
	b := appendSockaddr(nil, d.s.domain, d.remote)
	d.mu.Unlock()
	if r.msg != nil {
		if r.msg.name == 0 {
			return 0
		}
		if errno := c.write(r.msg.name, b[:min(len(b), int(r.msg.nameLen))]); errno != 0 {
			return errno
		}
		return c.writeInt(r.msg.addr+msgNamelen, 0)
	}
	if c.args[4] == 0 || c.args[5] == 0 {
		return 0
	}
	room, errno := c.readInt(c.args[5])
	switch {
	case errno != 0:
		return errno
	case room < 0:
		return unix.EINVAL
	}
	if errno := c.write(c.args[4], b[:min(len(b), room)]); errno != 0 {
		return errno
	}
	return c.writeInt(c.args[5], 0)
}

// poll waits for a datagram that comes by the kernel's own way.
func (r *receive) poll(limit time.Duration) verdict {
	var end time.Time
	if limit > 0 {
		end = time.Now().Add(limit)
	}
	for r.c.valid() && r.d.s.sup.ctx.Err() == nil {
		v := fail(unix.EAGAIN)
		err := r.c.withFD(func(fd int) error {
			p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			_, _ = unix.Poll(p[:], 100)
			r.d.mu.Lock()
			errno := r.d.takeError(fd)
			r.d.mu.Unlock()
			if errno != 0 {
				v = fail(errno)
				return nil
			}
			in, errno := r.d.take(fd, r.flags, r.room)
			if v = fail(errno); errno == 0 {
				v = r.result(in)
			}
			return nil
		})
		if err != nil || v.errno != unix.EAGAIN || limit > 0 && time.Now().After(end) {
			return v
		}
	}
	return fail(unix.EINTR)
}

// hold makes the call wait for deliver.
func (r *receive) hold(limit time.Duration) {
	d := r.d
	r.c = r.c.detached()
	if limit > 0 {
		r.until = time.Now().Add(limit)
	}
	r.held = d.s.sup.held.hold(r.c)
	d.mu.Lock()
	d.waiting = append(d.waiting, r)
	d.mu.Unlock()
	if limit > 0 {
		time.AfterFunc(limit, func() {
			if d.unwait(r) {
				r.answer(fail(unix.EAGAIN))
			}
		})
	}
}

func (d *dgram) unwait(r *receive) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, other := range d.waiting {
		if other == r {
			d.waiting = append(d.waiting[:i:i], d.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// answer ends a call that waited.
func (r *receive) answer(v verdict) bool {
	r.d.s.sup.held.done(r.held)
	return r.c.send(v)
}

// finish gives a waiting call its datagram. false says that nobody waits any more.
func (r *receive) finish(in inbound) bool {
	run := r.claim()
	return run != nil && r.c.sup.restarts.settle(run, r.result(in), false)
}

// claim is before what a waiting call does with a datagram, until settle: made again meanwhile, the
// call must not take another into the same memory. nil says that nobody waits any more.
func (r *receive) claim() *running {
	run := r.c.sup.restarts.claim(r.c)
	r.c.sup.held.done(r.held)
	return run
}

// again lets a call wait on for which nothing was there, and reports whether there is something now.
func (r *receive) again(run *running) (more bool) {
	next := *r
	next.c = r.d.s.sup.restarts.release(run)
	var limit time.Duration
	if !r.until.IsZero() {
		limit = max(time.Until(r.until), 1)
	}
	next.hold(limit)
	_ = next.c.withFD(func(fd int) error {
		more = readable(fd)
		return nil
	})
	return more
}

// wake lets the calls that wait look into the unix socket's queue.
func (d *dgram) wake() {
	for {
		r := d.popWaiting()
		if r == nil {
			return
		}
		run := r.claim()
		if run == nil {
			continue
		}
		v := fail(unix.EBADF)
		err := r.c.withFD(func(fd int) error {
			in, errno := d.take(fd, r.flags, r.room)
			if v = fail(errno); errno == 0 {
				v = r.result(in)
			}
			return nil
		})
		if err == nil && v.errno == unix.EAGAIN {
			if r.again(run) {
				continue // a datagram has come in between
			}
			return
		}
		d.s.sup.restarts.settle(run, v, true)
	}
}

func (d *dgram) wakeIfReadable(fd int) {
	if readable(fd) {
		d.wake()
	}
}

// handOver lets the kernel make the receives that wait, once the socket is connected.
func (d *dgram) handOver() {
	for r := d.popWaiting(); r != nil; r = d.popWaiting() {
		d.mu.Lock()
		wants := d.wantsControl()
		d.mu.Unlock()
		if r.msg != nil && r.msg.controlLen > 0 && wants {
			d.s.sup.held.done(r.held)
			r.c.later(func() verdict { return r.poll(0) })
			continue
		}
		r.answer(answerOr(r.prefill(), native))
	}
}

// result writes a datagram to the program's memory and tells what the call returns.
func (r *receive) result(in inbound) verdict {
	c := r.c
	if in.length == 0 {
		in.length = len(in.data)
	}
	n := min(len(in.data), r.room)
	out := n
	if r.flags&unix.MSG_TRUNC != 0 {
		out = in.length
	}
	name := appendSockaddr(nil, r.d.s.domain, in.from)
	if r.msg != nil {
		return answerLen(r.msg.fill(c, in.data[:n], name, r.d.controlOf(in), in.length > n, 0), out)
	}
	if errno := c.write(c.args[1], in.data[:n]); errno != 0 {
		return fail(errno)
	}
	if c.args[4] != 0 {
		if errno := c.writeValue(c.args[4], c.args[5], name, true); errno != 0 {
			return fail(errno)
		}
	}
	return ret(out)
}

func answerLen(errno syscall.Errno, n int) verdict {
	if errno != 0 {
		return fail(errno)
	}
	return ret(n)
}

func (d *dgram) recvfrom(c *call) verdict {
	r := &receive{d: d, c: c, flags: int(int32(c.args[3])), room: int(min(c.args[2], maxFrame))}
	if c.args[4] == 0 && r.flags&(unix.MSG_ERRQUEUE|unix.MSG_OOB) == 0 {
		d.mu.Lock()
		connected, errno := d.far >= 0, d.takeError(c.fd)
		d.mu.Unlock()
		if errno != 0 {
			return fail(errno)
		}
		if connected {
			return native
		}
	}
	return d.receive(r)
}

func (d *dgram) recvmsg(c *call) verdict {
	m, errno := c.readMessage(c.args[1])
	if errno != 0 {
		return fail(errno)
	}
	return d.receive(&receive{d: d, c: c, flags: int(int32(c.args[2])), room: m.room(), msg: m})
}

// recvmmsg takes several datagrams: all that are there once the first one is, or with neither
// MSG_WAITFORONE nor MSG_DONTWAIT as many as asked for.
func (d *dgram) recvmmsg(c *call) verdict {
	n := int(min(c.args[2], maxIov))
	flags := int(int32(c.args[3]))
	dontWait := flags&unix.MSG_DONTWAIT != 0 || c.nonblocking()
	d.mu.Lock()
	errno := d.takeError(c.fd)
	connected, wants := d.far >= 0, d.wantsControl()
	d.mu.Unlock()
	if errno != 0 {
		return fail(errno)
	}
	list := make([]*receive, n)
	for i := range list {
		m, errno := c.readMessage(c.args[1] + uint64(i)*mmsgSize)
		if errno != 0 {
			return fail(errno)
		}
		list[i] = &receive{d: d, c: c, flags: flags, room: m.room(), msg: m}
		if connected && !wants {
			if errno := list[i].prefill(); errno != 0 {
				return fail(errno)
			}
		}
	}
	if connected && !wants || n == 0 {
		return native
	}
	got, errno := takeSome(list, c.fd)
	if got == n || got > 0 && (dontWait || flags&unix.MSG_WAITFORONE != 0) {
		return ret(got)
	}
	if errno != 0 && errno != unix.EAGAIN || dontWait {
		return fail(errno)
	}
	limit := receiveTime(c.fd)
	if c.args[4] != 0 {
		var ts [16]byte
		if errno := c.read(c.args[4], ts[:]); errno != 0 {
			return fail(errno)
		}
		limit = time.Duration(hostOrder.Uint64(ts[:]))*time.Second + time.Duration(hostOrder.Uint64(ts[8:])) + 1
	}
	for _, r := range list {
		r.c = c.detached()
	}
	return c.later(func() verdict { return pollSome(list, got, limit, flags&unix.MSG_WAITFORONE != 0) })
}

// takeSome takes what is there.
func takeSome(list []*receive, fd int) (n int, errno syscall.Errno) {
	for _, r := range list {
		in, errno := r.d.take(fd, r.flags, r.room)
		if errno != 0 {
			return n, errno
		}
		v := r.result(in)
		if v.errno != 0 {
			return n, v.errno
		}
		if errno := r.c.writeInt(r.msg.addr+msgSize, int(v.val)); errno != 0 {
			return n, errno
		}
		n++
	}
	return n, 0
}

// pollSome waits for the rest of a recvmmsg.
func pollSome(list []*receive, got int, limit time.Duration, one bool) verdict {
	c := list[0].c
	var end time.Time
	if limit > 0 {
		end = time.Now().Add(limit)
	}
	for c.valid() && c.sup.ctx.Err() == nil {
		var errno syscall.Errno
		err := c.withFD(func(fd int) error {
			p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			_, _ = unix.Poll(p[:], 100)
			var n int
			n, errno = takeSome(list[got:], fd)
			got += n
			return nil
		})
		switch {
		case got == len(list), got > 0 && (one || err != nil || errno != unix.EAGAIN):
			return ret(got)
		case err != nil:
			return fail(unix.EBADF)
		case errno != unix.EAGAIN:
			return fail(errno)
		case limit > 0 && time.Now().After(end):
			if got > 0 {
				return ret(got)
			}
			return fail(unix.EAGAIN)
		}
	}
	return fail(unix.EINTR)
}
