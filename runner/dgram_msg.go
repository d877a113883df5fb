package runner

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// More offsets in struct user_msghdr, and the size of struct mmsghdr.
const (
	msgControl    = 32
	msgControllen = 40
	msgFlags      = 48
	mmsgSize      = msgSize + 8
)

// maxControl bounds the control messages of one message, in bytes.
const maxControl = 4096

// A message is a struct msghdr of the program's.
type message struct {
	addr       uint64
	name       uint64
	nameLen    uint32
	iov        []iovec
	control    uint64
	controlLen uint64
}

type iovec struct{ base, len uint64 }

// readMessage reads a msghdr and its vector.
func (c *call) readMessage(addr uint64) (*message, syscall.Errno) {
	var h [msgSize]byte
	if errno := c.read(addr, h[:]); errno != 0 {
		return nil, errno
	}
	m := &message{
		addr: addr, name: hostOrder.Uint64(h[msgName:]), nameLen: hostOrder.Uint32(h[msgNamelen:]),
		control: hostOrder.Uint64(h[msgControl:]), controlLen: hostOrder.Uint64(h[msgControllen:]),
	}
	if int32(m.nameLen) < 0 {
		return nil, unix.EINVAL
	}
	n := hostOrder.Uint64(h[msgIovlen:])
	if n > maxIov {
		return nil, unix.EMSGSIZE
	}
	b := make([]byte, 16*n)
	if errno := c.read(hostOrder.Uint64(h[msgIov:]), b); errno != 0 {
		return nil, errno
	}
	for ; len(b) > 0; b = b[16:] {
		v := iovec{hostOrder.Uint64(b), hostOrder.Uint64(b[8:])}
		if int64(v.len) < 0 {
			return nil, unix.EINVAL
		}
		m.iov = append(m.iov, v)
	}
	return m, 0
}

// room is how many bytes the vector has, as far as a datagram can need them.
func (m *message) room() int {
	n := uint64(0)
	for _, v := range m.iov {
		n += min(v.len, maxFrame)
	}
	return int(min(n, maxFrame))
}

// gather reads what the vector points to.
func (m *message) gather(c *call) ([]byte, syscall.Errno) {
	n := m.room()
	if n >= maxFrame {
		return nil, unix.EMSGSIZE
	}
	b := make([]byte, n)
	at := 0
	for _, v := range m.iov {
		if errno := c.read(v.base, b[at:at+int(v.len)]); errno != 0 {
			return nil, errno
		}
		at += int(v.len)
	}
	return b, 0
}

// fill writes what recvmsg gives.
func (m *message) fill(c *call, data, name, control []byte, cut bool, flags int) syscall.Errno {
	if cut {
		flags |= unix.MSG_TRUNC
	}
	for _, v := range m.iov {
		n := min(uint64(len(data)), v.len)
		if errno := c.write(v.base, data[:n]); errno != 0 {
			return errno
		}
		data = data[n:]
	}
	if m.name != 0 {
		if errno := c.write(m.name, name[:min(len(name), int(m.nameLen))]); errno != 0 {
			return errno
		}
		if errno := c.writeInt(m.addr+msgNamelen, len(name)); errno != 0 {
			return errno
		}
	}
	if uint64(len(control)) > m.controlLen || m.control == 0 {
		if len(control) > 0 {
			flags |= unix.MSG_CTRUNC
		}
		control = nil
	}
	if errno := c.write(m.control, control); errno != 0 {
		return errno
	}
	var tail [msgSize - msgControllen]byte
	hostOrder.PutUint64(tail[:], uint64(len(control)))
	hostOrder.PutUint32(tail[msgFlags-msgControllen:], uint32(flags))
	return c.write(m.addr+msgControllen, tail[:msgFlags-msgControllen+4])
}

// appendControl appends a control message.
func appendControl(b []byte, level, typ int, data []byte) []byte {
	n := unix.CmsgLen(len(data))
	b = hostOrder.AppendUint64(b, uint64(n))
	b = hostOrder.AppendUint32(b, uint32(level))
	b = hostOrder.AppendUint32(b, uint32(typ))
	b = append(b, data...)
	return append(b, make([]byte, unix.CmsgSpace(len(data))-n)...)
}

// Options that ask for control messages.
var (
	keyPktinfo  = optionKey{unix.IPPROTO_IP, unix.IP_PKTINFO}
	keyTTL      = optionKey{unix.IPPROTO_IP, unix.IP_RECVTTL}
	keyTOS      = optionKey{unix.IPPROTO_IP, unix.IP_RECVTOS}
	keyPktinfo6 = optionKey{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO}
	keyHops     = optionKey{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT}
	keyHopsOld  = optionKey{unix.IPPROTO_IPV6, unix.IPV6_2292HOPLIMIT} // of RFC 2292, tracepath's
	keyClass    = optionKey{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS}
)

// wantsControl says whether the program asked for control messages of IP's. mu is held.
func (d *dgram) wantsControl() bool {
	for _, k := range []optionKey{keyPktinfo, keyTTL, keyTOS, keyPktinfo6, keyHops, keyHopsOld, keyClass} {
		if d.options[keptName(k)] != 0 {
			return true
		}
	}
	return false
}

// controlOf makes the control messages that come with a datagram.
func (d *dgram) controlOf(in inbound) []byte {
	b := in.control
	d.mu.Lock()
	wants := d.wantsControl()
	on := func(k optionKey) bool { return d.options[keptName(k)] != 0 }
	pktinfo, ttl, tos := on(keyPktinfo), on(keyTTL), on(keyTOS)
	pktinfo6, hops, hopsOld, class := on(keyPktinfo6), on(keyHops), on(keyHopsOld), on(keyClass)
	local := d.local.Addr()
	d.mu.Unlock()
	if !wants {
		return b
	}
	to := in.to.Unmap()
	if !to.IsValid() || to.IsUnspecified() {
		to = local.Unmap()
	}
	if in.ttl == 0 {
		in.ttl = 64
	}
	is4 := in.from.Addr().Unmap().Is4()
	if is4 {
		if pktinfo {
			var p [12]byte // struct in_pktinfo
			hostOrder.PutUint32(p[:], d.s.sup.linkOf(to))
			if to.Is4() {
				a := to.As4()
				copy(p[8:], a[:])
				if !to.IsMulticast() && to != netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
					copy(p[4:], a[:])
				} else if local = local.Unmap(); local.Is4() {
					a := local.As4()
					copy(p[4:], a[:])
				}
			}
			b = appendControl(b, unix.IPPROTO_IP, unix.IP_PKTINFO, p[:])
		}
		if ttl {
			b = appendControl(b, unix.IPPROTO_IP, unix.IP_TTL, intBytes(int(in.ttl)))
		}
		if tos {
			b = appendControl(b, unix.IPPROTO_IP, unix.IP_TOS, []byte{in.tos})
		}
	}
	if d.s.domain == unix.AF_INET6 {
		if pktinfo6 {
			var p [20]byte // struct in6_pktinfo
			if to.IsValid() {
				a := to.As16()
				copy(p[:], a[:])
			}
			hostOrder.PutUint32(p[16:], d.s.sup.linkOf(to))
			b = appendControl(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, p[:])
		}
		if hops && !is4 {
			b = appendControl(b, unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, intBytes(int(in.ttl)))
		}
		if hopsOld && !is4 {
			b = appendControl(b, unix.IPPROTO_IPV6, unix.IPV6_2292HOPLIMIT, intBytes(int(in.ttl)))
		}
		if class && !is4 {
			b = appendControl(b, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, intBytes(int(in.tos)))
		}
	}
	return b
}

// linkOf is the number of the interface of the program's namespace with an address, else
// of one that is up, else of the loopback interface.
func (sup *supervisor) linkOf(a netip.Addr) uint32 {
	links, err := net.Interfaces()
	if err != nil {
		return 1
	}
	var other uint32 = 1
	for _, l := range links {
		if l.Flags&net.FlagLoopback == 0 && other == 1 {
			other = uint32(l.Index)
		}
		addrs, err := l.Addrs()
		if err != nil {
			continue
		}
		for _, have := range addrs {
			if p, err := netip.ParsePrefix(have.String()); err == nil && p.Addr().Unmap() == a.Unmap().WithZone("") {
				return uint32(l.Index)
			}
		}
	}
	if a.IsLoopback() {
		return 1
	}
	return other
}

// An ancillary is what the control messages of a send ask for.
type ancillary struct {
	from netip.Addr
	ttl  int
}

// readAncillary reads the control messages of a send, as ip_cmsg_send, ip6_datagram_send_ctl
// and udp_cmsg_send do. Types of service are left to the socket's option.
func (m *message) readAncillary(c *call, domain int) (a ancillary, errno syscall.Errno) {
	if m.controlLen == 0 {
		return a, 0
	}
	if m.controlLen > maxControl {
		return a, unix.ENOBUFS
	}
	b := make([]byte, m.controlLen)
	if errno := c.read(m.control, b); errno != 0 {
		return a, errno
	}
	for len(b) >= unix.SizeofCmsghdr {
		n := hostOrder.Uint64(b)
		level, typ := int(hostOrder.Uint32(b[8:])), int(hostOrder.Uint32(b[12:]))
		if n < unix.SizeofCmsghdr || n > uint64(len(b)) {
			return a, unix.EINVAL
		}
		data := b[unix.SizeofCmsghdr:n]
		b = b[min(len(b), unix.CmsgSpace(len(data))):]
		key := optionKey{level, typ}
		switch {
		case key == optionKey{unix.IPPROTO_IP, unix.IP_PKTINFO} && len(data) >= 12:
			if from := netip.AddrFrom4([4]byte(data[4:8])); !from.IsUnspecified() {
				a.from = from
			}
		case key == optionKey{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO} && len(data) >= 20:
			if from := netip.AddrFrom16([16]byte(data[:16])); !from.IsUnspecified() {
				a.from = from.Unmap()
			}
		case key == optionKey{unix.IPPROTO_IP, unix.IP_TTL} && len(data) >= 4,
			key == optionKey{unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT} && len(data) >= 4:
			a.ttl = int(int32(binary.NativeEndian.Uint32(data)))
			if a.ttl == -1 && level == unix.IPPROTO_IPV6 {
				a.ttl = 0
			} else if a.ttl < 1 || a.ttl > 255 {
				return a, unix.EINVAL
			}
		case key == optionKey{unix.IPPROTO_IP, unix.IP_TOS} && len(data) >= 1,
			key == optionKey{unix.IPPROTO_IPV6, unix.IPV6_TCLASS} && len(data) >= 4,
			key == optionKey{unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG} && len(data) >= 4,
			level == unix.SOL_SOCKET:
		default:
			return a, unix.EINVAL
		}
	}
	return a, 0
}
