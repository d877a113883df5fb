package nc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/ustack/ustack/control"
)

const (
	// probeTime is how long a UDP scan waits for "port unreachable".
	probeTime   = time.Second
	probeTries  = 2
	probeLength = 1
)

// connect does what the flags ask for with each port in turn. It succeeds if one of
// them did.
func (n *netcat) connect(ctx context.Context) error {
	lookup, cancel := n.limit(ctx)
	addrs, err := n.addrs(lookup, n.host)
	cancel()
	if err != nil {
		return err
	}
	result := errReported
	for _, port := range n.ports {
		conn, to, err := n.dial(ctx, addrs, port)
		if err == nil {
			if n.scan {
				err = n.probe(ctx, conn, to)
			} else {
				n.succeeded(to)
				err = n.relay(ctx, conn, fmt.Sprintf("%s port %d", n.show(to.Addr()), port))
			}
		}
		switch {
		case err == nil:
			result = nil
		case daemonError(err) != nil:
			return daemonError(err)
		case ctx.Err() != nil:
			return err
		case !n.scan || n.verbose:
			fmt.Fprintf(n.env.Stderr, "nc: %v\n", err)
		}
	}
	return result
}

// limit applies -w.
func (n *netcat) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if n.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, n.timeout)
}

// show names an address, and the name it came from.
func (n *netcat) show(ip netip.Addr) string {
	if s := ip.String(); s != n.host {
		return fmt.Sprintf("%s (%s)", n.host, s)
	}
	return n.host
}

func (n *netcat) succeeded(to netip.AddrPort) {
	n.logf("Connection to %s %d port [%s/*] succeeded!", n.show(to.Addr()), to.Port(), n.proto())
}

// dial connects to the first address that lets it.
func (n *netcat) dial(ctx context.Context, addrs []netip.Addr, port uint16) (net.Conn, netip.AddrPort, error) {
	local, err := n.local()
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	for i, ip := range addrs {
		to := netip.AddrPortFrom(ip, port)
		cfg := control.DialConfig{Local: local}
		if n.localPort != 0 && n.localAddr == "" {
			cfg.Local = netip.AddrPortFrom(unspecified(ip), n.localPort)
		}
		limited, cancel := n.limit(ctx)
		conn, dialErr := n.env.Network.DialFlow(limited, n.network(), to.String(), cfg)
		cancel()
		if dialErr == nil {
			return conn, to, nil
		}
		if daemonError(dialErr) != nil {
			return nil, to, dialErr
		}
		if ctx.Err() != nil {
			return nil, to, fmt.Errorf("connect to %s port %d (%s): interrupted", n.show(ip), port, n.proto())
		}
		err = fmt.Errorf("connect to %s port %d (%s) failed: %s", n.show(ip), port, n.proto(), errText(dialErr))
		if i < len(addrs)-1 {
			n.logf("nc: %v", err)
		}
	}
	return nil, netip.AddrPort{}, err
}

// local is the address of -s and -p.
func (n *netcat) local() (netip.AddrPort, error) {
	if n.localAddr == "" {
		return netip.AddrPort{}, nil
	}
	ip, err := netip.ParseAddr(n.localAddr)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("option -s: %q is not an IP address", n.localAddr)
	}
	return netip.AddrPortFrom(ip.Unmap(), n.localPort), nil
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// probe is -z: a TCP connection has said enough by existing; a UDP port is taken for
// open unless it is refused.
func (n *netcat) probe(ctx context.Context, conn net.Conn, to netip.AddrPort) error {
	defer conn.Close()
	if n.udp {
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		wait := probeTime
		if n.timeout > 0 {
			wait = n.timeout
		}
		buf := make([]byte, probeLength)
		for range probeTries {
			_, err := conn.Write(buf)
			if err == nil {
				conn.SetReadDeadline(time.Now().Add(wait / probeTries))
				_, err = conn.Read(buf)
			}
			if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("connect to %s port %d (udp) failed: %s", n.show(to.Addr()), to.Port(), errText(err))
			}
			if err == nil {
				break
			}
		}
	}
	n.succeeded(to)
	return nil
}
