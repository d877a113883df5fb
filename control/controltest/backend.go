// Package controltest has a control.Backend on the kernel's loopback network, for
// tests of what talks to a control.Server: no stack, no privilege.
package controltest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/ustack/ustack/control"
)

// A Backend makes kernel sockets, which are to be used on loopback only, and keeps
// addresses, routes and neighbours as mere lists. Its zero value is ready.
type Backend struct {
	// Hosts are the names that LookupNetIP and DialContext know. Others do not exist;
	// "timeout.test" times out.
	Hosts map[string][]netip.Addr
	// BeforeDial, if set, is called by DialContext and may block or fail it.
	BeforeDial func(ctx context.Context, network, address string) error

	mu         sync.Mutex
	addrs      []control.Addr
	routes     []control.Route
	neighbours []control.Neighbour
	sockets    []control.SocketInfo
}

var _ control.Backend = (*Backend)(nil)

// SetSockets sets what Sockets returns.
func (b *Backend) SetSockets(s []control.SocketInfo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sockets = s
}

// LookupNetIP implements control.Backend.
func (b *Backend) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	if host == "timeout.test" {
		return nil, &net.DNSError{Err: "i/o timeout", Name: host, Server: "192.0.2.53:53", IsTimeout: true, IsTemporary: true}
	}
	var out []netip.Addr
	for _, a := range b.Hosts[host] {
		if network == "ip" || a.Is4() == (network == "ip4") {
			out = append(out, a)
		}
	}
	if out == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, Server: "192.0.2.53:53", IsNotFound: true}
	}
	return out, nil
}

// DialContext implements control.Backend.
func (b *Backend) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if b.BeforeDial != nil {
		if err := b.BeforeDial(ctx, network, address); err != nil {
			return nil, &net.OpError{Op: "dial", Net: network, Err: err}
		}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addrs := []netip.Addr{{}}
	if a, err := netip.ParseAddr(host); err == nil {
		addrs[0] = a
	} else if addrs, err = b.LookupNetIP(ctx, "ip"+network[3:], host); err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, net.JoinHostPort(addrs[0].String(), port))
	if err != nil {
		return nil, err
	}
	return newConn(c.(*net.TCPConn)), nil
}

// Status implements control.Backend.
func (b *Backend) Status() control.Status {
	return control.Status{Version: "test", PID: os.Getpid(), Links: b.Links(), Addrs: b.Addrs(), Routes: b.Routes()}
}

// Links implements control.Backend.
func (b *Backend) Links() []control.Link {
	return []control.Link{{Name: "lo", Kind: "loopback", MTU: 65536, State: "up"}}
}

// Addrs implements control.Backend.
func (b *Backend) Addrs() []control.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]control.Addr(nil), b.addrs...)
}

// Routes implements control.Backend.
func (b *Backend) Routes() []control.Route {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]control.Route(nil), b.routes...)
}

// Neighbours implements control.Backend.
func (b *Backend) Neighbours() []control.Neighbour {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]control.Neighbour(nil), b.neighbours...)
}

// Sockets implements control.Backend.
func (b *Backend) Sockets() []control.SocketInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]control.SocketInfo(nil), b.sockets...)
}

// Stats implements control.Backend.
func (b *Backend) Stats() control.Stats {
	return control.Stats{Counters: map[string]uint64{"ip.packets_received": 1}}
}

// AddAddr implements control.Backend.
func (b *Backend) AddAddr(_ context.Context, p netip.Prefix) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.addrs {
		if a.Prefix == p {
			return syscall.EEXIST
		}
	}
	b.addrs = append(b.addrs, control.Addr{Link: "lo", Prefix: p, Origin: "static", State: "assigned"})
	return nil
}

// DelAddr implements control.Backend.
func (b *Backend) DelAddr(_ context.Context, p netip.Prefix) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, a := range b.addrs {
		if a.Prefix == p {
			b.addrs = append(b.addrs[:i], b.addrs[i+1:]...)
			return nil
		}
	}
	return syscall.EADDRNOTAVAIL
}

// AddRoute implements control.Backend.
func (b *Backend) AddRoute(_ context.Context, r control.Route) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.routes = append(b.routes, r)
	return nil
}

// DelRoute implements control.Backend.
func (b *Backend) DelRoute(_ context.Context, r control.Route) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, have := range b.routes {
		if have.Dst == r.Dst {
			b.routes = append(b.routes[:i], b.routes[i+1:]...)
			return nil
		}
	}
	return syscall.ESRCH
}

// AddNeighbour implements control.Backend.
func (b *Backend) AddNeighbour(_ context.Context, n control.Neighbour) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.neighbours = append(b.neighbours, n)
	return nil
}

// DelNeighbour implements control.Backend.
func (b *Backend) DelNeighbour(_ context.Context, ip netip.Addr) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, n := range b.neighbours {
		if n.IP == ip {
			b.neighbours = append(b.neighbours[:i], b.neighbours[i+1:]...)
			return nil
		}
	}
	return syscall.ENOENT
}

// ICMP implements control.Backend: 127.0.0.0/8 and ::1 answer echo requests, nothing
// else can be reached.
func (b *Backend) ICMP(network string) (control.ICMPConn, error) {
	c := &icmpConn{queue: make(chan control.ICMPMessage, 256), done: make(chan struct{}), options: map[string]int{"ip.ttl": 64}}
	c.echo, c.reply = 8, 0 // RFC 792
	if network == "ip6" {
		c.echo, c.reply = 128, 129 // RFC 4443 section 4
	}
	return c, nil
}

type icmpConn struct {
	echo, reply byte
	queue       chan control.ICMPMessage
	done        chan struct{}
	once        sync.Once

	mu      sync.Mutex
	options map[string]int
}

func (c *icmpConn) SetOption(name string, value int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name != "ip.ttl" && name != "ip.tos" && name != "ip.mtu_discover" && name != "so.broadcast" {
		return syscall.ENOPROTOOPT
	}
	c.options[name] = value
	return nil
}

func (c *icmpConn) Option(name string) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.options[name]
	if !ok {
		return 0, syscall.ENOPROTOOPT
	}
	return v, nil
}

func (c *icmpConn) ReadICMP() (control.ICMPMessage, error) {
	select {
	case m := <-c.queue:
		return m, nil
	case <-c.done:
		return control.ICMPMessage{}, net.ErrClosed
	}
}

func (c *icmpConn) WriteICMP(data []byte, to netip.Addr) error {
	if !to.IsLoopback() {
		return syscall.ENETUNREACH
	}
	if len(data) < 8 || data[0] != c.echo {
		return nil
	}
	answer := append([]byte(nil), data...)
	answer[0] = c.reply
	select {
	case c.queue <- control.ICMPMessage{Data: answer, From: to, To: to, TTL: 64, At: time.Now()}:
	default:
	}
	return nil
}

func (c *icmpConn) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

func (c *icmpConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}
