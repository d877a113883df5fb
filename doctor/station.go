package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/link/spec"
	"github.com/ustack/ustack/stack"
)

// A station is the stack's end of the wire, as far as it can be asked.
type station interface {
	// state takes a snapshot of the stack's side.
	state(ctx context.Context) (*Stack, error)
	// icmp makes an ICMP socket; network is "ip4" or "ip6".
	icmp(ctx context.Context, network string) (control.ICMPConn, error)
	// dial connects as control.Client.DialContext does.
	dial(ctx context.Context, network, address string) (net.Conn, error)
	// forget has a neighbour asked for anew that was learned; one that was set stays.
	forget(ctx context.Context, ip netip.Addr)
	close() error
}

// daemonStation is a running daemon.
type daemonStation struct {
	client *control.Client
	link   string
}

func (d daemonStation) state(ctx context.Context) (*Stack, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	st, err := d.client.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("doctor: status of the daemon: %w", err)
	}
	return askDaemon(ctx, d.client, &st, d.link)
}

func (d daemonStation) icmp(ctx context.Context, network string) (control.ICMPConn, error) {
	return d.client.ListenICMP(ctx, network)
}

func (d daemonStation) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return d.client.DialContext(ctx, network, address)
}

func (d daemonStation) forget(ctx context.Context, ip netip.Addr) {
	all, err := d.client.Neighbours(ctx)
	if err != nil {
		return
	}
	for _, n := range all {
		if n.IP == ip && n.State != "permanent" {
			d.client.DelNeighbour(ctx, ip) // one that is gone meanwhile is as good
		}
	}
}

func (daemonStation) close() error { return nil }

// ownStation is a stack of this process's.
type ownStation struct {
	*stack.Stack
	spec string
}

// startStation opens the tap and puts a stack on it.
func startStation(cfg *Config, env *Environment) (*ownStation, error) {
	dev, err := spec.Open(cfg.Link, spec.Env{Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	s, err := stack.New(stack.Config{Device: dev, HardwareAddr: cfg.HardwareAddr, Addrs: ownAddrs(cfg, env), Logger: cfg.Logger})
	if err != nil {
		dev.Close()
		return nil, err
	}
	return &ownStation{s, cfg.Link.String()}, nil
}

// ownAddrs returns the addresses of a private stack: those of cfg, else a free one in
// each network that the host has on the tap.
func ownAddrs(cfg *Config, env *Environment) []netip.Prefix {
	if len(cfg.Addrs) > 0 {
		return cfg.Addrs
	}
	var all []netip.Prefix
	for _, host := range env.HostAddrs() {
		if host.Addr().IsLinkLocalUnicast() || host.IsSingleIP() {
			continue
		}
		if ip, ok := freeIn(host, env); ok {
			all = append(all, netip.PrefixFrom(ip, host.Bits()))
		}
	}
	return all
}

// freeIn returns an address near the host's that nobody is known to have.
func freeIn(host netip.Prefix, env *Environment) (netip.Addr, bool) {
	taken := map[netip.Addr]bool{host.Masked().Addr(): true}
	for _, p := range env.HostAddrs() {
		taken[p.Addr()] = true
	}
	if env.Master() != nil { // else nobody but the stack could have one
		for _, n := range env.hostNeighbours() {
			taken[n.ip] = true
		}
	}
	// What `ustack up` takes by default is one below its host.
	for _, ip := range []netip.Addr{host.Addr().Prev(), host.Addr().Next(), host.Addr().Next().Next(), host.Addr().Prev().Prev()} {
		if ip.IsValid() && host.Contains(ip) && !taken[ip] && !isBroadcast(host, ip) {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// isBroadcast reports whether ip is the last address of an IPv4 network, which is its
// broadcast address (RFC 919).
func isBroadcast(network netip.Prefix, ip netip.Addr) bool {
	return ip.Is4() && network.Bits() < 31 && !network.Contains(ip.Next())
}

func (o *ownStation) state(context.Context) (*Stack, error) {
	s := &Stack{Counters: o.Stats()}
	for _, l := range o.Links() {
		if l.Name == o.Name() {
			s.Link = control.Link{
				Name: l.Name, Spec: o.spec, Kind: l.Kind, Driver: l.Driver, HardwareAddr: l.HardwareAddr.String(),
				MTU: l.MTU, State: l.State, Queues: l.Queues, OffloadsRX: l.RX.String(), OffloadsTX: l.TX.String(),
				RxFrames: l.Stats.RxFrames, RxBytes: l.Stats.RxBytes,
				TxFrames: l.Stats.TxFrames, TxBytes: l.Stats.TxBytes, Drops: l.Stats.Drops,
			}
		}
	}
	for _, a := range o.Stack.Addrs() {
		s.Addrs = append(s.Addrs, control.Addr(a))
	}
	for _, r := range o.Stack.Routes() {
		s.Routes = append(s.Routes, control.Route(r))
	}
	for _, n := range o.Stack.Neighbours() {
		s.Neighbours = append(s.Neighbours, control.Neighbour{
			Link: n.Link, IP: n.IP, HardwareAddr: n.HardwareAddr.String(), State: n.State, Updated: n.Updated,
		})
	}
	s.DNS, _ = o.Stack.DNS()
	return s, nil
}

func (o *ownStation) icmp(_ context.Context, network string) (control.ICMPConn, error) {
	c, err := o.ICMP(network)
	if err != nil {
		return nil, err
	}
	return icmpConn{c}, nil
}

func (o *ownStation) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return o.DialContext(ctx, network, address)
}

func (*ownStation) forget(context.Context, netip.Addr) {} // it knows nobody yet

func (o *ownStation) close() error { return o.Close() }

// icmpConn is a stack.ICMPConn that receives control's messages.
type icmpConn struct{ *stack.ICMPConn }

func (c icmpConn) ReadICMP() (control.ICMPMessage, error) {
	m, err := c.ICMPConn.ReadICMP()
	return control.ICMPMessage(m), err
}
