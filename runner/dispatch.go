package runner

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxOption is the longest value of setsockopt that is read, in bytes.
const maxOption = 4096

// handle answers one call, on the supervisor's thread.
func (sup *supervisor) handle(c *call) verdict {
	if c.name == sysSocket {
		return sup.socketCall(c)
	}
	fd, err := sup.procs.dup(c.tid, c.args[0], 0)
	if err != nil {
		if err == unix.EPERM {
			sup.sayUnwatched(c.tid)
		}
		return native // the kernel knows the error best
	}
	c.fd = fd
	defer func() {
		unix.Close(fd)
		c.fd = -1
	}()
	c.ino = inodeOf(fd)
	s := sup.table.get(c.ino)
	if s == nil {
		return native
	}
	sup.table.seen(s, place{c.tid, c.args[0]})
	return s.handle(c)
}

// handle answers a call on a socket.
func (s *socket) handle(c *call) verdict {
	k := s.kind
	switch c.name {
	case sysConnect:
		to, errno := c.readSockaddr(c.args[1], c.args[2], s.domain)
		if errno != 0 {
			return fail(errno)
		}
		return k.connect(c, to)
	case sysBind:
		to, errno := c.readSockaddr(c.args[1], c.args[2], s.domain)
		if errno == 0 && to.family == unix.AF_UNSPEC {
			// inet_bind takes AF_UNSPEC with any address for AF_INET.
			if errno = unix.EAFNOSUPPORT; s.domain == unix.AF_INET {
				to, errno = s.unspecified(c)
			}
		}
		if errno != 0 {
			return fail(errno)
		}
		return k.bind(c, to)
	case sysListen:
		return k.listen(c, int(int32(c.args[1])))
	case sysAccept:
		return k.accept(c, 0)
	case sysAccept4:
		flags := int(int32(c.args[3]))
		if flags&^(unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC) != 0 {
			return fail(unix.EINVAL)
		}
		return k.accept(c, flags)
	case sysGetsockname:
		if t, ok := k.(*tcp); ok {
			if ask := t.lateLocalAddr(c); ask != nil {
				d := c.detached()
				return c.later(func() verdict {
					return s.addressAnswer(d, ask)
				})
			}
		}
		return s.addressAnswer(c, func() (netip.AddrPort, syscall.Errno) { return k.localAddr(c) })
	case sysGetpeername:
		return s.addressAnswer(c, func() (netip.AddrPort, syscall.Errno) { return k.remoteAddr(c) })
	case sysSendto:
		return k.sendto(c)
	case sysRecvfrom:
		return k.recvfrom(c)
	case sysSendmsg:
		return k.sendmsg(c)
	case sysRecvmsg:
		return k.recvmsg(c)
	case sysSendmmsg:
		return k.sendmmsg(c)
	case sysRecvmmsg:
		return k.recvmmsg(c)
	case sysSetsockopt:
		return s.setsockopt(c)
	case sysGetsockopt:
		return s.getsockopt(c)
	case sysIoctl:
		return interfaceIoctl(c)
	}
	return native
}

// addressAnswer answers getsockname and getpeername.
func (s *socket) addressAnswer(c *call, ask func() (netip.AddrPort, syscall.Errno)) verdict {
	a, errno := ask()
	if errno != 0 {
		return fail(errno)
	}
	return c.valueAt(c.args[1], c.args[2], appendSockaddr(nil, s.domain, a), true)
}

// unspecified reads the address of a bind with AF_UNSPEC, which must be any address.
func (s *socket) unspecified(c *call) (sockaddr, syscall.Errno) {
	b := make([]byte, sizeIn4)
	if int(int32(c.args[2])) < sizeIn4 {
		return sockaddr{}, unix.EINVAL
	}
	if errno := c.read(c.args[1], b); errno != 0 {
		return sockaddr{}, errno
	}
	if [4]byte(b[4:8]) != [4]byte{} {
		return sockaddr{}, unix.EAFNOSUPPORT
	}
	copy(b, appendSockaddr(nil, unix.AF_INET, parseWire("0.0.0.0:0"))[:2])
	return parseSockaddr(b, unix.AF_INET)
}

func (s *socket) setsockopt(c *call) verdict {
	level, name, n := int(int32(c.args[1])), int(int32(c.args[2])), int(int32(c.args[4]))
	if n < 0 {
		return fail(unix.EINVAL)
	}
	value := make([]byte, min(n, maxOption))
	if errno := c.read(c.args[3], value); errno != 0 {
		return fail(errno)
	}
	if level == unix.SOL_SOCKET && passesCredentials(name) {
		return fail(unix.EOPNOTSUPP)
	}
	v := s.kind.setOption(c, level, name, value)
	if v.mode != modeUnknown {
		return v
	}
	if level == unix.SOL_SOCKET {
		return native
	}
	s.sup.unsupported("setsockopt", "level %d, option %d", level, name)
	return fail(unix.ENOPROTOOPT)
}

func (s *socket) getsockopt(c *call) verdict {
	level, name := int(int32(c.args[1])), int(int32(c.args[2]))
	if level == unix.SOL_SOCKET {
		switch name {
		case unix.SO_PEERCRED:
			return c.value(append(intBytes(0), append(intBytes(-1), intBytes(-1)...)...))
		case unix.SO_PEERGROUPS, unix.SO_PEERPIDFD:
			return fail(unix.ENODATA)
		case unix.SO_PEERSEC:
			return fail(unix.ENOPROTOOPT)
		}
		if passesCredentials(name) {
			return fail(unix.EOPNOTSUPP)
		}
	}
	v := s.kind.option(c, level, name)
	if v.mode != modeUnknown {
		return v
	}
	if level == unix.SOL_SOCKET {
		return native
	}
	s.sup.unsupported("getsockopt", "level %d, option %d", level, name)
	switch level {
	case unix.IPPROTO_IP, unix.IPPROTO_IPV6, s.proto:
		return fail(unix.ENOPROTOOPT)
	}
	return fail(unix.EOPNOTSUPP)
}

// passesCredentials says whether an option is one of those by which unix sockets tell who sends; those
// of the internet families have none since Linux 6.16. The unix socket below would tell of the
// supervisor.
func passesCredentials(name int) bool {
	return name == unix.SO_PASSCRED || name == unix.SO_PASSSEC || name == unix.SO_PASSPIDFD
}
