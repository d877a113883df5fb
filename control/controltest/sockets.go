package controltest

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// optionNumbers are level and number of the options that are plain integers.
var optionNumbers = map[string][2]int{
	"so.reuseaddr":      {unix.SOL_SOCKET, unix.SO_REUSEADDR},
	"so.keepalive":      {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
	"so.rcvbuf":         {unix.SOL_SOCKET, unix.SO_RCVBUF},
	"so.sndbuf":         {unix.SOL_SOCKET, unix.SO_SNDBUF},
	"so.broadcast":      {unix.SOL_SOCKET, unix.SO_BROADCAST},
	"tcp.nodelay":       {unix.IPPROTO_TCP, unix.TCP_NODELAY},
	"tcp.keepidle":      {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
	"tcp.keepintvl":     {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
	"tcp.keepcnt":       {unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
	"tcp.user_timeout":  {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT},
	"ip.ttl":            {unix.IPPROTO_IP, unix.IP_TTL},
	"ip.tos":            {unix.IPPROTO_IP, unix.IP_TOS},
	"ip.mtu_discover":   {unix.IPPROTO_IP, unix.IP_MTU_DISCOVER},
	"ipv6.mtu_discover": {unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER},
	"ipv6.v6only":       {unix.IPPROTO_IPV6, unix.IPV6_V6ONLY},
	"ipv6.unicast_hops": {unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS},
}

// options sets kernel options on a descriptor.
type options struct{ rc syscall.RawConn }

func (o options) SetOption(name string, value int) error {
	return o.do(func(fd int) error {
		if name == "so.linger" {
			return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: btoi(value >= 0), Linger: int32(max(value, 0))})
		}
		n, ok := optionNumbers[name]
		if !ok {
			return syscall.ENOPROTOOPT
		}
		return unix.SetsockoptInt(fd, n[0], n[1], value)
	})
}

func (o options) Option(name string) (v int, err error) {
	return v, o.do(func(fd int) (err error) {
		n, ok := optionNumbers[name]
		if !ok {
			return syscall.ENOPROTOOPT
		}
		v, err = unix.GetsockoptInt(fd, n[0], n[1])
		return err
	})
}

func (o options) do(f func(fd int) error) error {
	var opErr error
	if err := o.rc.Control(func(fd uintptr) { opErr = f(int(fd)) }); err != nil {
		return err
	}
	return opErr
}

func btoi(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// A conn is a *net.TCPConn as control.Conn. It hides ReadFrom and what package net
// makes of WriteTo, so that data takes the way it takes with a stack.
type conn struct {
	options
	tcp *net.TCPConn
}

func newConn(c *net.TCPConn) *conn {
	rc, err := c.SyscallConn()
	if err != nil {
		panic(err) // a TCPConn of package net has one
	}
	return &conn{options{rc}, c}
}

func (c *conn) Read(b []byte) (int, error)         { return c.tcp.Read(b) }
func (c *conn) Write(b []byte) (int, error)        { return c.tcp.Write(b) }
func (c *conn) Close() error                       { return c.tcp.Close() }
func (c *conn) CloseRead() error                   { return c.tcp.CloseRead() }
func (c *conn) CloseWrite() error                  { return c.tcp.CloseWrite() }
func (c *conn) LocalAddr() net.Addr                { return c.tcp.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr               { return c.tcp.RemoteAddr() }
func (c *conn) SetDeadline(t time.Time) error      { return c.tcp.SetDeadline(t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.tcp.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.tcp.SetWriteDeadline(t) }

func (c *conn) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c.tcp})
}

func (c *conn) Abort() {
	_ = c.tcp.SetLinger(0)
	c.tcp.Close()
}

// Socket implements control.Backend.
func (b *Backend) Socket(network string) (control.Socket, error) {
	domain := unix.AF_INET
	if network == "tcp6" {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), network)
	rc, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	s := &socket{options: options{rc}, f: f, six: domain == unix.AF_INET6}
	return s, s.SetOption("so.reuseaddr", 1) // as package net does it
}

type socket struct {
	options
	f     *os.File
	six   bool
	local netip.AddrPort
}

func (s *socket) sockaddr(a netip.AddrPort) unix.Sockaddr {
	if s.six {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().Unmap().As4(), Port: int(a.Port())}
}

func (s *socket) Bind(local netip.AddrPort) error {
	return s.do(func(fd int) error {
		if err := unix.Bind(fd, s.sockaddr(local)); err != nil {
			return err
		}
		sa, err := unix.Getsockname(fd)
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			s.local = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
		case *unix.SockaddrInet6:
			s.local = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
		}
		return err
	})
}

func (s *socket) LocalAddr() netip.AddrPort { return s.local }

func (s *socket) Connect(ctx context.Context, remote netip.AddrPort) (control.Conn, error) {
	defer s.f.Close()
	stop := context.AfterFunc(ctx, func() { s.f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var opErr error
	started := false
	err := s.rc.Write(func(fd uintptr) bool {
		if !started {
			started = true
			opErr = unix.Connect(int(fd), s.sockaddr(remote))
			return opErr != unix.EINPROGRESS
		}
		var v int
		if v, opErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); v != 0 {
			opErr = syscall.Errno(v)
		}
		return true
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err == nil {
		err = opErr
	}
	if err != nil {
		return nil, err
	}
	c, err := net.FileConn(s.f)
	if err != nil {
		return nil, err
	}
	return newConn(c.(*net.TCPConn)), nil
}

func (s *socket) Listen(backlog int) (control.Listener, error) {
	defer s.f.Close()
	if err := s.do(func(fd int) error { return unix.Listen(fd, backlog) }); err != nil {
		return nil, err
	}
	l, err := net.FileListener(s.f)
	if err != nil {
		return nil, err
	}
	tl := l.(*net.TCPListener)
	rc, err := tl.SyscallConn()
	if err != nil {
		l.Close()
		return nil, err
	}
	return &listener{options{rc}, tl}, nil
}

func (s *socket) Close() error {
	s.f.Close()
	return nil
}

type listener struct {
	options
	tcp *net.TCPListener
}

func (l *listener) Accept() (control.Conn, error) {
	c, err := l.tcp.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return newConn(c), nil
}

func (l *listener) Addr() net.Addr { return l.tcp.Addr() }
func (l *listener) Close() error   { return l.tcp.Close() }

// UDP implements control.Backend.
func (b *Backend) UDP(network string, local, remote netip.AddrPort, set map[string]int) (control.PacketConn, error) {
	var la, ra *net.UDPAddr
	if local.IsValid() {
		la = net.UDPAddrFromAddrPort(local)
	}
	var c *net.UDPConn
	var err error
	if remote.IsValid() {
		ra = net.UDPAddrFromAddrPort(remote)
		c, err = net.DialUDP(network, la, ra)
	} else {
		if network == "udp6" && local.Addr().IsUnspecified() {
			network = "udp" // as a dual-stack socket
		}
		// What decides over the address comes before it.
		lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
			for _, name := range []string{"so.reuseaddr", "ipv6.v6only"} {
				if v, ok := set[name]; ok {
					if err := (options{rc}).SetOption(name, v); err != nil {
						return err
					}
				}
			}
			return nil
		}}
		var pc net.PacketConn
		if pc, err = lc.ListenPacket(context.Background(), network, local.String()); err == nil {
			c = pc.(*net.UDPConn)
		}
	}
	if err != nil {
		return nil, err
	}
	rc, err := c.SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	p := &packetConn{UDPConn: c, options: options{rc}}
	for name, v := range set {
		if name == "ipv6.v6only" {
			continue
		}
		if err := p.SetOption(name, v); err != nil {
			c.Close()
			return nil, err
		}
	}
	return p, nil
}

type packetConn struct {
	*net.UDPConn
	options
	// remote is what Connect connected it to; known says that it was called.
	remote net.Addr
	known  bool
}

func (c *packetConn) RemoteAddr() net.Addr {
	if c.known {
		return c.remote
	}
	return c.UDPConn.RemoteAddr()
}

// ReadMessage tells only who sent the datagram.
func (c *packetConn) ReadMessage(b []byte) (control.DatagramInfo, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	return control.DatagramInfo{N: n, From: from}, err
}

func (c *packetConn) ReceiveInfo() {}

func (c *packetConn) WriteMessage(b []byte, to netip.AddrPort, _ netip.Addr, _ int) error {
	_, err := c.WriteToUDPAddrPort(b, to)
	return err
}

// Connect connects the kernel's socket behind package net's back.
func (c *packetConn) Connect(remote netip.AddrPort) error {
	return c.do(func(fd int) error {
		c.known, c.remote = true, nil
		if !remote.IsValid() {
			_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unix.RawSockaddr{})), 16)
			if errno != 0 {
				return errno
			}
			return nil
		}
		c.remote = net.UDPAddrFromAddrPort(remote)
		if remote.Addr().Is6() {
			return unix.Connect(fd, &unix.SockaddrInet6{Port: int(remote.Port()), Addr: remote.Addr().As16()})
		}
		return unix.Connect(fd, &unix.SockaddrInet4{Port: int(remote.Port()), Addr: remote.Addr().As4()})
	})
}

func (c *packetConn) Join(group, local netip.Addr) error {
	return c.do(func(fd int) error {
		return unix.SetsockoptIPMreq(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, mreq(group, local))
	})
}

func (c *packetConn) Leave(group, local netip.Addr) error {
	return c.do(func(fd int) error {
		return unix.SetsockoptIPMreq(fd, unix.IPPROTO_IP, unix.IP_DROP_MEMBERSHIP, mreq(group, local))
	})
}

func mreq(group, local netip.Addr) *unix.IPMreq {
	m := &unix.IPMreq{Multiaddr: group.As4()}
	if local.IsValid() {
		m.Interface = local.As4()
	}
	return m
}

// A UDPConn reads no io.Reader: it has its ReadFrom from net.PacketConn.
var _ net.PacketConn = (*packetConn)(nil)
var _ io.Reader = (*packetConn)(nil)
