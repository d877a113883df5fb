package control

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// DialConfig holds what DialFlow sets before it connects.
type DialConfig struct {
	// Local is the address to connect from; the zero value lets the stack choose, a
	// zero port is any free one.
	Local netip.AddrPort
	// Options are socket options by the names they have in protocol.md.
	Options map[string]int
}

// DialContext connects like (*net.Dialer).DialContext. Networks are "tcp", "tcp4",
// "tcp6", "udp", "udp4" and "udp6"; the result is a *StreamConn or a *DatagramConn. A
// name is resolved by the stack's DNS servers. An error is a *net.OpError around a
// syscall.Errno or a *net.DNSError, or a *DaemonError when the daemon cannot be asked.
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return c.DialFlow(ctx, network, address, DialConfig{})
}

// DialFlow is DialContext from a local address and with socket options.
func (c *Client) DialFlow(ctx context.Context, network, address string, cfg DialConfig) (net.Conn, error) {
	r := Request{Op: "dial", Network: network, Address: address, Options: cfg.Options}
	if cfg.Local.IsValid() {
		r.Local = cfg.Local.String()
	}
	typ := unix.SOCK_STREAM
	switch network {
	case "tcp", "tcp4", "tcp6":
	case "udp", "udp4", "udp6":
		r.Op, r.Framed = "udp", true
		typ = unix.SOCK_SEQPACKET
		if address == "" {
			return nil, dialError(network, address, &net.AddrError{Err: "missing address"})
		}
	default:
		return nil, dialError(network, address, net.UnknownNetworkError(network))
	}
	s, rep, ep, err := c.open(ctx, r, typ)
	if err != nil {
		return nil, dialError(network, address, err)
	}
	if typ == unix.SOCK_STREAM {
		return newStreamConn(s, rep, ep), nil
	}
	return newDatagramConn(s, rep, ep), nil
}

// open sends a request that makes a flow, with the far end of a new socket pair unless typ
// is 0. A session whose daemon has gone is replaced once: another may have taken its place.
func (c *Client) open(ctx context.Context, r Request, typ int) (s *Session, rep Reply, ep *endpoint, err error) {
	for range 2 {
		if err = ctx.Err(); err != nil {
			break
		}
		if s, err = c.shared(ctx); err != nil {
			break
		}
		fd := -1
		if typ != 0 {
			if ep, fd, err = socketPair(typ); err != nil {
				break
			}
		}
		if rep, err = s.Call(ctx, r, fd); err == nil {
			return s, rep, ep, nil
		}
		if ep != nil {
			ep.Close()
		}
		if s.Err() == nil {
			break
		}
	}
	return nil, Reply{}, nil, err
}

// dialError wraps an error as net.Dialer would.
func dialError(network, address string, err error) error {
	return netError("dial", network, address, err)
}

func netError(op, network, address string, err error) error {
	var daemon *DaemonError
	if errors.As(err, &daemon) {
		return err
	}
	e := &net.OpError{Op: op, Net: network, Err: err}
	if ap, perr := netip.ParseAddrPort(address); perr == nil {
		if network[0] == 'u' {
			e.Addr = net.UDPAddrFromAddrPort(ap)
		} else {
			e.Addr = net.TCPAddrFromAddrPort(ap)
		}
	}
	if errno, ok := err.(syscall.Errno); ok && op == "dial" {
		e.Err = os.NewSyscallError("connect", errno)
	}
	return e
}
