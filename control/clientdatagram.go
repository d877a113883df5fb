package control

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Largest UDP payloads in bytes: 65,535 of the IP length field, less 8 of UDP and,
// over IPv4, less 20 of the IP header.
const (
	maxUDP4 = 65507
	maxUDP6 = 65527
)

// A DatagramConn is a UDP socket of the stack, connected or not. Its data goes
// through a unix socket, so an error of a send shows in the next call: of a
// connected one in the next Read or Write, else in the next write.
type DatagramConn struct {
	clientFlow
	local  *net.UDPAddr
	remote *net.UDPAddr // nil when not connected
	// failed is an error that an earlier write met.
	failed atomic.Pointer[syscall.Errno]
}

var (
	_ net.Conn       = (*DatagramConn)(nil)
	_ net.PacketConn = (*DatagramConn)(nil)
)

func newDatagramConn(s *Session, rep Reply, ep *endpoint) *DatagramConn {
	c := &DatagramConn{clientFlow: newClientFlow(s, rep, ep), local: udpAddr(rep.Local)}
	if rep.Remote != "" {
		c.remote = udpAddr(rep.Remote)
	}
	return c
}

func udpAddr(s string) *net.UDPAddr {
	ap, _ := netip.ParseAddrPort(s)
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
}

// ListenPacket makes an unconnected UDP socket; network is "udp", "udp4" or "udp6". The
// result is a *DatagramConn.
func (c *Client) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	if address == "" {
		address = ":0"
	}
	s, rep, ep, err := c.open(ctx, Request{Op: "udp", Network: network, Local: address, Framed: true}, unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, netError("listen", network, address, err)
	}
	return newDatagramConn(s, rep, ep), nil
}

// LocalAddr returns the stack's address, a *net.UDPAddr.
func (c *DatagramConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the peer's address, a *net.UDPAddr, or nil when not connected.
func (c *DatagramConn) RemoteAddr() net.Addr {
	if c.remote == nil {
		return nil
	}
	return c.remote
}

func (c *DatagramConn) opError(op string, addr net.Addr, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "udp", Source: c.local, Addr: addr, Err: err}
}

// Read reads one datagram; what does not fit into b is lost.
func (c *DatagramConn) Read(b []byte) (int, error) {
	n, _, err := c.ReadFromUDPAddrPort(b)
	return n, err
}

// ReadFrom implements net.PacketConn with a *net.UDPAddr.
func (c *DatagramConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDPAddrPort reads one datagram and its sender; what does not fit into b is lost.
func (c *DatagramConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	p := datagramBuffers.Get().(*[]byte)
	defer datagramBuffers.Put(p)
	for {
		if c.remote != nil {
			if errno := c.failed.Swap(nil); errno != nil {
				return 0, netip.AddrPort{}, c.opError("read", c.RemoteAddr(), *errno)
			}
		}
		n, err := c.ep.recv(func(fd int) (int, error) { return recvNow(fd, *p) })
		if err != nil || n == 0 {
			return 0, netip.AddrPort{}, c.opError("read", c.RemoteAddr(), c.over(err))
		}
		f, payload, err := parseUDPFrame((*p)[:n])
		if err != nil {
			continue
		}
		if f.kind == frameData {
			return copy(b, payload), f.addr, nil
		}
		c.failed.Store(&f.errno)
	}
}

// over explains why the data socket gives no more.
func (c *DatagramConn) over(err error) error {
	if err == nil || err == syscall.EPIPE || err == syscall.ECONNRESET {
		if why, ok := c.ended(); ok && why != nil {
			return why
		}
		return net.ErrClosed
	}
	return err
}

// Write sends one datagram of a connected socket.
func (c *DatagramConn) Write(b []byte) (int, error) {
	if c.remote == nil {
		return 0, c.opError("write", nil, syscall.EDESTADDRREQ)
	}
	return c.write(b, netip.AddrPort{}, c.RemoteAddr())
}

// WriteTo implements net.PacketConn; addr is a *net.UDPAddr.
func (c *DatagramConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	u, ok := addr.(*net.UDPAddr)
	if !ok || u == nil {
		return 0, c.opError("write", addr, syscall.EINVAL)
	}
	return c.WriteToUDPAddrPort(b, u.AddrPort())
}

// WriteToUDPAddrPort sends one datagram to addr.
func (c *DatagramConn) WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error) {
	to := net.UDPAddrFromAddrPort(addr)
	switch {
	case c.remote != nil:
		return 0, c.opError("write", to, net.ErrWriteToConnected)
	case !addr.IsValid():
		return 0, c.opError("write", to, syscall.EDESTADDRREQ)
	}
	return c.write(b, addr, to)
}

func (c *DatagramConn) write(b []byte, to netip.AddrPort, addr net.Addr) (int, error) {
	limit := maxUDP6
	if to.Addr().Unmap().Is4() || !to.IsValid() && c.remote.IP.To4() != nil {
		limit = maxUDP4
	}
	if len(b) > limit {
		return 0, c.opError("write", addr, syscall.EMSGSIZE)
	}
	if errno := c.failed.Swap(nil); errno != nil {
		return 0, c.opError("write", addr, *errno)
	}
	p := datagramBuffers.Get().(*[]byte)
	defer datagramBuffers.Put(p)
	frame := append(udpFrame{kind: frameData, addr: to}.append((*p)[:0]), b...)
	if err := c.ep.Send(frame); err != nil {
		return 0, c.opError("write", addr, c.over(err))
	}
	return len(b), nil
}

// Close closes the socket; what was written is sent still. The port is free again
// when it returns.
func (c *DatagramConn) Close() error {
	if err := c.close("close"); err != nil {
		return c.opError("close", nil, err)
	}
	t := time.NewTimer(endWait)
	defer t.Stop()
	select {
	case <-c.end.done:
	case <-t.C:
	}
	return nil
}

// SetDeadline implements net.Conn.
func (c *DatagramConn) SetDeadline(t time.Time) error { return c.deadline(c.ep.SetDeadline(t)) }

// SetReadDeadline implements net.Conn.
func (c *DatagramConn) SetReadDeadline(t time.Time) error {
	return c.deadline(c.ep.SetReadDeadline(t))
}

// SetWriteDeadline implements net.Conn.
func (c *DatagramConn) SetWriteDeadline(t time.Time) error {
	return c.deadline(c.ep.SetWriteDeadline(t))
}

func (c *DatagramConn) deadline(err error) error {
	if err == nil {
		return nil
	}
	return c.opError("set", nil, rawError(err))
}
