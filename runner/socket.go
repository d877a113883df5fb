package runner

import (
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A socket is what all emulated sockets have: a unix socket that the program holds, known
// by its inode, and the kind, which answers calls on it.
type socket struct {
	sup *supervisor
	// ino is the inode of the program's unix socket. It is final before the program gets it.
	ino uint64
	// domain is AF_INET or AF_INET6; typ and proto are socket(2)'s, proto never 0.
	domain, typ, proto int
	kind               kind

	// Of the table: where it was seen last, when it came there, and how many sweeps in a row
	// did not find it.
	where  place
	born   uint64
	missed int
}

// A kind is a protocol's answers to the calls on one socket. A method is called on the
// supervisor's thread and must not wait: what does uses call.later. Several calls on one socket may
// run at the same time.
type kind interface {
	connect(c *call, to sockaddr) verdict
	bind(c *call, to sockaddr) verdict
	listen(c *call, backlog int) verdict
	// accept4 gets accept's flags: SOCK_NONBLOCK and SOCK_CLOEXEC.
	accept(c *call, flags int) verdict
	// localAddr and remoteAddr are getsockname and getpeername.
	localAddr(c *call) (netip.AddrPort, syscall.Errno)
	remoteAddr(c *call) (netip.AddrPort, syscall.Errno)
	// sendto and recvfrom come only with an address or with one of noticedFlags.
	sendto(c *call) verdict
	recvfrom(c *call) verdict
	sendmsg(c *call) verdict
	recvmsg(c *call) verdict
	sendmmsg(c *call) verdict
	recvmmsg(c *call) verdict
	// setOption and option are setsockopt and getsockopt, which answers by call.value; unknown
	// says that there is no such option.
	setOption(c *call, level, name int, value []byte) verdict
	option(c *call, level, name int) verdict
	// gone is called once, after the last descriptor of the socket has been closed.
	gone()
}

// A table holds the emulated sockets by inode.
type table struct {
	mu     sync.Mutex
	byIno  map[uint64]*socket
	clock  uint64
	atLast int // how many there were after the last sweep
}

func (t *table) get(ino uint64) *socket {
	if ino == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byIno[ino]
}

// add puts a socket in that is about to come to w. full says that it is time to sweep.
func (t *table) add(s *socket, w place) (full bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byIno == nil {
		t.byIno = make(map[uint64]*socket)
	}
	t.clock++
	s.where, s.born = w, t.clock
	t.byIno[s.ino] = s
	return len(t.byIno) > 2*t.atLast+minSweep
}

func (t *table) remove(ino uint64) *socket {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byIno[ino]
	delete(t.byIno, ino)
	return s
}

// rename gives a socket another inode.
func (t *table) rename(s *socket, ino uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byIno, s.ino)
	t.clock++
	s.ino, s.born, s.missed = ino, t.clock, 0
	t.byIno[ino] = s
}

// seen notes where a descriptor of the socket is.
func (t *table) seen(s *socket, w place) {
	t.mu.Lock()
	s.where = w
	t.mu.Unlock()
}

// A maker makes the kind of a new socket, or says why there is none.
type maker func(s *socket) (kind, syscall.Errno)

// makerOf finds the protocol that socket(domain, typ, proto) asks for and puts its number
// into proto.
func makerOf(typ int, proto *int) (maker, syscall.Errno) {
	switch {
	case typ == unix.SOCK_STREAM && (*proto == 0 || *proto == unix.IPPROTO_TCP):
		*proto = unix.IPPROTO_TCP
		return newTCP, 0
	case typ == unix.SOCK_DGRAM && (*proto == 0 || *proto == unix.IPPROTO_UDP):
		*proto = unix.IPPROTO_UDP
		return newUDP, 0
	case (typ == unix.SOCK_DGRAM || typ == unix.SOCK_RAW) && (*proto == unix.IPPROTO_ICMP || *proto == unix.IPPROTO_ICMPV6):
		return newICMP, 0
	case typ == unix.SOCK_STREAM, typ == unix.SOCK_DGRAM, typ == unix.SOCK_RAW && *proto != 0:
		return nil, unix.EPROTONOSUPPORT
	}
	return nil, unix.ESOCKTNOSUPPORT
}

// unixType is the type of the unix socket that stands for one of type typ.
func unixType(typ int) int {
	if typ == unix.SOCK_RAW {
		return unix.SOCK_DGRAM
	}
	return typ
}

// newSocket makes a socket and its unix socket, with flags: SOCK_NONBLOCK or none. The descriptor is the
// caller's.
func (sup *supervisor) newSocket(domain, typ, proto, flags int) (*socket, int, syscall.Errno) {
	s := &socket{sup: sup, domain: domain, typ: typ, proto: proto}
	mk, errno := makerOf(typ, &s.proto)
	if errno != 0 {
		return nil, -1, errno
	}
	if s.kind, errno = mk(s); errno != 0 {
		return nil, -1, errno
	}
	fd, err := unix.Socket(unix.AF_UNIX, unixType(typ)|flags|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		errno, _ = err.(syscall.Errno)
		return nil, -1, errno
	}
	if typ != unix.SOCK_STREAM { // which gets it when it is connected
		sup.growSendBuffer(fd)
	}
	s.ino = inodeOf(fd)
	return s, fd, 0
}

// socketCall is socket(2).
func (sup *supervisor) socketCall(c *call) verdict {
	domain, typ, proto := int(int32(c.args[0])), int(int32(c.args[1])), int(int32(c.args[2]))
	if domain == unix.AF_PACKET {
		if sup.order.Net {
			sup.say("packet sockets see an interface without a packet here: frames are the stack's own")
		}
		return native
	}
	flags := typ & (unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC)
	if typ &^= flags; typ&^0xf != 0 {
		return fail(unix.EINVAL)
	}
	if typ == unix.SOCK_RAW && !mayUseRaw(c.tid) {
		return fail(unix.EPERM)
	}
	s, fd, errno := sup.newSocket(domain, typ, proto, flags&unix.SOCK_NONBLOCK)
	if errno != 0 {
		if proto == unix.IPPROTO_MPTCP { // whoever tries it goes on with TCP
			return fail(errno)
		}
		if typ == unix.SOCK_RAW {
			sup.say("raw IP sockets are not emulated, but for ICMP's (protocol %d)", proto)
		} else {
			sup.say("socket: domain %d, type %d, protocol %d is not emulated", domain, typ, proto)
		}
		return fail(errno)
	}
	defer unix.Close(fd)
	v, _ := c.install(s, fd, flags&unix.SOCK_CLOEXEC != 0)
	return v
}
