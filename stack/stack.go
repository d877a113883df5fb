// Package stack is a TCP/IP stack in user space on any wire that carries Ethernet
// frames: gVisor's netstack behind the types of package net.
//
// A Stack has its own MAC and addresses on one link.Device, and a loopback
// interface. Dial, Listen and ListenPacket answer net.Conn, net.Listener and
// net.PacketConn; errors carry the errno that a kernel socket would give, so that
// errors.Is(err, syscall.ECONNREFUSED) and the like work. HTTP goes through
// http.Transport{DialContext: s.DialContext}.
package stack

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/raw"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/tapendpoint"
)

// Config configures New. Only Device is required; without addresses the stack
// can reach only itself until AddAddr, DHCP or SLAAC gives it one.
type Config struct {
	// Device is the wire. The Stack owns it from the moment New succeeds.
	Device link.Device
	// Name is the interface's name in the stack; "" takes the Device's.
	Name string
	// HardwareAddr is the stack's own MAC; nil makes up a random, locally
	// administered one.
	HardwareAddr net.HardwareAddr
	// MTU in bytes; 0 takes the Device's.
	MTU int
	// Addrs are static addresses with the length of their network's prefix.
	Addrs []netip.Prefix
	// Gateways are the default routes, at most one for each address family. Each
	// must be on one of the networks of Addrs, or be an IPv6 link-local address.
	Gateways []netip.Addr
	// DNS are the name servers, asked in order.
	DNS []netip.AddrPort
	// Search are the domains tried for names that have no dot.
	Search []string
	// SLAAC takes IPv6 addresses, routes and name servers from router
	// advertisements (RFC 4862, RFC 8106).
	SLAAC bool
	// CongestionControl of TCP: "reno" (RFC 5681) or "cubic" (RFC 9438); "" is
	// DefaultCongestionControl.
	CongestionControl string
	// LossDetection of TCP: "rack" (RFC 8985), or "sack" for duplicate
	// acknowledgements alone (RFC 6675); "" is DefaultLossDetection.
	LossDetection string
	// MinRTO is the shortest retransmission timeout of TCP (RFC 6298 section 2.4),
	// from 1 ms to 10 s; 0 is DefaultMinRTO.
	MinRTO time.Duration
	// Memory is how many bytes the receive and send buffers of all TCP and UDP sockets
	// may hold together; 0 is DefaultMemory, less than MinMemory an error. Each socket
	// has at least 4 KiB for each direction all the same.
	Memory int64
	// Observers are told what becomes of each frame and of the bytes of each socket; nil is
	// nobody.
	Observers *link.Observers
	// Logger may be nil.
	Logger *slog.Logger
}

// The interfaces of a Stack.
const (
	nicID tcpip.NICID = 1
	loID  tcpip.NICID = 2

	loName = "lo"
)

// A Stack is a TCP/IP stack. All methods may be called concurrently.
type Stack struct {
	ns        *gstack.Stack
	ep        *tapendpoint.Endpoint
	name      string
	log       *slog.Logger
	dns       dnsConfig
	auto      *autoconf
	orig      origins
	routes    routeOrigins
	listeners listeners
	conns     conns
	mem       memory
	icmp6     icmp6Conns
	icmpOpen  atomic.Int64 // open ICMP sockets
	connects  connectTimes
	counted   lastCount
	warn      warnings
	observers *link.Observers
	drain     drain

	closeOnce sync.Once
	closeErr  error
	closed    chan struct{}
}

// New puts a stack on the wire. It answers ARP, neighbour solicitations and pings
// as soon as New returns.
func New(cfg Config) (*Stack, error) {
	if cfg.Device == nil {
		return nil, errors.New("stack: Config.Device is nil")
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	mac := cfg.HardwareAddr
	if mac == nil {
		mac = randomHardwareAddr()
	}
	s := &Stack{
		name:   cfg.Name,
		log:    log,
		closed: make(chan struct{}),

		observers: cfg.Observers,
	}
	s.conns.observers = cfg.Observers
	if s.name == "" {
		s.name = cfg.Device.Info().Name
	}
	ceiling := cfg.Memory
	if ceiling == 0 {
		ceiling = DefaultMemory()
	}
	if ceiling < MinMemory {
		return nil, fmt.Errorf("stack: Config.Memory is %d bytes: use at least %d", ceiling, MinMemory)
	}
	s.mem.init(ceiling)
	s.dns.set(cfg.DNS, cfg.Search)
	s.auto = newAutoconf(s, cfg.SLAAC)
	ep, err := tapendpoint.New(tapendpoint.Config{
		Device: cfg.Device, HardwareAddr: mac, MTU: cfg.MTU, Logger: log, Observers: cfg.Observers,
		OnARP: s.auto.seeARP, OnNeighbourAdvert: s.auto.seeNeighbourAdvert,
	})
	if err != nil {
		return nil, fmt.Errorf("stack: %w", err)
	}
	if err := checkNetworks(cfg, int(ep.MTU())); err != nil {
		return nil, fmt.Errorf("stack: %w", err)
	}
	s.ep = ep
	s.auto.setMTU(int(ep.MTU()))
	s.ns = gstack.New(gstack.Options{
		NetworkProtocols: []gstack.NetworkProtocolFactory{
			ipv4.NewProtocol,
			ipv6.NewProtocolWithOptions(s.auto.ipv6Options()),
			arp.NewProtocol,
		},
		TransportProtocols: []gstack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		HandleLocal: true,
		RawFactory:  &raw.EndpointFactory{},
	})
	s.ns.SetTransportProtocolHandler(icmp.ProtocolNumber6, s.icmp6.deliver)
	s.conns.setTimeWait = s.setTimeWait
	if err := s.setUp(cfg); err != nil {
		// The caller still owns the Device, which has not been read yet.
		s.ns.RemoveNIC(nicID)
		s.ns.Close()
		return nil, fmt.Errorf("stack: %w", err)
	}
	return s, nil
}

// setUp makes the interfaces last, so that nothing is read from the Device unless
// New succeeds.
func (s *Stack) setUp(cfg Config) error {
	if err := s.tune(cfg); err != nil {
		return err
	}
	if err := s.ns.CreateNICWithOptions(loID, loopback.New(), gstack.NICOptions{Name: loName}); err != nil {
		return fmt.Errorf("create loopback interface: %w", errno(err))
	}
	for _, lo := range []string{"127.0.0.1/8", "::1/128"} {
		if err := s.addAddr(loID, netip.MustParsePrefix(lo), OriginLoopback); err != nil {
			return err
		}
	}
	// Created disabled, so that it is configured before the first frame.
	out := newSynAcks(s.ep)
	if err := s.ns.CreateNICWithOptions(nicID, s.ep, gstack.NICOptions{Name: s.name, Disabled: true, QDisc: out}); err != nil {
		out.Close()
		return fmt.Errorf("create interface %s: %w", s.name, errno(err))
	}
	if err := s.auto.configureNIC(); err != nil {
		return err
	}
	// netstack keeps an IPv6 address tentative until the interface is up, and then
	// for as long as it is checked: those are added afterwards, see addAddr6.
	addAddrs := func(is6 bool) error {
		for _, a := range cfg.Addrs {
			if a.Addr().Is6() == is6 {
				if err := s.addAddr(nicID, a, OriginStatic); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := addAddrs(false); err != nil {
		return err
	}
	if err := s.ns.EnableNIC(nicID); err != nil {
		return fmt.Errorf("enable interface %s: %w", s.name, errno(err))
	}
	if err := addAddrs(true); err != nil {
		return err
	}
	for _, gw := range cfg.Gateways {
		if err := s.AddRoute(context.Background(), Route{Dst: defaultDst(gw), Gateway: gw, Origin: OriginStatic}); err != nil {
			return err
		}
	}
	s.ep.Start()
	s.auto.start(cfg.Addrs)
	return nil
}

// Done is closed when the wire has ended: by Close, or because it went away.
func (s *Stack) Done() <-chan struct{} { return s.ep.Done() }

// Err returns why the wire ended: an error that wraps link.ErrGone or
// link.ErrClosed. It is nil until Done is closed.
func (s *Stack) Err() error { return s.ep.Err() }

// Shutdown waits until every closed connection has delivered what was written to
// it (or ctx ends), then does what Close does. Open connections do not keep it
// waiting: close them first.
func (s *Stack) Shutdown(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond) // netstack tells nobody when an endpoint ends
	defer tick.Stop()
	for s.draining() > 0 {
		select {
		case <-ctx.Done():
			return s.Close()
		case <-s.ep.Done():
			return s.Close()
		case <-tick.C:
		}
	}
	return s.Close()
}

// draining counts the TCP connections that were closed by their owner and still
// have something to deliver.
func (s *Stack) draining() int {
	n := 0
	for _, e := range s.endpoints() {
		if e, ok := e.(*tcp.Endpoint); ok && delivering(e) {
			n++
		}
	}
	return n
}

// endpoints returns the transport endpoints that are in use or being cleaned up.
func (s *Stack) endpoints() []gstack.TransportEndpoint {
	found := append(s.ns.RegisteredEndpoints(), s.ns.CleanupEndpoints()...)
	seen := make(map[gstack.TransportEndpoint]struct{}, len(found))
	all := found[:0]
	for _, e := range found {
		if _, ok := seen[e]; !ok {
			seen[e] = struct{}{}
			all = append(all, e)
		}
	}
	return all
}

// Close resets what connections are left and takes the stack off the wire. The
// Device is closed. It is harmless to call it twice.
func (s *Stack) Close() error {
	s.closeOnce.Do(func() {
		close(s.closed)
		s.auto.stop()
		// First the resets of what is still open, while they can be sent …
		s.abort()
		// … then the wire: netstack must not be left with a reader, see tapendpoint.
		s.closeErr = s.ep.Stop()
		s.drain.end()
		s.conns.end()
		s.mem.end()
		s.ns.Close()
		s.ns.Wait()
	})
	return s.closeErr
}

// abort resets every connection whose peer would otherwise wait in vain. Those
// that were closed in good order and only wait for the peer's side are spared: a
// reset could cost their peer what it has not read yet.
func (s *Stack) abort() {
	for _, e := range s.endpoints() {
		if e, ok := e.(*tcp.Endpoint); ok && (e.EndpointState() != tcp.StateFinWait2 || s.conns.isOpen(e)) {
			e.Abort()
		}
	}
}

// delivering reports whether a connection has something its peer did not
// acknowledge, its FIN included.
func delivering(e *tcp.Endpoint) bool {
	switch e.EndpointState() {
	case tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return true
	}
	return false
}

// randomHardwareAddr returns a unicast, locally administered address (IEEE 802,
// clause 8.4).
func randomHardwareAddr() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac) // never returns an error
	mac[0] = mac[0]&^1 | 2
	return mac
}
