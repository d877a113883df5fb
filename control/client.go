package control

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// A Client talks to a daemon. Its zero value uses the path that SocketPath
// finds. It is safe for concurrent use. Close it when done: the connections and
// listeners it made share one connection to the daemon, which ends then.
type Client struct {
	// Path is the daemon's socket; "" stands for SocketPath("").
	Path string
}

// DialConfig holds what DialFlow sets before it connects.
type DialConfig struct {
	// Local is the address to connect from; zero lets the stack choose, a zero
	// port is any free one.
	Local netip.AddrPort
	// Options are socket options by name, see protocol.md.
	Options map[string]int
}

// ErrNoDaemon is what errors.Is finds when no daemon listens at the Client's path.
var ErrNoDaemon = errors.New("no daemon")

func (c *Client) Status(ctx context.Context) (Status, error)          { return Status{}, nil }
func (c *Client) Links(ctx context.Context) ([]Link, error)           { return nil, nil }
func (c *Client) Addrs(ctx context.Context) ([]Addr, error)           { return nil, nil }
func (c *Client) Routes(ctx context.Context) ([]Route, error)         { return nil, nil }
func (c *Client) Neighbours(ctx context.Context) ([]Neighbour, error) { return nil, nil }
func (c *Client) Sockets(ctx context.Context) ([]SocketInfo, error)   { return nil, nil }
func (c *Client) Stats(ctx context.Context) (Stats, error)            { return Stats{}, nil }

func (c *Client) AddAddr(ctx context.Context, a netip.Prefix) error     { return nil }
func (c *Client) DelAddr(ctx context.Context, a netip.Prefix) error     { return nil }
func (c *Client) AddRoute(ctx context.Context, r Route) error           { return nil }
func (c *Client) DelRoute(ctx context.Context, r Route) error           { return nil }
func (c *Client) AddNeighbour(ctx context.Context, n Neighbour) error   { return nil }
func (c *Client) DelNeighbour(ctx context.Context, ip netip.Addr) error { return nil }
func (c *Client) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return nil, nil
}

// DialContext connects like net.Dialer.DialContext. Networks are "tcp", "tcp4",
// "tcp6", "udp", "udp4" and "udp6". The result is a *StreamConn or a *DatagramConn.
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return c.DialFlow(ctx, network, address, DialConfig{})
}

// DialFlow is DialContext with a local address and socket options.
func (c *Client) DialFlow(ctx context.Context, network, address string, cfg DialConfig) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// Listen listens for TCP connections; network is "tcp", "tcp4" or "tcp6". The
// result is a *StreamListener and accepts *StreamConns.
func (c *Client) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return nil, errors.ErrUnsupported
}

// ListenPacket makes an unconnected UDP socket. The result is a *DatagramConn.
func (c *Client) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return nil, errors.ErrUnsupported
}

// ListenICMP makes an ICMP socket; network is "ip4" or "ip6".
func (c *Client) ListenICMP(ctx context.Context, network string) (ICMPConn, error) {
	return nil, errors.ErrUnsupported
}

// Close ends what the client has open.
func (c *Client) Close() error { return nil }

// SocketPath returns the path of the daemon's socket for a client: flag if it is not
// empty, else $USTACK_SOCKET, else the first that exists of
// $XDG_RUNTIME_DIR/ustack.sock and /run/ustack.sock.
func SocketPath(flag string) string { return flag }

// ListenPath returns the path at which a daemon makes its socket: flag if it is not
// empty, else $USTACK_SOCKET, else /run/ustack.sock for root and
// $XDG_RUNTIME_DIR/ustack.sock for others. isDefault says that neither the flag nor
// the environment named it.
func ListenPath(flag string) (path string, isDefault bool, err error) { return flag, false, nil }

// ServerConfig, Server: see server.go when it is there.
type stubDeadline interface{ SetDeadline(time.Time) error }
