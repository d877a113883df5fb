package stack

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/ustack/ustack/link"
)

// Where an address or a route came from.
const (
	OriginStatic    = "static"
	OriginDHCP      = "dhcp"
	OriginSLAAC     = "slaac"
	OriginRA        = "ra"
	OriginLinkLocal = "link-local"
	OriginLoopback  = "loopback"
	OriginConnected = "connected"
)

// The states of an address.
const (
	AddrAssigned   = "assigned"
	AddrTentative  = "tentative" // being checked for a duplicate (RFC 4862 section 5.4)
	AddrDeprecated = "deprecated"
	AddrDuplicate  = "duplicate" // somebody else answers for it
)

// An Addr is an address of the stack.
type Addr struct {
	Link   string
	Prefix netip.Prefix // the address, with its network's length
	Origin string       // OriginStatic …
	State  string       // AddrAssigned …
	// ValidUntil is zero for an address that does not expire.
	ValidUntil time.Time
}

// origins remembers what netstack does not: where addresses came from, and what
// else is known of them. By address, without the length.
type origins struct {
	mu sync.Mutex
	m  map[netip.Addr]originOf
}

type originOf struct {
	origin     string
	validUntil time.Time
	duplicate  bool
}

func (o *origins) get(ip netip.Addr) (originOf, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, ok := o.m[ip]
	return v, ok
}

func (o *origins) update(ip netip.Addr, f func(*originOf)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.m == nil {
		o.m = make(map[netip.Addr]originOf)
	}
	v := o.m[ip]
	f(&v)
	o.m[ip] = v
}

func (o *origins) forget(ip netip.Addr) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.m, ip)
}

// checkNetworks validates the addresses and gateways of a Config.
func checkNetworks(cfg Config, mtu int) error {
	for i, a := range cfg.Addrs {
		if err := checkAddr(a); err != nil {
			return err
		}
		if slices.ContainsFunc(cfg.Addrs[:i], func(b netip.Prefix) bool { return b.Addr() == a.Addr() }) {
			return fmt.Errorf("address %v is given twice: %w", a.Addr(), syscall.EEXIST)
		}
		if a.Addr().Is6() && mtu < link.MinMTU6 {
			return fmt.Errorf("address %v needs an MTU of at least %d bytes, the link has %d (RFC 8200 section 5)", a, link.MinMTU6, mtu)
		}
	}
	if cfg.SLAAC && mtu < link.MinMTU6 {
		return fmt.Errorf("IPv6 autoconfiguration needs an MTU of at least %d bytes, the link has %d (RFC 8200 section 5)", link.MinMTU6, mtu)
	}
	seen := map[bool]netip.Addr{}
	for _, gw := range cfg.Gateways {
		if other, ok := seen[gw.Is4()]; ok {
			return fmt.Errorf("gateways %v and %v: give one for each address family", other, gw)
		}
		seen[gw.Is4()] = gw
		if err := checkGateway(gw, cfg.Addrs); err != nil {
			return err
		}
	}
	return nil
}

// limitedBroadcast is every station of the link (RFC 919 section 7).
var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// checkAddr returns an error unless the stack can have a as its own address.
func checkAddr(a netip.Prefix) error {
	ip := a.Addr()
	switch {
	case !a.IsValid():
		return fmt.Errorf("address %v is not valid: use one such as 10.0.0.4/24", a)
	case ip.IsUnspecified(), ip.IsMulticast(), ip.IsLoopback(), ip == limitedBroadcast:
		return fmt.Errorf("address %v cannot be a station's own", a)
	case ip.Is4() && a.Bits() < 31 && ip == a.Masked().Addr():
		return fmt.Errorf("address %v is the network itself: use a host's, such as %v", a, netip.PrefixFrom(ip.Next(), a.Bits()))
	case ip.Is4() && a.Bits() < 31 && ip == broadcastOf(a):
		return fmt.Errorf("address %v is the network's broadcast address", a)
	}
	return nil
}

// broadcastOf returns the last address of an IPv4 network.
func broadcastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// checkGateway returns an error unless gw is on one of the networks.
func checkGateway(gw netip.Addr, networks []netip.Prefix) error {
	if !gw.IsValid() || gw.IsUnspecified() || gw.IsMulticast() {
		return fmt.Errorf("gateway %v is not a station's address", gw)
	}
	if gw.Is6() && gw.IsLinkLocalUnicast() {
		return nil
	}
	on := false
	for _, n := range networks {
		if n.Addr() == gw {
			return fmt.Errorf("gateway %v is the stack's own address: %w", gw, syscall.EINVAL)
		}
		on = on || n.Contains(gw)
	}
	if on {
		return nil
	}
	return fmt.Errorf("gateway %v is on none of the stack's networks %v: %w", gw, networks, syscall.ENETUNREACH)
}

// AddAddr gives the stack another address and the route to its network. It is
// usable at once; if somebody else is found to have it, a warning says so and the
// address's state becomes AddrDuplicate. EEXIST if the stack has it already.
func (s *Stack) AddAddr(_ context.Context, a netip.Prefix) error {
	if err := checkAddr(a); err != nil {
		return fmt.Errorf("stack: %w: %w", err, syscall.EINVAL)
	}
	if err := s.addAddr(nicID, a, OriginStatic); err != nil {
		return fmt.Errorf("stack: %w", err)
	}
	s.auto.check(a.Addr())
	return nil
}

// addAddr adds an address and the route to its network.
func (s *Stack) addAddr(nic tcpip.NICID, a netip.Prefix, origin string) error {
	pa := tcpip.ProtocolAddress{
		Protocol:          protocolOf(a.Addr()),
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: toAddress(a.Addr()), PrefixLen: a.Bits()},
	}
	add := func() error {
		if terr := s.ns.AddProtocolAddress(nic, pa, gstack.AddressProperties{}); terr != nil {
			return errno(terr)
		}
		return nil
	}
	if nic == nicID && a.Addr().Is6() {
		if !s.auto.ipv6 {
			return fmt.Errorf("add address %v: IPv6 needs an MTU of at least %d bytes, the link has %d (RFC 8200 section 5): %w", a, link.MinMTU6, s.ep.MTU(), syscall.EINVAL)
		}
		plain := add
		add = func() error { return s.auto.addAddr6(plain) }
	}
	if err := add(); err != nil {
		return fmt.Errorf("add address %v: %w", a, err)
	}
	s.orig.update(a.Addr(), func(o *originOf) { *o = originOf{origin: origin} })
	s.addRoute(nic, Route{Dst: a.Masked(), Origin: OriginConnected})
	return nil
}

// DelAddr takes an address from the stack, with the route to its network.
// Connections that use it end. EADDRNOTAVAIL if the stack does not have it.
func (s *Stack) DelAddr(_ context.Context, a netip.Prefix) error {
	if err := s.delAddr(a); err != nil {
		return fmt.Errorf("stack: %w", err)
	}
	return nil
}

func (s *Stack) delAddr(a netip.Prefix) error {
	has := false
	for _, pa := range s.ns.AllAddresses()[nicID] {
		ip := fromAddress(pa.AddressWithPrefix.Address)
		if ip == a.Addr() && pa.AddressWithPrefix.PrefixLen == a.Bits() {
			has = true
		}
	}
	if !has {
		return fmt.Errorf("delete address %v: %w", a, syscall.EADDRNOTAVAIL)
	}
	if terr := s.ns.RemoveAddress(nicID, toAddress(a.Addr())); terr != nil {
		return fmt.Errorf("delete address %v: %w", a, errno(terr))
	}
	s.orig.forget(a.Addr())
	s.warn.forget(a.Addr())
	for _, pa := range s.ns.AllAddresses()[nicID] { // another address may still need the route
		awp := pa.AddressWithPrefix
		if o, _ := s.orig.get(fromAddress(awp.Address)); o.origin == OriginSLAAC {
			continue // its router says whether the network is on the link
		}
		if netip.PrefixFrom(fromAddress(awp.Address), awp.PrefixLen).Masked() == a.Masked() {
			return nil
		}
	}
	s.delRouteOf(Route{Dst: a.Masked(), Origin: OriginConnected})
	s.auto.note(func(*ndpState) {}) // a router may say that the network is on the link still
	return nil
}

// Addrs returns the stack's addresses, those of its own link first.
func (s *Stack) Addrs() []Addr {
	var addrs []Addr
	for nic, list := range s.ns.AllAddresses() {
		name := s.linkName(nic)
		for _, pa := range list {
			ip := fromAddress(pa.AddressWithPrefix.Address)
			if ip == limitedBroadcast {
				continue // netstack keeps it among each interface's addresses
			}
			a := Addr{
				Link:   name,
				Prefix: netip.PrefixFrom(ip, pa.AddressWithPrefix.PrefixLen),
				Origin: OriginStatic,
				State:  AddrAssigned,
			}
			if o, ok := s.orig.get(ip); ok {
				a.Origin, a.ValidUntil = o.origin, o.validUntil
				if o.duplicate {
					a.State = AddrDuplicate
				}
			} else if ip.IsLinkLocalUnicast() {
				a.Origin = OriginLinkLocal
			}
			if state := s.auto.stateOf(ip); state != "" && a.State == AddrAssigned {
				a.State = state
			}
			addrs = append(addrs, a)
		}
	}
	sort.Slice(addrs, func(i, j int) bool {
		a, b := addrs[i], addrs[j]
		if (a.Link == loName) != (b.Link == loName) {
			return b.Link == loName
		}
		return a.Prefix.Addr().Less(b.Prefix.Addr())
	})
	return addrs
}

func (s *Stack) linkName(nic tcpip.NICID) string {
	if nic == loID {
		return loName
	}
	return s.name
}
