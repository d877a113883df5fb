package runner

import (
	"encoding/binary"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fateTime is how long a send waits for the daemon to tell what became of the message.
const fateTime = 5 * time.Second

// connect makes the program's unix socket a peer of one of ours, from which the relay gets
// what it writes.
func (i *icmp) connect(c *call, to sockaddr) verdict {
	d := c.detached()
	return c.once(func() verdict {
		i.changing.Lock()
		defer i.changing.Unlock()
		if errno := i.ensureOpen(d); errno != 0 {
			return fail(errno)
		}
		i.mu.Lock()
		connected := i.far >= 0
		if to.family == unix.AF_UNSPEC {
			i.remote = netip.AddrPort{}
		} else {
			i.remote = netip.AddrPortFrom(to.addr.Addr(), 0)
		}
		i.mu.Unlock()
		switch {
		case to.family == unix.AF_UNSPEC && connected:
			i.mu.Lock()
			i.source.Close()
			i.source = nil
			i.mu.Unlock()
			for _, in := range i.leave(d) {
				i.deliver(in)
			}
			return ret(0)
		case to.family == unix.AF_UNSPEC || connected:
			return ret(0)
		}
		return answer(errnoOf(i.plug(d)))
	})
}

// plug connects the program's unix socket and reads what comes from it.
func (i *icmp) plug(c *call) error {
	far, err := i.newFar(c)
	if err != nil {
		return err
	}
	own, err := unix.FcntlInt(uintptr(far), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		if err = i.join(c, far); err != nil {
			unix.Close(own)
		}
	}
	if err != nil {
		unix.Close(far)
		return err
	}
	source := os.NewFile(uintptr(own), "messages")
	rc, err := source.SyscallConn()
	if err != nil {
		source.Close()
		unix.Close(far)
		return err
	}
	i.mu.Lock()
	i.far, i.source = far, source
	i.mu.Unlock()
	i.handOver()
	i.s.sup.wg.Add(1)
	go func() {
		defer i.s.sup.wg.Done()
		i.forwardWritten(rc)
	}()
	return nil
}

// forwardWritten sends what the program writes without an address.
func (i *icmp) forwardWritten(rc syscall.RawConn) {
	buf := frames.Get().(*[]byte)
	defer frames.Put(buf)
	for {
		var n int
		var err error
		if rerr := rc.Read(func(fd uintptr) bool {
			n, _, err = unix.Recvfrom(int(fd), *buf, unix.MSG_DONTWAIT)
			return err != unix.EAGAIN
		}); rerr != nil {
			return
		}
		if err == unix.ECONNRESET || err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		i.mu.Lock()
		to := i.remote.Addr()
		i.mu.Unlock()
		if errno := i.transmit(append([]byte(nil), (*buf)[:n]...), to); errno != 0 {
			i.fail(errno)
		}
	}
}

// transmit sends one message and waits for its fate.
func (i *icmp) transmit(msg []byte, to netip.Addr) syscall.Errno {
	if !to.IsValid() {
		return unix.EDESTADDRREQ
	}
	to = to.Unmap()
	if len(msg) < 8 {
		return unix.EINVAL
	}
	i.mu.Lock()
	if !i.raw {
		echo := byte(echo4)
		if i.six {
			echo = echo6
		}
		if msg[0] != echo || msg[1] != 0 {
			i.mu.Unlock()
			return unix.EINVAL
		}
		binary.BigEndian.PutUint16(msg[4:], i.id)
	}
	if to == broadcast && i.options["so.broadcast"] == 0 {
		i.mu.Unlock()
		return unix.EACCES
	}
	p := i.pipe
	if p == nil {
		i.mu.Unlock()
		return unix.ENETDOWN
	}
	i.last++
	seq := i.last
	told := make(chan syscall.Errno, 1)
	i.sent[seq] = told
	i.mu.Unlock()
	defer func() {
		i.mu.Lock()
		delete(i.sent, seq)
		i.mu.Unlock()
	}()
	if err := p.send(fateTime, appendICMPFrame(nil, to, seq), msg); err != nil {
		if isTimeout(err) || err == unix.EAGAIN {
			return unix.ENOBUFS
		}
		return errnoOf(err)
	}
	t := time.NewTimer(fateTime)
	defer t.Stop()
	select {
	case errno := <-told:
		return errno
	case <-t.C:
		return unix.ENOBUFS
	case <-p.done:
		return unix.ENETDOWN
	}
}

// appendICMPFrame appends the header of a message to the daemon.
func appendICMPFrame(b []byte, to netip.Addr, seq uint64) []byte {
	var h [icmpFrameLen]byte
	h[0] = frameData
	binary.BigEndian.PutUint64(h[8:], seq)
	if to.Is4() {
		h[1] = 4
		a := to.As4()
		copy(h[40:], a[:])
	} else {
		h[1] = 6
		a := to.As16()
		copy(h[40:], a[:])
	}
	return append(b, h[:]...)
}

// send is every way to send with an address.
func (i *icmp) send(c *call, msg []byte, to netip.AddrPort, flags int) verdict {
	if flags&unix.MSG_OOB != 0 {
		return fail(unix.EOPNOTSUPP)
	}
	i.mu.Lock()
	errno := i.takeError(c.fd)
	if !to.IsValid() {
		to = i.remote
	}
	i.mu.Unlock()
	switch {
	case errno != 0:
		return fail(errno)
	case !to.IsValid():
		return fail(unix.EDESTADDRREQ)
	case i.six != (to.Addr().Is6() && !to.Addr().Is4In6()):
		return fail(unix.EINVAL)
	}
	d := c.detached()
	return c.once(func() verdict {
		i.changing.Lock()
		errno := i.ensureOpen(d)
		i.changing.Unlock()
		if errno == 0 {
			errno = i.transmit(msg, to.Addr())
		}
		return answerLen(errno, len(msg))
	})
}

func (i *icmp) sendto(c *call) verdict {
	if c.args[2] >= maxFrame {
		return fail(unix.EMSGSIZE)
	}
	msg := make([]byte, c.args[2])
	if errno := c.read(c.args[1], msg); errno != 0 {
		return fail(errno)
	}
	var to netip.AddrPort
	if c.args[4] != 0 {
		var errno syscall.Errno
		if to, errno = c.destination(c.args[4], c.args[5], i.s.domain); errno != 0 {
			return fail(errno)
		}
	}
	return i.send(c, msg, to, int(int32(c.args[3])))
}

func (i *icmp) sendmsg(c *call) verdict {
	msg, to, errno := i.readOne(c, c.args[1])
	if errno != 0 {
		return fail(errno)
	}
	return i.send(c, msg, to, int(int32(c.args[2])))
}

func (i *icmp) readOne(c *call, addr uint64) (msg []byte, to netip.AddrPort, errno syscall.Errno) {
	m, errno := c.readMessage(addr)
	if errno != 0 {
		return nil, to, errno
	}
	if _, errno = m.readAncillary(c, i.s.domain); errno != 0 {
		return nil, to, errno
	}
	if m.name != 0 && m.nameLen != 0 {
		if to, errno = c.destination(m.name, uint64(m.nameLen), i.s.domain); errno != 0 {
			return nil, to, errno
		}
	}
	msg, errno = m.gather(c)
	return msg, to, errno
}

// sendmmsg sends the first message only: callers go on with the rest.
func (i *icmp) sendmmsg(c *call) verdict {
	if c.args[2] == 0 {
		return ret(0)
	}
	msg, to, errno := i.readOne(c, c.args[1])
	if errno != 0 {
		return fail(errno)
	}
	i.mu.Lock()
	if !to.IsValid() {
		to = i.remote
	}
	i.mu.Unlock()
	d := c.detached()
	return c.once(func() verdict {
		i.changing.Lock()
		errno := i.ensureOpen(d)
		i.changing.Unlock()
		if errno == 0 {
			errno = i.transmit(msg, to.Addr())
		}
		if errno == 0 {
			errno = d.writeInt(c.args[1]+msgSize, len(msg))
		}
		return answerLen(errno, 1)
	})
}

// Options of raw sockets (include/uapi/linux/icmp.h, icmpv6.h, in6.h).
const (
	solRaw       = 255
	icmpFilter   = 1
	ipv6Checksum = 7
)

func (i *icmp) setOption(c *call, level, name int, value []byte) verdict {
	switch {
	case i.raw && !i.six && level == solRaw && name == icmpFilter:
		if len(value) < 4 {
			return fail(unix.EINVAL)
		}
		mask := hostOrder.Uint32(value)
		i.mu.Lock()
		defer i.mu.Unlock()
		for typ := range 32 {
			i.blocked[typ] = mask>>typ&1 != 0
		}
		return ret(0)
	case i.raw && i.six && level == unix.IPPROTO_ICMPV6 && name == icmpFilter:
		if len(value) < 32 {
			return fail(unix.EINVAL)
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		for typ := range i.blocked {
			i.blocked[typ] = hostOrder.Uint32(value[typ/32*4:])>>(typ%32)&1 != 0
		}
		return ret(0)
	case i.raw && i.six && name == ipv6Checksum && (level == solRaw || level == unix.IPPROTO_IPV6):
		return ret(0) // the daemon fills it in
	case level == unix.IPPROTO_IPV6 && name == unix.IPV6_2292HOPLIMIT:
		name = unix.IPV6_RECVHOPLIMIT
	}
	return i.dgram.setOption(c, level, name, value)
}
