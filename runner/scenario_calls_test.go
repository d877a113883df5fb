package runner

import (
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// listener makes one on a free port of loopback.
func (s *script) listener(flags int) (int, string) {
	fd := s.socket(unix.AF_INET, unix.SOCK_STREAM|flags)
	must(unix.Bind(fd, address("127.0.0.1:0")))
	must(unix.Listen(fd, 16))
	sa, err := unix.Getsockname(fd)
	must(err)
	return fd, fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
}

func (s *script) dial(to string) int {
	fd := s.socket(family(to), unix.SOCK_STREAM)
	must(unix.Connect(fd, address(to)))
	return fd
}

func scenarioServer(s *script) {
	fd := s.socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK)
	must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	s.told("bind", unix.Bind(fd, address("127.0.0.1:0")))
	s.told("bind again", unix.Bind(fd, address("127.0.0.1:0")))
	sa, err := unix.Getsockname(fd)
	s.addr("getsockname", sa, err)
	at := fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
	s.option("not listening", fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	s.told("listen", unix.Listen(fd, 4))
	s.told("listen again", unix.Listen(fd, 8))
	s.option("listening", fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	s.told("connect", unix.Connect(fd, address(at)))
	sa, err = unix.Getpeername(fd)
	s.addr("getpeername", sa, err)
	_, _, err = unix.Accept4(fd, unix.SOCK_CLOEXEC)
	s.told("accept", err)
	s.poll("nobody", fd, unix.POLLIN|unix.POLLOUT, 0)
	other := s.socket(unix.AF_INET, unix.SOCK_STREAM)
	s.told("the same port", unix.Bind(other, address(at)))
	s.told("no address of ours", unix.Bind(other, address("203.0.113.1:0")))
	c := s.dial(at)
	s.poll("somebody", fd, unix.POLLIN|unix.POLLOUT, 5000)
	a, from, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	s.addr("accept", from, err)
	flags, err := unix.FcntlInt(uintptr(a), unix.F_GETFL, 0)
	must(err)
	fdflags, err := unix.FcntlInt(uintptr(a), unix.F_GETFD, 0)
	must(err)
	s.say("accepted: non-blocking %v, close-on-exec %v", flags&unix.O_NONBLOCK != 0, fdflags&unix.FD_CLOEXEC != 0)
	peer, err := unix.Getpeername(a)
	s.addr("getpeername", peer, err)
	sa, err = unix.Getsockname(c)
	must(err)
	s.say("the same as the other's: %v", sa.(*unix.SockaddrInet4).Port == peer.(*unix.SockaddrInet4).Port)
	sa, err = unix.Getsockname(a)
	s.addr("getsockname", sa, err, at)
	s.read("read", a)
	s.write("write", c, "request")
	s.poll("request", a, unix.POLLIN, 5000)
	s.read("read", a)
	s.write("write", a, "answer")
	s.read("read", c)
	// Close and take the port again.
	unix.Close(a)
	unix.Close(c)
	unix.Close(fd)
	again := s.socket(unix.AF_INET, unix.SOCK_STREAM)
	must(unix.SetsockoptInt(again, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	s.told("bind after close", unix.Bind(again, address(at)))
	s.told("listen after close", unix.Listen(again, 4))
	unbound := s.socket(unix.AF_INET, unix.SOCK_STREAM)
	s.told("listen unbound", unix.Listen(unbound, 4))
	sa, err = unix.Getsockname(unbound)
	s.addr("getsockname", sa, err)
}

func scenarioHalfClose(s *script) {
	lis, at := s.listener(0)
	c := s.dial(at)
	a, _, err := unix.Accept(lis)
	must(err)
	s.told("shutdown", unix.Shutdown(c, unix.SHUT_WR))
	s.poll("peer shut down", a, unix.POLLRDHUP, 5000)
	s.poll("peer shut down", a, unix.POLLIN|unix.POLLOUT|unix.POLLRDHUP, 5000)
	s.read("read to the end", a)
	s.write("write", a, "still")
	s.read("read", c)
	unix.Close(a)
	s.poll("peer closed", c, unix.POLLIN|unix.POLLRDHUP, 5000)
	s.read("read to the end", c)
	unix.Close(c)
}

// scenarioReset is about a peer that answers by RST.
func scenarioReset(s *script) {
	to := s.args[0]
	c := s.dial(to)
	s.write("write", c, "reset me")
	s.poll("reset", c, unix.POLLIN, 5000)
	s.read("read", c)
	s.read("read again", c)
	c = s.dial(to)
	s.write("write", c, "reset me")
	s.poll("reset", c, unix.POLLIN, 5000)
	s.soError("reset", c)
	s.soError("reset, again", c)
	s.read("read", c)
	c = s.dial(to)
	s.write("write", c, "data and reset")
	time.Sleep(300 * time.Millisecond) // the reset has no event of its own behind the data
	s.poll("data", c, unix.POLLIN, 5000)
	s.read("read", c)
	s.read("read again", c)
}

func scenarioOptions(s *script) {
	fd := s.socket(unix.AF_INET, unix.SOCK_STREAM)
	for _, o := range []struct {
		name      string
		level, nr int
		set       []int
	}{
		{"type", unix.SOL_SOCKET, unix.SO_TYPE, nil},
		{"domain", unix.SOL_SOCKET, unix.SO_DOMAIN, nil},
		{"protocol", unix.SOL_SOCKET, unix.SO_PROTOCOL, nil},
		{"acceptconn", unix.SOL_SOCKET, unix.SO_ACCEPTCONN, nil},
		{"reuseaddr", unix.SOL_SOCKET, unix.SO_REUSEADDR, []int{7, 0, 1}},
		{"reuseport", unix.SOL_SOCKET, unix.SO_REUSEPORT, []int{1}},
		{"keepalive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, []int{5, 0, 1}},
		{"broadcast", unix.SOL_SOCKET, unix.SO_BROADCAST, []int{1}},
		{"oobinline", unix.SOL_SOCKET, unix.SO_OOBINLINE, []int{1}},
		{"priority", unix.SOL_SOCKET, unix.SO_PRIORITY, []int{3}},
		{"rcvlowat", unix.SOL_SOCKET, unix.SO_RCVLOWAT, nil},
		{"nodelay", unix.IPPROTO_TCP, unix.TCP_NODELAY, []int{1, 0, 9}},
		{"keepidle", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, []int{0, 40000, 30}},
		{"keepintvl", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, []int{0, 5}},
		{"keepcnt", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, []int{0, 128, 4}},
		{"syncnt", unix.IPPROTO_TCP, unix.TCP_SYNCNT, []int{0, 3}},
		{"user timeout", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, []int{-1, 9000}},
		{"defer accept", unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, nil},
		{"ttl", unix.IPPROTO_IP, unix.IP_TTL, []int{0, 256, 33}},
		{"tos", unix.IPPROTO_IP, unix.IP_TOS, []int{0x10}},
		{"unicast hops on AF_INET", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, nil},
		{"unknown", unix.IPPROTO_TCP, 9999, []int{1}},
	} {
		s.option(o.name, fd, o.level, o.nr)
		for _, v := range o.set {
			s.told(fmt.Sprintf("%s = %d", o.name, v), unix.SetsockoptInt(fd, o.level, o.nr, v))
			s.option(o.name, fd, o.level, o.nr)
		}
	}
	l, err := getLinger(fd)
	s.told("linger", err)
	s.say("linger: %v", l)
	s.told("linger", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 5}))
	l, _ = getLinger(fd)
	s.say("linger: %v", l)
	s.told("sndbuf", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 50000))
	s.option("sndbuf", fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	s.told("rcvbuf", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 50000))
	s.option("rcvbuf", fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	_, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	_ = err
	var short [2]byte
	n := uint32(2)
	_, _, errno := syscall.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_TYPE,
		uintptr(unsafe.Pointer(&short)), uintptr(unsafe.Pointer(&n)), 0)
	s.say("short value: %v, %d, %v", errno, n, short)
	_, _, errno = syscall.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY,
		uintptr(unsafe.Pointer(&short)), 2, 0)
	s.say("short value: %v", errno)
	fd = s.dial(s.args[0])
	s.told("nodelay", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	s.told("keepidle", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60))
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	s.told("tcp info", err)
	s.say("state %d", info.State)
}

func getLinger(fd int) (l unix.Linger, err error) {
	n := uint32(unix.SizeofLinger)
	_, _, errno := syscall.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER,
		uintptr(unsafe.Pointer(&l)), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		err = errno
	}
	return l, err
}

func scenarioHostile(s *script) {
	fd := s.socket(unix.AF_INET, unix.SOCK_STREAM)
	six := s.socket(unix.AF_INET6, unix.SOCK_STREAM)
	var a [128]byte
	*(*uint16)(unsafe.Pointer(&a)) = unix.AF_INET
	for _, n := range []uintptr{0, 1, 2, 8, 15, 129, 1 << 20, ^uintptr(0)} {
		s.told(fmt.Sprintf("length %d", int32(n)), connectRaw(fd, unsafe.Pointer(&a), n))
	}
	s.told("nil", connectRaw(fd, nil, 16))
	*(*uint16)(unsafe.Pointer(&a)) = unix.AF_INET6
	for _, n := range []uintptr{2, 16, 23} {
		s.told(fmt.Sprintf("IPv6 length %d", n), connectRaw(six, unsafe.Pointer(&a), n))
	}
	*(*uint16)(unsafe.Pointer(&a)) = 99
	s.told("family 99", connectRaw(fd, unsafe.Pointer(&a), 16))
	s.told("no descriptor", connectRaw(999, unsafe.Pointer(&a), 16))
	s.told("no socket", connectRaw(1, unsafe.Pointer(&a), 16))
	_, _, errno := syscall.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), 8, uintptr(unsafe.Pointer(&a)))
	s.say("getsockname: %v", errno)
	n := int32(-1)
	_, _, errno = syscall.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&n)))
	s.say("getsockname, negative length: %v", errno)
	n = 5
	_, _, errno = syscall.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&n)))
	s.say("getsockname, short: %v, %d", errno, n)
	_, _, errno = syscall.Syscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, 12345, 0, 0)
	s.say("accept4 flags: %v", errno)
	_, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|1<<28, 0)
	s.told("socket flags", err)
	_, _, errno = syscall.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 8, 4, 0)
	s.say("setsockopt: %v", errno)
	_, _, errno = syscall.Syscall6(unix.SYS_SENDMSG, uintptr(fd), 8, 0, 0, 0, 0)
	s.say("sendmsg: %v", errno)
}
