package runner

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// maxCopy bounds the bytes of one send or receive that the supervisor makes itself.
const maxCopy = 64 << 10

// maxIov is the most pieces a message has (UIO_MAXIOV in include/uapi/linux/uio.h).
const maxIov = 1024

// sendto comes with an address, which TCP does not look at once it is connected, or with MSG_OOB: urgent
// data goes in line.
func (t *tcp) sendto(c *call) verdict {
	flags := int(int32(c.args[3]))
	if flags&unix.MSG_FASTOPEN != 0 {
		return fail(unix.EOPNOTSUPP) // as with the client's side of TCP Fast Open off; programs connect then
	}
	return t.copyOut(c, c.args[1], c.args[2], flags)
}

// copyOut sends bytes of the program's without an address and without MSG_OOB. A stream may
// take a part.
func (t *tcp) copyOut(c *call, addr, length uint64, flags int) verdict {
	b := make([]byte, min(length, maxCopy))
	if errno := c.read(addr, b); errno != 0 {
		return fail(errno)
	}
	flags &^= unix.MSG_OOB
	n, err := unix.SendmsgN(c.fd, b, nil, nil, flags|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	switch {
	case err == nil:
		return ret(n)
	case err == unix.ENOTCONN:
		return fail(unix.EPIPE)
	case err == unix.EAGAIN && flags&unix.MSG_DONTWAIT == 0 && !c.nonblocking():
		d := c.detached()
		return c.later(func() verdict {
			return d.retry(unix.POLLOUT, func(fd int) (int, error) {
				return unix.SendmsgN(fd, b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			})
		})
	}
	return fail(errnoOf(err))
}

// recvfrom comes with a place for the sender's address, which TCP does not fill, or with
// a flag that a unix socket does not have.
func (t *tcp) recvfrom(c *call) verdict {
	flags := int(int32(c.args[3]))
	switch {
	case flags&unix.MSG_ERRQUEUE != 0:
		return fail(unix.EAGAIN)
	case flags&unix.MSG_OOB != 0:
		return fail(unix.EINVAL) // no urgent data: it comes in line
	case flags&unix.MSG_TRUNC != 0:
		return t.discard(c, c.args[2], flags)
	}
	if c.args[4] != 0 && c.args[5] != 0 {
		// With no room for it the kernel leaves the unix socket's address out.
		if errno := c.writeInt(c.args[5], 0); errno != 0 {
			return fail(errno)
		}
	}
	return native
}

// discard is a receive with MSG_TRUNC: TCP throws the bytes away (tcp(7)).
func (t *tcp) discard(c *call, length uint64, flags int) verdict {
	b := make([]byte, min(length, maxCopy))
	take := func(fd int) (int, error) {
		n, _, err := unix.Recvfrom(fd, b, flags&^unix.MSG_TRUNC|unix.MSG_DONTWAIT)
		return n, err
	}
	n, err := take(c.fd)
	switch {
	case err == nil:
		return ret(n)
	case err == unix.EAGAIN && flags&unix.MSG_DONTWAIT == 0 && !c.nonblocking():
		d := c.detached()
		return c.later(func() verdict { return d.retry(unix.POLLIN, take) })
	}
	return fail(errnoOf(err))
}

// retry makes a call of the program's on a duplicate of its descriptor once that is ready, until
// it does not answer EAGAIN or the program waits no longer.
func (c *call) retry(events int16, try func(fd int) (int, error)) verdict {
	for c.valid() && c.sup.ctx.Err() == nil {
		var n int
		err := c.withFD(func(fd int) (err error) {
			p := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
			_, _ = unix.Poll(p[:], 100) // then it looks whether the program still waits
			n, err = try(fd)
			return err
		})
		switch err {
		case nil:
			return ret(n)
		case unix.EAGAIN, unix.EINTR:
			continue
		}
		return fail(errnoOf(err))
	}
	return fail(unix.EINTR)
}

// Offsets in struct user_msghdr of 64-bit Linux (include/linux/socket.h).
const (
	msgName    = 0
	msgNamelen = 8
	msgIov     = 16
	msgIovlen  = 24
	msgSize    = 56
)

func (t *tcp) sendmsg(c *call) verdict {
	flags := int(int32(c.args[2]))
	if flags&unix.MSG_FASTOPEN != 0 {
		return fail(unix.EOPNOTSUPP)
	}
	var h [msgSize]byte
	if errno := c.read(c.args[1], h[:]); errno != 0 {
		return fail(errno)
	}
	name := hostOrder.Uint64(h[msgName:])
	if (name == 0 || hostOrder.Uint32(h[msgNamelen:]) == 0) && flags&unix.MSG_OOB == 0 {
		return native
	}
	// A stream may take a part: the first piece that has bytes.
	n := min(hostOrder.Uint64(h[msgIovlen:]), maxIov)
	for i := range n {
		var iov [16]byte
		if errno := c.read(hostOrder.Uint64(h[msgIov:])+16*i, iov[:]); errno != 0 {
			return fail(errno)
		}
		if length := hostOrder.Uint64(iov[8:]); length > 0 {
			return t.copyOut(c, hostOrder.Uint64(iov[:]), length, flags)
		}
	}
	return ret(0)
}

func (t *tcp) recvmsg(c *call) verdict {
	flags := int(int32(c.args[2]))
	switch {
	case flags&unix.MSG_ERRQUEUE != 0:
		return fail(unix.EAGAIN)
	case flags&unix.MSG_OOB != 0:
		return fail(unix.EINVAL)
	}
	return answerOr(t.hideName(c, c.args[1]), native)
}

// hideName makes a msghdr of the program's have no room for the sender's address.
func (t *tcp) hideName(c *call, msg uint64) syscall.Errno {
	var h [msgIov]byte
	if errno := c.read(msg, h[:]); errno != 0 {
		return errno
	}
	if hostOrder.Uint64(h[msgName:]) == 0 {
		return 0
	}
	return c.writeInt(msg+msgNamelen, 0)
}

func answerOr(errno syscall.Errno, v verdict) verdict {
	if errno != 0 {
		return fail(errno)
	}
	return v
}

func (t *tcp) sendmmsg(*call) verdict { return native }

func (t *tcp) recvmmsg(c *call) verdict {
	n := min(uint64(uint32(c.args[2])), maxIov)
	for i := range n {
		if errno := t.hideName(c, c.args[1]+i*(msgSize+8)); errno != 0 {
			return fail(errno)
		}
	}
	return native
}
