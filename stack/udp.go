package stack

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A UDPConn is a UDP socket: a net.PacketConn, and a net.Conn once connected.
type UDPConn struct {
	pollable
	s      *Stack
	proto  tcpip.NetworkProtocolNumber
	remote atomic.Pointer[net.UDPAddr] // nil unless connected
	inbox  inbox
	arrival
	account
	taken  atomic.Int64 // bytes read so far, headers included; changes under readMu
	growAt atomic.Int64 // value of taken at which a buffer that shrank grows again
	last   int64        // value of taken at the last review that ended a period, of memory.mu

	// Datagrams over IPv4, and over IPv6, must not be fragmented.
	whole4, whole6 atomic.Bool

	readMu  sync.Mutex
	writeMu sync.Mutex
}

var (
	_ net.Conn       = (*UDPConn)(nil)
	_ net.PacketConn = (*UDPConn)(nil)
)

// UDP makes a socket bound to local, where port 0 takes a free one and the zero
// AddrPort any address, and connected to remote if that is valid. network is
// "udp4", or "udp6" which takes IPv4 as well when bound to [::].
func (s *Stack) UDP(network string, local, remote netip.AddrPort) (*UDPConn, error) {
	return s.udp(network, local, remote, nil)
}

// UDPOptions is UDP with options (see OptionNames) that are set before the socket is bound,
// as "so.reuseaddr", "so.reuseport" and "ipv6.v6only" have to be.
func (s *Stack) UDPOptions(network string, local, remote netip.AddrPort, options map[string]int) (*UDPConn, error) {
	return s.udp(network, local, remote, options)
}

func (s *Stack) udp(network string, local, remote netip.AddrPort, set map[string]int) (*UDPConn, error) {
	var laddr, raddr net.Addr
	if local.IsValid() {
		laddr = net.UDPAddrFromAddrPort(local)
	}
	op := "listen"
	if remote.IsValid() {
		raddr, op = net.UDPAddrFromAddrPort(remote), "dial"
	}
	fail := func(err error) error {
		if raddr == nil {
			return opErr(op, "udp", nil, laddr, err)
		}
		return opErr(op, "udp", laddr, raddr, err)
	}
	c := &UDPConn{s: s, proto: ipv6.ProtocolNumber}
	switch network {
	case "udp4":
		c.proto = ipv4.ProtocolNumber
	case "udp6":
	default:
		return nil, fmt.Errorf("socket: %w", net.UnknownNetworkError(network))
	}
	if isClosed(s.closed) {
		return nil, fail(net.ErrClosed)
	}
	for _, ap := range []netip.AddrPort{local, remote} {
		if ap.IsValid() && ap.Addr().Is6() && !ap.Addr().Is4In6() && c.proto == ipv4.ProtocolNumber {
			return nil, fail(syscall.EAFNOSUPPORT)
		}
	}
	wq := new(waiter.Queue)
	ep, terr := s.ns.NewEndpoint(udp.ProtocolNumber, c.proto, wq)
	if terr != nil {
		return nil, fail(sysErr("socket", terr))
	}
	c.pollable.init(ep, wq, s.closed)
	// Before the socket is bound, and before readers wait: they look into the inbox.
	c.receiveInfo()
	lost := s.ns.Stats().UDP.ReceiveBufferErrors
	c.arrival.watch(wq, func() {
		c.inbox.receive(ep, int(max(c.recv.Load(), leastBuffer)), lost, c.observeArrival())
	})
	if c.proto == ipv4.ProtocolNumber {
		// netstack would set DF even on fragments, and take no notice of the ICMP
		// errors that then come back for UDP.
		if terr := setMTUDiscover(ep, pmtuDont); terr != nil {
			ep.Close()
			return nil, fail(sysErr("setsockopt", terr))
		}
	}
	for name, v := range set {
		if name == "so.rcvbuf" || name == "so.sndbuf" { // accounted for, below
			continue
		}
		if err := c.SetOption(name, v); err != nil {
			ep.Close()
			return nil, fail(fmt.Errorf("option %s: %w", name, err))
		}
	}
	if terr := ep.Bind(toFull(local)); terr != nil {
		ep.Close()
		return nil, fail(sysErr("bind", terr))
	}
	if remote.IsValid() {
		if terr := ep.Connect(toPeer(remote)); terr != nil {
			ep.Close()
			return nil, fail(sysErr("connect", terr))
		}
		c.remote.Store(net.UDPAddrFromAddrPort(remote))
	}
	c.pollable.account = &c.account
	s.mem.open(&c.account, c, udpBuffer, 0)
	for _, name := range []string{"so.rcvbuf", "so.sndbuf"} {
		if v, ok := set[name]; ok {
			if err := c.SetOption(name, v); err != nil {
				c.Close()
				return nil, fail(err)
			}
		}
	}
	return c, nil
}

// LocalAddr returns a *net.UDPAddr.
func (c *UDPConn) LocalAddr() net.Addr {
	f, terr := c.ep.GetLocalAddress()
	if terr != nil {
		return &net.UDPAddr{}
	}
	return net.UDPAddrFromAddrPort(fromFull(f, c.proto))
}

// RemoteAddr returns a *net.UDPAddr, or nil unless the socket is connected.
func (c *UDPConn) RemoteAddr() net.Addr {
	if r := c.remote.Load(); r != nil {
		return r
	}
	return nil
}

func (c *UDPConn) opErr(op string, addr net.Addr, err error) error {
	return opErr(op, "udp", c.LocalAddr(), addr, err)
}

// udpBuffer is the receive buffer of a UDP socket in bytes, as Linux's
// net.core.rmem_default.
const udpBuffer = 212 << 10

// size implements accountOwner.
func (c *UDPConn) size(recv bool, bytes int64) {
	if recv {
		c.ep.SocketOptions().SetReceiveBufferSize(bytes, false)
		c.inbox.shrink(bytes)
	}
}

// ordinary implements accountOwner.
func (c *UDPConn) ordinary() bool { return true }

// review implements accountOwner: an idle socket gives back what it has while memory is
// scarce. Datagrams carry no promise.
func (c *UDPConn) review(look *look) (gone bool) {
	total := c.taken.Load()
	want := look.share
	if total > c.last {
		want = look.fair
	}
	if look.elapsed > 0 {
		c.last = total
	}
	if want > 0 {
		c.shrink(true, want)
		c.growAt.Store(total + want/2)
	}
	return false
}

// regrow gives a socket that is read again what an idle one has lost.
func (c *UDPConn) regrow(total int64) {
	c.growAt.Store(total + max(c.recv.Load(), leastBuffer)/2)
	if !c.fixedRecv.Load() {
		c.grow(true, udpBuffer)
	}
}

// Read implements net.Conn. A datagram longer than b is cut.
func (c *UDPConn) Read(b []byte) (int, error) {
	n, _, err := c.ReadFromUDPAddrPort(b)
	return n, err
}

// ReadFrom implements net.PacketConn. A datagram longer than b is cut.
func (c *UDPConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDPAddrPort is ReadFrom without an allocation for the address.
func (c *UDPConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	m, err := c.ReadMessage(b)
	return m.N, m.From, err
}

// ReadMessage is ReadFrom that tells all there is to know of the datagram.
func (c *UDPConn) ReadMessage(b []byte) (UDPMessage, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	fail := func(err error) (UDPMessage, error) {
		return UDPMessage{}, c.opErr("read", c.RemoteAddr(), err)
	}
	if err := c.checkRead(); err != nil {
		return fail(err)
	}
	for {
		m, terr := c.inbox.take(b)
		switch terr.(type) {
		case nil:
			c.observeTaken(m)
			if total := c.taken.Add(int64(m.N + letterHead)); c.recv.Load() < udpBuffer && total >= c.growAt.Load() {
				c.regrow(total)
			}
			return m, nil
		case *tcpip.ErrWouldBlock:
			if err := c.waitRead(); err != nil {
				return fail(err)
			}
		default:
			return fail(sysErr("recvfrom", terr))
		}
	}
}

// Write implements net.Conn; the socket must be connected.
func (c *UDPConn) Write(b []byte) (int, error) {
	remote := c.remote.Load()
	if remote == nil {
		return 0, c.opErr("write", nil, syscall.EDESTADDRREQ)
	}
	return c.send(b, tcpip.WriteOptions{}, remote)
}

// WriteTo implements net.PacketConn.
func (c *UDPConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addrPort(addr)
	if !ok || !to.IsValid() {
		return 0, c.opErr("write", addr, syscall.EINVAL)
	}
	return c.WriteToUDPAddrPort(b, to)
}

// WriteToUDPAddrPort is WriteTo for a netip.AddrPort.
func (c *UDPConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	addr := net.UDPAddrFromAddrPort(to)
	if c.remote.Load() != nil {
		return 0, c.opErr("write", addr, net.ErrWriteToConnected)
	}
	if c.proto == ipv4.ProtocolNumber && !to.Addr().Unmap().Is4() {
		return 0, c.opErr("write", addr, syscall.EAFNOSUPPORT)
	}
	full := toPeer(to)
	return c.send(b, tcpip.WriteOptions{To: &full}, addr)
}

// toPeer converts an address to send to; the unspecified one means this host.
func toPeer(to netip.AddrPort) tcpip.FullAddress {
	full := toFull(to)
	if full.Addr == (tcpip.Address{}) {
		full.Addr = toAddress(loopbackOf(to.Addr()))
	}
	return full
}

func (c *UDPConn) send(b []byte, opts tcpip.WriteOptions, addr net.Addr) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if err := c.checkWrite(); err != nil {
		return 0, c.opErr("write", addr, err)
	}
	if !c.fits(len(b), addr) {
		return 0, c.opErr("write", addr, os.NewSyscallError("sendto", syscall.EMSGSIZE))
	}
	c.observeSend(len(b), addr, netip.Addr{})
	for {
		n, terr := int64(0), c.inbox.takeErr()
		if terr == nil {
			n, terr = c.ep.Write(bytes.NewReader(b), opts)
		}
		switch terr.(type) {
		case nil:
			return int(n), nil
		case *tcpip.ErrWouldBlock:
			if err := c.waitWrite(); err != nil {
				return 0, c.opErr("write", addr, err)
			}
		default:
			if c.isClosed() {
				return 0, c.opErr("write", addr, net.ErrClosed)
			}
			return 0, c.opErr("write", addr, sysErr("sendto", terr))
		}
	}
}

// Option returns an option's value by name, see OptionNames.
func (c *UDPConn) Option(name string) (int, error) {
	switch name {
	case "ustack.recv_queued":
		return c.inbox.queued(), nil
	case "so.error":
		if terr := c.inbox.takeErr(); terr != nil {
			n, _ := errno(terr).(syscall.Errno)
			return int(n), nil
		}
	}
	return c.pollable.Option(name)
}

// SetReadBuffer sets the size of the receive buffer in bytes.
func (c *UDPConn) SetReadBuffer(bytes int) error { return c.SetOption("so.rcvbuf", bytes) }

// SetWriteBuffer sets the size of the send buffer in bytes.
func (c *UDPConn) SetWriteBuffer(bytes int) error { return c.SetOption("so.sndbuf", bytes) }

// Close closes the socket. Datagrams not read are lost.
func (c *UDPConn) Close() error {
	if !c.release(func() { c.ep.Close(); c.inbox.close(); c.mem.close(&c.account, false) }) {
		return c.opErr("close", nil, net.ErrClosed)
	}
	return nil
}
