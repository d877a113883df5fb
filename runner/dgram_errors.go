package runner

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxErrors bounds the errors that wait to be read by MSG_ERRQUEUE.
const maxErrors = 64

// A queuedError is what MSG_ERRQUEUE reads of one ICMP error (IP_RECVERR in ip(7)).
type queuedError struct {
	errno     syscall.Errno
	typ, code byte
	// info is the MTU of a "packet too big", else 0.
	info uint32
	// local says that it comes from no message, but from the stack itself.
	local bool
	// from sent the error; to is where the datagram went that caused it, and data what the
	// error tells of its payload.
	from netip.Addr
	to   netip.AddrPort
	data []byte
}

// Origins of struct sock_extended_err (include/uapi/linux/errqueue.h).
const (
	originLocal = 1
	originICMP  = 2
	originICMP6 = 3
)

// queue notes an error for MSG_ERRQUEUE.
func (d *dgram) queue(e queuedError) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.errors) < maxErrors {
		e.data = append([]byte(nil), e.data...)
		d.errors = append(d.errors, e)
	}
}

// receiveError is a receive with MSG_ERRQUEUE, which never waits.
func (d *dgram) receiveError(r *receive) verdict {
	d.mu.Lock()
	if len(d.errors) == 0 {
		d.mu.Unlock()
		return fail(unix.EAGAIN)
	}
	e := d.errors[0]
	d.errors = d.errors[1:]
	left := len(d.errors) > 0
	// Reading takes the error off the socket, too (sock_dequeue_err_skb), and the next one on it.
	errno := d.err
	_ = d.takeError(r.c.fd)
	if left {
		d.err = errno
	}
	d.mu.Unlock()
	if left {
		d.alarmSoon()
	}
	name := appendSockaddr(nil, d.s.domain, e.to)
	n := min(len(e.data), r.room)
	if r.msg == nil {
		if errno := r.c.write(r.c.args[1], e.data[:n]); errno != 0 {
			return fail(errno)
		}
		if r.c.args[4] != 0 {
			if errno := r.c.writeValue(r.c.args[4], r.c.args[5], name, true); errno != 0 {
				return fail(errno)
			}
		}
		return ret(n)
	}
	return answerLen(r.msg.fill(r.c, e.data[:n], name, e.control(d.s.domain), n < len(e.data), unix.MSG_ERRQUEUE), n)
}

// control is IP_RECVERR or IPV6_RECVERR: struct sock_extended_err and the offender's address.
func (e *queuedError) control(domain int) []byte {
	b := hostOrder.AppendUint32(nil, uint32(e.errno))
	level, typ, origin, family := unix.IPPROTO_IP, unix.IP_RECVERR, byte(originICMP), unix.AF_INET
	if domain == unix.AF_INET6 {
		level, typ, family = unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.AF_INET6
		if !e.from.Unmap().Is4() {
			origin = originICMP6
		}
	}
	offender := appendSockaddr(nil, family, netip.AddrPortFrom(e.from, 0))
	if e.local {
		origin = originLocal
		clear(offender)
	}
	b = append(b, origin, e.typ, e.code, 0)
	b = hostOrder.AppendUint32(b, e.info)
	b = hostOrder.AppendUint32(b, 0)
	b = append(b, offender...)
	return appendControl(nil, level, typ, b)
}

// icmpErrno is the errno of an ICMP error as Linux has it (icmp_err_convert in
// net/ipv4/icmp.c, icmpv6_err_convert in net/ipv6/icmp.c), and whether it ends more than the
// one datagram.
func icmpErrno(six bool, typ, code byte) (errno syscall.Errno, fatal bool) {
	if six {
		switch typ {
		case 1: // destination unreachable
			switch code {
			case 0, 2:
				return unix.ENETUNREACH, code == 0
			case 1, 5, 6:
				return unix.EACCES, true
			case 3:
				return unix.EHOSTUNREACH, false
			case 4:
				return unix.ECONNREFUSED, true
			}
		case 2: // packet too big
			return unix.EMSGSIZE, false
		case 3: // time exceeded
			return unix.EHOSTUNREACH, false
		case 4: // parameter problem
			return unix.EPROTO, true
		}
		return unix.EPROTO, false
	}
	switch typ {
	case 3: // destination unreachable
		switch code {
		case 0, 5, 6, 9, 11:
			return unix.ENETUNREACH, code == 6 || code == 9
		case 2:
			return unix.ENOPROTOOPT, true
		case 3:
			return unix.ECONNREFUSED, true
		case 4:
			return unix.EMSGSIZE, false
		case 7:
			return unix.EHOSTDOWN, true
		case 8:
			return unix.ENONET, true
		}
		return unix.EHOSTUNREACH, code == 10 || code == 13 || code == 14 || code == 15
	case 12: // parameter problem
		return unix.EPROTO, true
	}
	return unix.EHOSTUNREACH, false // time exceeded and source quench
}

// A quoted is what an ICMP error tells of the packet that caused it.
type quoted struct {
	errno     syscall.Errno
	fatal     bool
	typ, code byte
	info      uint32
	proto     int
	to        netip.Addr
	data      []byte // from the transport header on
}

// parseICMPError takes an ICMP error apart, which begins with its type. Everything in it comes
// from the network.
func parseICMPError(six bool, b []byte) (q quoted, ok bool) {
	const icmpHeader, ip4, ip6 = 8, 20, 40
	if len(b) < icmpHeader {
		return q, false
	}
	q.typ, q.code = b[0], b[1]
	inner := b[icmpHeader:]
	if six {
		if q.typ == 0 || q.typ > 4 || len(inner) < ip6 || inner[0]>>4 != 6 {
			return q, false
		}
		q.to, q.proto, q.data = netip.AddrFrom16([16]byte(inner[24:40])), int(inner[6]), inner[ip6:]
		if q.typ == 2 {
			q.info = uint32(b[4])<<24 | uint32(b[5])<<16 | uint32(b[6])<<8 | uint32(b[7])
		}
	} else {
		if q.typ != 3 && q.typ != 4 && q.typ != 11 && q.typ != 12 || len(inner) < ip4 || inner[0]>>4 != 4 {
			return q, false
		}
		n := int(inner[0]&0xf) * 4
		if n < ip4 || len(inner) < n || (int(inner[6])<<8|int(inner[7]))&0x1fff != 0 { // not the first fragment
			return q, false
		}
		q.to, q.proto, q.data = netip.AddrFrom4([4]byte(inner[16:20])), int(inner[9]), inner[n:]
		if q.typ == 3 && q.code == 4 {
			q.info = uint32(b[6])<<8 | uint32(b[7])
		}
	}
	q.errno, q.fatal = icmpErrno(six, q.typ, q.code)
	return q, true
}
