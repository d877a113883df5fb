package nc

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
)

// listenAddress is the "host:port" of -l.
func (n *netcat) listenAddress(ctx context.Context) (string, error) {
	host := n.host
	if host != "" {
		addrs, err := n.addrs(ctx, host)
		if err != nil {
			return "", err
		}
		host = addrs[0].String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(n.ports[0]))), nil
}

// listenError says what could not be listened on.
func (n *netcat) listenError(address string, err error) error {
	if daemon := daemonError(err); daemon != nil {
		return daemon
	}
	return fmt.Errorf("listen on %s (%s): %s", address, n.proto(), errText(err))
}

func hostPort(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host + " " + port
}

// listenTCP serves one connection, or with -k one after another.
func (n *netcat) listenTCP(ctx context.Context) error {
	address, err := n.listenAddress(ctx)
	if err != nil {
		return err
	}
	l, err := n.env.Network.Listen(ctx, n.network(), address)
	if err != nil {
		return n.listenError(address, err)
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	n.logf("Listening on %s", hostPort(l.Addr()))
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("listen on %s: interrupted", address)
			}
			return fmt.Errorf("accept on %s: %s", address, errText(err))
		}
		if !n.keep {
			l.Close() // the next client is refused, not left waiting
		}
		n.logf("Connection received on %s", hostPort(conn.RemoteAddr()))
		err = n.relay(ctx, conn, conn.RemoteAddr().String())
		if !n.keep {
			return err
		}
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(n.env.Stderr, "nc: %v\n", err)
		}
	}
}

// listenUDP waits for a datagram and then exchanges with its sender; with -k it
// receives from everybody, and standard input goes to whoever sent last.
func (n *netcat) listenUDP(ctx context.Context) error {
	address, err := n.listenAddress(ctx)
	if err != nil {
		return err
	}
	conn, err := n.env.Network.ListenPacket(ctx, n.network(), address)
	if err != nil {
		return n.listenError(address, err)
	}
	defer conn.Close()
	n.logf("Bound on %s", hostPort(conn.LocalAddr()))

	first := make([]byte, bufferSize)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	k, from, err := conn.ReadFrom(first)
	stop()
	if ctx.Err() != nil {
		return fmt.Errorf("listen on %s: interrupted", address)
	}
	if err != nil {
		return fmt.Errorf("receive on %s: %s", address, errText(err))
	}
	n.logf("Connection received on %s", hostPort(from))
	return n.relay(ctx, &udpPeer{conn: conn, any: n.keep, to: from, first: first[:k]}, from.String())
}

// A udpPeer is the sender of the first datagram, or of the last.
type udpPeer struct {
	conn net.PacketConn
	any  bool

	mu    sync.Mutex
	to    net.Addr
	first []byte // received, not yet read
}

func (p *udpPeer) Read(b []byte) (int, error) {
	if p.first != nil {
		k := copy(b, p.first)
		p.first = nil
		return k, nil
	}
	for {
		k, from, err := p.conn.ReadFrom(b)
		if err != nil {
			return 0, err
		}
		p.mu.Lock()
		if p.any {
			p.to = from
		}
		ours := p.to.String() == from.String()
		p.mu.Unlock()
		if ours {
			return k, nil
		}
	}
}

func (p *udpPeer) Write(b []byte) (int, error) {
	p.mu.Lock()
	to := p.to
	p.mu.Unlock()
	return p.conn.WriteTo(b, to)
}

func (p *udpPeer) Close() error { return p.conn.Close() }
