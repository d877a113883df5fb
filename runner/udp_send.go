package runner

import (
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

const (
	// maxUDP4 and maxUDP6 are the longest payloads over IPv4 and IPv6, in bytes.
	maxUDP4 = 65507
	maxUDP6 = 65527
	// maxRequest is the longest datagram that travels in a request: messages are bounded.
	maxRequest = 40 << 10
	// sendTime is how long a send waits for room before its datagram is lost, sendTimeNow one
	// of a socket that does not block: senders slow down as by a slow link.
	sendTime    = time.Second
	sendTimeNow = 20 * time.Millisecond
)

// A sending is a datagram on its way out. to is not valid without an address of the program's.
type sending struct {
	data   []byte
	to     netip.AddrPort
	extra  ancillary
	flags  int
	nowait bool
}

// destination reads the address of a send. AF_INET6 sockets take AF_INET addresses, and AF_INET
// ones AF_UNSPEC (udp_sendmsg, udpv6_sendmsg).
func (c *call) destination(addr, length uint64, domain int) (netip.AddrPort, syscall.Errno) {
	n := int(int32(length))
	if n < 0 || n > maxSockaddr {
		return netip.AddrPort{}, unix.EINVAL
	}
	b := make([]byte, n)
	if errno := c.read(addr, b); errno != 0 {
		return netip.AddrPort{}, errno
	}
	if n >= sizeIn4 {
		switch family := hostOrder.Uint16(b); {
		case domain == unix.AF_INET6 && family == unix.AF_INET:
			domain = unix.AF_INET
		case domain == unix.AF_INET && family == unix.AF_UNSPEC:
			hostOrder.PutUint16(b, unix.AF_INET)
		}
	}
	to, errno := parseSockaddr(b, domain)
	if errno == 0 && to.family == unix.AF_UNSPEC {
		return netip.AddrPort{}, 0
	}
	return to.addr, errno
}

func (u *udp) sendto(c *call) verdict {
	flags := int(int32(c.args[3]))
	if c.args[2] >= maxFrame {
		return fail(unix.EMSGSIZE)
	}
	if c.args[4] == 0 && flags&unix.MSG_OOB == 0 {
		return native
	}
	s := &sending{data: make([]byte, c.args[2]), flags: flags}
	if errno := c.read(c.args[1], s.data); errno != 0 {
		return fail(errno)
	}
	if c.args[4] != 0 {
		var errno syscall.Errno
		if s.to, errno = c.destination(c.args[4], c.args[5], u.s.domain); errno != 0 {
			return fail(errno)
		}
	}
	return u.send(c, s)
}

// send sends a datagram, at once where that can be.
func (u *udp) send(c *call, s *sending) verdict {
	s.nowait = s.flags&unix.MSG_DONTWAIT != 0 || c.nonblocking()
	if u.changing.TryLock() {
		errno, done := u.sendNow(c.fd, s)
		u.changing.Unlock()
		if done {
			return answerLen(errno, len(s.data))
		}
	}
	d := c.detached()
	return c.once(func() verdict { return answerLen(u.sendLater(d, s), len(s.data)) })
}

// sendNow sends if that needs no waiting. changing is held.
func (u *udp) sendNow(fd int, s *sending) (errno syscall.Errno, done bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	limit := maxUDP4
	if a := s.to.Addr(); u.s.domain == unix.AF_INET6 && !a.Is4() && !a.Is4In6() && !u.remote.Addr().Is4In6() {
		limit = maxUDP6
	}
	connected := u.far >= 0
	switch {
	case s.flags&unix.MSG_OOB != 0:
		return unix.EOPNOTSUPP, true
	case len(s.data) > limit:
		return unix.EMSGSIZE, true
	case !s.to.IsValid() && !connected:
		return unix.EDESTADDRREQ, true
	case s.to.IsValid() && s.to.Port() == 0:
		return unix.EINVAL, true
	case s.to.Addr().Is4In6() && u.options["ipv6.v6only"] != 0:
		return unix.ENETUNREACH, true
	case s.to.Addr().Unmap() == broadcast && u.options["so.broadcast"] == 0:
		return unix.EACCES, true
	case u.tooLong(len(s.data), s.to):
		return unix.EMSGSIZE, true
	}
	if connected {
		if errno := u.takeError(fd); errno != 0 {
			return errno, true
		}
	}
	if s.extra.from.IsValid() && s.extra.from == u.local.Addr().Unmap() {
		s.extra.from = netip.Addr{}
	}
	plain := s.extra == (ancillary{})
	switch {
	case u.flow == 0:
		return 0, false
	case connected && plain && (!s.to.IsValid() || samePeer(s.to, u.remote)):
		_, err := unix.SendmsgN(fd, s.data, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err == unix.EAGAIN {
			return 0, false
		}
		return errnoOf(err), true
	case u.pipe == nil || !plain || !u.known[s.to]:
		return 0, false
	}
	err := u.pipe.send(0, appendFrame(nil, s.to), s.data)
	if err == unix.EAGAIN {
		return 0, false
	}
	return sendErrno(err), true
}

// sendErrno is the errno for an error of a pipe, whose other end is the daemon.
func sendErrno(err error) syscall.Errno {
	if err != nil && err != unix.EMSGSIZE && err != unix.ENOBUFS {
		return unix.ENETDOWN
	}
	return errnoOf(err)
}

// samePeer compares addresses as the wire does.
func samePeer(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && a.Addr().Unmap() == b.Addr().Unmap()
}

// sendLater sends from a goroutine.
func (u *udp) sendLater(c *call, s *sending) syscall.Errno {
	u.changing.Lock()
	defer u.changing.Unlock()
	limit := sendTime
	if s.nowait {
		limit = sendTimeNow
	}
	if errno := u.ensureOpen(c); errno != 0 {
		return errno
	}
	u.mu.Lock()
	far, p, remote := u.far, u.pipe, u.remote
	known := u.known[s.to]
	u.mu.Unlock()
	if !s.to.IsValid() {
		s.to = remote
	}
	if far >= 0 && samePeer(s.to, remote) && s.extra == (ancillary{}) {
		// The queue towards the daemon is full.
		v := c.retryFor(limit, func(fd int) (int, error) {
			return unix.SendmsgN(fd, s.data, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		})
		return v
	}
	plain := s.extra == (ancillary{})
	if p != nil && plain && (known || len(s.data) > maxRequest) {
		switch err := p.send(limit, appendFrame(nil, s.to), s.data); {
		case err == unix.EAGAIN, isTimeout(err):
			return 0 // lost on the way, as by a queue that is full
		default:
			return sendErrno(err)
		}
	}
	if len(s.data) > maxRequest {
		return unix.EMSGSIZE
	}
	r := control.Request{Op: "send", Address: wireAddr(s.to), Data: s.data, Value: s.extra.ttl}
	if s.extra.from.IsValid() {
		r.Local = s.extra.from.String()
	}
	_, errno := u.request(r)
	if errno == 0 && plain {
		u.mu.Lock()
		if len(u.known) >= maxKnown {
			clear(u.known)
		}
		u.known[s.to] = true
		u.mu.Unlock()
	}
	return errno
}

// wireAddr is an address as control's requests that take no names have it.
func wireAddr(a netip.AddrPort) string {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}

// retryFor makes a send on the program's descriptor once there is room, for so long.
func (c *call) retryFor(limit time.Duration, try func(fd int) (int, error)) syscall.Errno {
	end := time.Now().Add(limit)
	for c.valid() && time.Now().Before(end) {
		err := c.withFD(func(fd int) error {
			p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			_, _ = unix.Poll(p[:], int(min(limit, 100*time.Millisecond)/time.Millisecond))
			_, err := try(fd)
			return err
		})
		if err != unix.EAGAIN && err != unix.EINTR {
			return errnoOf(err)
		}
	}
	return 0 // lost
}

// readSending reads the message of a sendmsg. native says that the kernel can send it itself.
func (u *udp) readSending(c *call, addr uint64, flags int) (s *sending, native bool, errno syscall.Errno) {
	m, errno := c.readMessage(addr)
	if errno != 0 {
		return nil, false, errno
	}
	u.mu.Lock()
	connected, failed := u.far >= 0 && u.flow != 0, u.err != 0
	whole := u.whole.four || u.whole.six
	u.mu.Unlock()
	if m.name == 0 && m.controlLen == 0 && connected && !failed && flags&unix.MSG_OOB == 0 && m.room() <= maxUDP4 && !whole {
		return nil, true, 0
	}
	s = &sending{flags: flags}
	if s.extra, errno = m.readAncillary(c, u.s.domain); errno != 0 {
		return nil, false, errno
	}
	if m.name != 0 && m.nameLen != 0 {
		if s.to, errno = c.destination(m.name, uint64(m.nameLen), u.s.domain); errno != 0 {
			return nil, false, errno
		}
	}
	s.data, errno = m.gather(c)
	return s, false, errno
}

func (u *udp) sendmsg(c *call) verdict {
	s, isNative, errno := u.readSending(c, c.args[1], int(int32(c.args[2])))
	switch {
	case errno != 0:
		return fail(errno)
	case isNative:
		return native
	}
	return u.send(c, s)
}

// sendmmsg sends several datagrams up to the first that does not work, whose error the call
// tells only if it is the first of all.
func (u *udp) sendmmsg(c *call) verdict {
	n := int(min(c.args[2], maxIov))
	flags := int(int32(c.args[3]))
	list := make([]*sending, 0, n)
	allNative := true
	for i := range n {
		s, isNative, errno := u.readSending(c, c.args[1]+uint64(i)*mmsgSize, flags)
		if errno != 0 {
			if i == 0 {
				return fail(errno)
			}
			break
		}
		allNative = allNative && isNative
		if isNative {
			m, errno := c.readMessage(c.args[1] + uint64(i)*mmsgSize)
			if errno != 0 {
				return fail(errno)
			}
			s = &sending{flags: flags}
			if s.data, errno = m.gather(c); errno != 0 {
				return fail(errno)
			}
		}
		s.nowait = flags&unix.MSG_DONTWAIT != 0 || c.nonblocking()
		list = append(list, s)
	}
	if allNative || n == 0 {
		return native
	}
	d := c.detached()
	return c.once(func() verdict {
		for i, s := range list {
			errno, done := syscall.Errno(0), false
			if u.changing.TryLock() {
				if err := d.withFD(func(fd int) error {
					errno, done = u.sendNow(fd, s)
					return nil
				}); err != nil {
					errno, done = unix.EBADF, true
				}
				u.changing.Unlock()
			}
			if !done {
				errno = u.sendLater(d, s)
			}
			if errno == 0 {
				errno = d.writeInt(c.args[1]+uint64(i)*mmsgSize+msgSize, len(s.data))
			}
			if errno != 0 {
				if i == 0 {
					return fail(errno)
				}
				return ret(i)
			}
		}
		return ret(len(list))
	})
}
