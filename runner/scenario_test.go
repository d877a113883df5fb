package runner

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A script is a program of plain system calls whose output tells how each of them went.
type script struct {
	args []string
}

func (s *script) say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// told prints how a call went.
func (s *script) told(what string, err error) {
	var errno syscall.Errno
	switch {
	case err == nil:
		s.say("%s: ok", what)
	case errors.As(err, &errno):
		s.say("%s: %s", what, unix.ErrnoName(errno))
	default:
		s.say("%s: %v", what, err)
	}
}

func (s *script) socket(family, typ int) int {
	fd, err := unix.Socket(family, typ, 0)
	must(err)
	return fd
}

func address(text string) unix.Sockaddr {
	a := netip.MustParseAddrPort(text)
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func family(text string) int {
	if netip.MustParseAddrPort(text).Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// addr prints an address; ports that the system chose are just "port".
func (s *script) addr(what string, sa unix.Sockaddr, err error, known ...string) {
	if err != nil {
		s.told(what, err)
		return
	}
	var a netip.AddrPort
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		a = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		a = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	case nil:
		s.say("%s: none", what)
		return
	default:
		s.say("%s: %T", what, sa)
		return
	}
	port := "port"
	if a.Port() == 0 {
		port = "0"
	}
	for _, k := range known {
		if netip.MustParseAddrPort(k).Port() == a.Port() {
			port = "known port"
		}
	}
	s.say("%s: %s %s", what, a.Addr(), port)
}

// poll prints what poll sees within ms.
func (s *script) poll(what string, fd int, events int16, ms int) {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		_, err := unix.Poll(p, ms)
		if err == unix.EINTR {
			continue
		}
		must(err)
		break
	}
	var names []string
	for _, f := range []struct {
		bit  int16
		name string
	}{{unix.POLLIN, "IN"}, {unix.POLLOUT, "OUT"}, {unix.POLLERR, "ERR"}, {unix.POLLHUP, "HUP"}, {unix.POLLRDHUP, "RDHUP"}} {
		if p[0].Revents&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	s.say("%s: poll %s", what, strings.Join(names, "|"))
}

func (s *script) option(what string, fd, level, name int) {
	v, err := unix.GetsockoptInt(fd, level, name)
	if err != nil {
		s.told(what, err)
		return
	}
	s.say("%s: %d", what, v)
}

func (s *script) soError(what string, fd int) {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	must(err)
	s.say("%s: SO_ERROR %s", what, unix.ErrnoName(syscall.Errno(v)))
}

func (s *script) read(what string, fd int) {
	b := make([]byte, 65536)
	n, err := unix.Read(fd, b)
	if err != nil {
		s.told(what, err)
		return
	}
	s.say("%s: %q", what, b[:n])
}

func (s *script) write(what string, fd int, text string) {
	n, err := unix.SendmsgN(fd, []byte(text), nil, nil, unix.MSG_NOSIGNAL)
	if err != nil {
		s.told(what, err)
		return
	}
	s.say("%s: %d", what, n)
}

// nonblockingConnect connects and waits. Over loopback the kernel may be done at once.
func (s *script) nonblockingConnect(fd int, to string) {
	must(unix.SetNonblock(fd, true))
	err := unix.Connect(fd, address(to))
	if err != nil && err != unix.EINPROGRESS && err != unix.ECONNREFUSED {
		s.told("connect", err)
	}
}

// connectRaw is connect(2) with any pointer and length.
func connectRaw(fd int, p unsafe.Pointer, n uintptr) error {
	_, _, errno := syscall.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(p), n)
	if errno == 0 {
		return nil
	}
	return errno
}

var scenarios = map[string]func(*script){
	"connect":     scenarioConnect,
	"refused":     scenarioRefused,
	"nonblocking": scenarioNonblocking,
	"fresh":       scenarioFresh,
	"server":      scenarioServer,
	"halfclose":   scenarioHalfClose,
	"reset":       scenarioReset,
	"options":     scenarioOptions,
	"hostile":     scenarioHostile,
	"families":    scenarioFamilies,
	"exit":        scenarioExit,
	"manysockets": scenarioManySockets,
	"parallel":    scenarioParallel,
	"passing":     scenarioPassing,
	"inherited":   scenarioInherited,
	"endings":     scenarioEndings,
	"messages":    scenarioMessages,
	"interrupted": scenarioInterrupted,
	"prefork":     scenarioPrefork,
	"datagrams":   scenarioDatagrams, "datagramserver": scenarioDatagramServer, "datagramerrors": scenarioDatagramErrors,
	"datagramsignals": scenarioDatagramSignals, "datagramepoll": scenarioDatagramEpoll, "datagramshared": scenarioDatagramShared,
	"datagramsgone": scenarioDatagramsGone,
	"bound":         scenarioBound,
	"disconnect":    scenarioDisconnect,
	"closing":       scenarioClosing,
	"heirs":         scenarioHeirs,
	"lingering":     scenarioLingering,
	"leaderless":    scenarioLeaderless,
	"credentials":   scenarioCredentials,
	"nonblockfail":  scenarioNonblockingRefused,
	"longaccept":    scenarioLongAccept,
	"daemongone":    scenarioDaemonGone,
	"earlyends":     scenarioEarlyEnds,
	"churn":         scenarioChurn,
	"storm":         scenarioStorm,
	"timeouts":      scenarioTimeouts,
	"sleep":         func(*script) { time.Sleep(time.Minute) },
}

func scenarioConnect(s *script) {
	to := s.args[0]
	fd := s.socket(family(to), unix.SOCK_STREAM)
	s.told("connect", unix.Connect(fd, address(to)))
	sa, err := unix.Getpeername(fd)
	s.addr("getpeername", sa, err, to)
	sa, err = unix.Getsockname(fd)
	s.addr("getsockname", sa, err, to)
	s.soError("connected", fd)
	s.told("connect again", unix.Connect(fd, address(to)))
	s.write("write", fd, "hello")
	s.poll("echo", fd, unix.POLLIN, 5000)
	s.poll("echo", fd, unix.POLLIN|unix.POLLOUT|unix.POLLRDHUP, 5000)
	s.read("read", fd)
	s.told("listen", unix.Listen(fd, 1))
	s.told("bind", unix.Bind(fd, address(netip.AddrPortFrom(netip.MustParseAddrPort(to).Addr(), 0).String())))
	s.told("shutdown", unix.Shutdown(fd, unix.SHUT_WR))
	s.read("read to the end", fd)
	s.write("write after shutdown", fd, "x")
	s.told("close", unix.Close(fd))
}

func scenarioRefused(s *script) {
	nobody, to := s.args[0], s.args[1]
	fd := s.socket(unix.AF_INET, unix.SOCK_STREAM)
	s.told("connect", unix.Connect(fd, address(nobody)))
	s.soError("refused", fd)
	s.told("connect again", unix.Connect(fd, address(nobody)))
	sa, err := unix.Getpeername(fd)
	s.addr("getpeername", sa, err)
	s.told("connect elsewhere", unix.Connect(fd, address(to)))
	sa, err = unix.Getpeername(fd)
	s.addr("getpeername", sa, err, to)
	s.write("write", fd, "again")
	s.read("read", fd)
}

func scenarioNonblocking(s *script) {
	to := s.args[0]
	fd := s.socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK)
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	must(err)
	must(unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLIN | unix.EPOLLET, Fd: 7}))
	s.nonblockingConnect(fd, to)
	for {
		ev := make([]unix.EpollEvent, 4)
		n, err := unix.EpollWait(ep, ev, 5000)
		if err == unix.EINTR {
			continue
		}
		must(err)
		if n > 0 && ev[0].Events&unix.EPOLLHUP != 0 { // of the time before the connect
			continue
		}
		s.say("epoll: %d %#x of %d", n, ev[0].Events, ev[0].Fd)
		break
	}
	s.soError("connected", fd)
	sa, err := unix.Getpeername(fd)
	s.addr("getpeername", sa, err, to)
	s.write("write", fd, "hello")
	s.poll("echo", fd, unix.POLLIN, 5000)
	s.read("read", fd)
	s.read("read again", fd)
	big := strings.Repeat("x", 1<<20)
	total := 0
	for total < len(big) {
		n, err := unix.Write(fd, []byte(big[total:]))
		if err == unix.EAGAIN {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT | unix.POLLIN}}
			_, _ = unix.Poll(p, 1000)
			b := make([]byte, 65536)
			_, _ = unix.Read(fd, b)
			continue
		}
		must(err)
		total += n
	}
	s.say("wrote %d", total)
}

func scenarioNonblockingRefused(s *script) {
	nobody, to := s.args[0], s.args[1]
	fd := s.socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK)
	err := unix.Connect(fd, address(nobody))
	if err != unix.ECONNREFUSED {
		s.poll("refused", fd, unix.POLLOUT|unix.POLLIN, 5000)
	} else { // over loopback the kernel may be done at once
		s.poll("refused", fd, 0, 5000)
	}
	s.soError("refused", fd)
	s.soError("refused, again", fd)
	s.told("connect again", unix.Connect(fd, address(to)))
	s.nonblockingConnect(fd, to)
	s.poll("connected", fd, unix.POLLOUT, 5000)
	s.soError("connected", fd)
	s.write("write", fd, "after all")
	s.poll("echo", fd, unix.POLLIN, 5000)
	s.read("read", fd)
}

func scenarioFresh(s *script) {
	fd := s.socket(unix.AF_INET, unix.SOCK_STREAM)
	s.poll("fresh", fd, unix.POLLIN|unix.POLLOUT|unix.POLLRDHUP, 0)
	sa, err := unix.Getsockname(fd)
	s.addr("getsockname", sa, err)
	sa, err = unix.Getpeername(fd)
	s.addr("getpeername", sa, err)
	s.told("accept", func() error { _, _, err := unix.Accept(fd); return err }())
	s.soError("fresh", fd)
	fd = s.socket(unix.AF_INET6, unix.SOCK_STREAM)
	sa, err = unix.Getsockname(fd)
	s.addr("getsockname", sa, err)
	for _, typ := range []int{unix.SOCK_SEQPACKET, unix.SOCK_RDM, 77} {
		_, err := unix.Socket(unix.AF_INET, typ, 0)
		s.told(fmt.Sprintf("socket type %d", typ), err)
	}
	_, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_UDP)
	s.told("a stream of UDP", err)
}

func scenarioFamilies(s *script) {
	v4, v6 := s.args[0], s.args[1]
	fd := s.socket(unix.AF_INET, unix.SOCK_STREAM)
	s.told("IPv6 address on AF_INET", unix.Connect(fd, address(v6)))
	fd = s.socket(unix.AF_INET6, unix.SOCK_STREAM)
	s.told("IPv4 address on AF_INET6", unix.Connect(fd, address(v4)))
	mapped := netip.MustParseAddrPort(v4)
	to := netip.AddrPortFrom(netip.AddrFrom16(mapped.Addr().As16()), mapped.Port()).String()
	s.told("mapped", unix.Connect(fd, address(to)))
	sa, err := unix.Getpeername(fd)
	s.addr("getpeername", sa, err, v4)
	sa, err = unix.Getsockname(fd)
	s.addr("getsockname", sa, err)
	fd = s.socket(unix.AF_INET6, unix.SOCK_STREAM)
	s.told("v6only", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	s.option("v6only", fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	s.told("mapped on v6only", unix.Connect(fd, address(to)))
	s.told("IPv6", unix.Connect(fd, address(v6)))
	sa, err = unix.Getpeername(fd)
	s.addr("getpeername", sa, err, v6)
	// A listener of both families.
	lis := s.socket(unix.AF_INET6, unix.SOCK_STREAM)
	s.told("bind", unix.Bind(lis, address("[::]:0")))
	s.told("listen", unix.Listen(lis, 8))
	sa, err = unix.Getsockname(lis)
	s.addr("getsockname", sa, err)
	port := sa.(*unix.SockaddrInet6).Port
	for _, host := range []string{"127.0.0.1", "::1"} {
		c := s.socket(family(net.JoinHostPort(host, "1")), unix.SOCK_STREAM)
		s.told("connect", unix.Connect(c, address(net.JoinHostPort(host, fmt.Sprint(port)))))
		a, from, err := unix.Accept(lis)
		s.addr("accept", from, err)
		sa, err = unix.Getsockname(a)
		s.addr("getsockname", sa, err, net.JoinHostPort(host, fmt.Sprint(port)))
		unix.Close(a)
		unix.Close(c)
	}
}

func scenarioExit(s *script) {
	fd := s.socket(family(s.args[0]), unix.SOCK_STREAM)
	must(unix.Connect(fd, address(s.args[0])))
	data := []byte(strings.Repeat("0123456789abcdef", 1<<16)) // 1 MiB
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		must(err)
		data = data[n:]
	}
	os.Exit(42)
}
