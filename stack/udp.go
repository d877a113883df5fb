package stack

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
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
	proto  tcpip.NetworkProtocolNumber
	remote *net.UDPAddr // nil unless connected
	account
	taken  atomic.Int64 // bytes read so far; changes under readMu
	growAt atomic.Int64 // value of taken at which a buffer that shrank grows again
	last   int64        // value of taken at the last review that ended a period, of memory.mu

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
	return s.udp(network, local, remote, false)
}

func (s *Stack) udp(network string, local, remote netip.AddrPort, v6only bool) (*UDPConn, error) {
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
	c := &UDPConn{proto: ipv6.ProtocolNumber}
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
	ep.SocketOptions().SetV6Only(v6only)
	if c.proto == ipv4.ProtocolNumber {
		// netstack would set DF even on fragments, and take no notice of the ICMP
		// errors that then come back for UDP.
		if terr := setMTUDiscover(ep, pmtuDont); terr != nil {
			ep.Close()
			return nil, fail(sysErr("setsockopt", terr))
		}
	}
	if terr := ep.Bind(toFull(local)); terr != nil {
		ep.Close()
		return nil, fail(sysErr("bind", terr))
	}
	if remote.IsValid() {
		full := toFull(remote)
		if full.Addr == (tcpip.Address{}) {
			full.Addr = toAddress(loopbackOf(remote.Addr()))
		}
		if terr := ep.Connect(full); terr != nil {
			ep.Close()
			return nil, fail(sysErr("connect", terr))
		}
		c.remote = net.UDPAddrFromAddrPort(remote)
	}
	c.pollable.init(ep, wq, s.closed)
	c.pollable.account = &c.account
	s.mem.open(&c.account, c, udpBuffer, 0)
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
	if c.remote == nil {
		return nil
	}
	return c.remote
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
	c.readMu.Lock()
	defer c.readMu.Unlock()
	fail := func(err error) (int, netip.AddrPort, error) {
		return 0, netip.AddrPort{}, c.opErr("read", c.RemoteAddr(), err)
	}
	if err := c.checkRead(); err != nil {
		return fail(err)
	}
	for {
		w := tcpip.SliceWriter(b)
		res, terr := c.ep.Read(&w, tcpip.ReadOptions{NeedRemoteAddr: true})
		switch terr.(type) {
		case nil:
			if total := c.taken.Add(int64(res.Count)); c.recv.Load() < udpBuffer && total >= c.growAt.Load() {
				c.regrow(total)
			}
			return res.Count, fromFull(res.RemoteAddr, c.proto), nil
		case *tcpip.ErrBadBuffer: // no room for a single byte: the datagram is used up
			return 0, fromFull(res.RemoteAddr, c.proto), nil
		case *tcpip.ErrWouldBlock:
			if err := c.waitRead(); err != nil {
				return fail(err)
			}
		default:
			if c.isClosed() {
				return fail(net.ErrClosed)
			}
			return fail(sysErr("recvfrom", terr))
		}
	}
}

// Write implements net.Conn; the socket must be connected.
func (c *UDPConn) Write(b []byte) (int, error) {
	if c.remote == nil {
		return 0, c.opErr("write", nil, syscall.EDESTADDRREQ)
	}
	return c.send(b, nil, c.remote)
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
	if c.remote != nil {
		return 0, c.opErr("write", addr, net.ErrWriteToConnected)
	}
	if c.proto == ipv4.ProtocolNumber && !to.Addr().Unmap().Is4() {
		return 0, c.opErr("write", addr, syscall.EAFNOSUPPORT)
	}
	full := toFull(to)
	if full.Addr == (tcpip.Address{}) {
		full.Addr = toAddress(loopbackOf(to.Addr()))
	}
	return c.send(b, &full, addr)
}

func (c *UDPConn) send(b []byte, to *tcpip.FullAddress, addr net.Addr) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if err := c.checkWrite(); err != nil {
		return 0, c.opErr("write", addr, err)
	}
	for {
		n, terr := c.ep.Write(bytes.NewReader(b), tcpip.WriteOptions{To: to})
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

// SetReadBuffer sets the size of the receive buffer in bytes.
func (c *UDPConn) SetReadBuffer(bytes int) error { return c.SetOption("so.rcvbuf", bytes) }

// SetWriteBuffer sets the size of the send buffer in bytes.
func (c *UDPConn) SetWriteBuffer(bytes int) error { return c.SetOption("so.sndbuf", bytes) }

// Close closes the socket. Datagrams not read are lost.
func (c *UDPConn) Close() error {
	if !c.release(func() { c.ep.Close(); c.mem.close(&c.account, false) }) {
		return c.opErr("close", nil, net.ErrClosed)
	}
	return nil
}
