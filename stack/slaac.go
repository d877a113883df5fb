package stack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sort"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Limits on what routers can make us keep. netstack itself keeps at most ten
// routes, on-link prefixes and addresses each.
const (
	maxRAServers = 8
	maxRADomains = 8
)

// ndpState is what routers have advertised. netstack's callbacks, which may not
// call into the stack, write it; applyNDP carries it out.
type ndpState struct {
	kick    chan struct{}                    // something has changed; holds one
	changed chan struct{}                    // closed and replaced when a change was carried out
	addrs   map[netip.Addr]ndpAddr           // link-local ones too
	routes  map[Route]struct{}               // default and more specific routes, and prefixes on the link
	servers map[netip.Addr]time.Time         // RDNSS (RFC 8106), until when
	domains map[string]time.Time             // DNSSL
	taken   map[netip.Addr]tcpip.LinkAddress // duplicates found, to be reported
}

type ndpAddr struct {
	prefix     netip.Prefix
	state      string
	validUntil time.Time
}

func newNDPState() ndpState {
	return ndpState{
		kick:    make(chan struct{}, 1),
		changed: make(chan struct{}),
		addrs:   make(map[netip.Addr]ndpAddr),
		routes:  make(map[Route]struct{}),
		servers: make(map[netip.Addr]time.Time),
		domains: make(map[string]time.Time),
		taken:   make(map[netip.Addr]tcpip.LinkAddress),
	}
}

// ipv6Options are those of all interfaces, so what is only for the link is set by
// configureNIC. An MTU below IPv6's least leaves the link without IPv6 (RFC 8200
// section 5): no address, no multicast reports.
func (a *autoconf) ipv6Options() ipv6.Options {
	return ipv6.Options{
		AutoGenLinkLocal: a.ipv6,
		MLD:              ipv6.MLDOptions{Enabled: a.ipv6},
		NDPDisp:          ndpDispatcher{a},
	}
}

// configureNIC prepares the link's interface, before it is enabled.
func (a *autoconf) configureNIC() error {
	ep, terr := a.s.ns.GetNetworkEndpoint(nicID, ipv6.ProtocolNumber)
	if terr != nil {
		return fmt.Errorf("configure IPv6 on %s: %w", a.s.name, errno(terr))
	}
	cfg := ipv6.NDPConfigurations{
		MaxRtrSolicitations:     3,
		RtrSolicitationInterval: 4 * time.Second,
		HandleRAs:               ipv6.HandlingRAsDisabled,
	}
	if a.slaac && a.ipv6 {
		cfg.HandleRAs = ipv6.HandlingRAsAlwaysEnabled
		cfg.DiscoverDefaultRouters = true
		cfg.DiscoverMoreSpecificRoutes = true
		cfg.DiscoverOnLinkPrefixes = true
		cfg.AutoGenGlobalAddresses = true
	}
	ep.(ipv6.NDPEndpoint).SetNDPConfigurations(cfg)
	ep.(gstack.DuplicateAddressDetector).SetDADConfigurations(dadConfig)
	return nil
}

// addAddr6 runs add, which adds a configured IPv6 address, so that the address is
// assigned at once: netstack decides by the interface's configuration whether a
// new address is tentative, so detection is off meanwhile. What is under way
// goes on; an address that a router advertisement makes in these microseconds
// would not be checked.
func (a *autoconf) addAddr6(add func() error) error {
	ep, terr := a.s.ns.GetNetworkEndpoint(nicID, ipv6.ProtocolNumber)
	if terr != nil {
		return errno(terr)
	}
	dad := ep.(gstack.DuplicateAddressDetector)
	a.dadWindow.Lock()
	defer a.dadWindow.Unlock()
	dad.SetDADConfigurations(gstack.DADConfigurations{})
	defer dad.SetDADConfigurations(dadConfig)
	return add()
}

// WaitSLAAC waits until the stack has a global IPv6 address from a router
// advertisement, checked for duplicates and ready to be used.
func (s *Stack) WaitSLAAC(ctx context.Context) error {
	if !s.auto.slaac {
		return errors.New("stack: wait for SLAAC: Config.SLAAC is off")
	}
	for {
		s.auto.mu.Lock()
		changed := s.auto.ndp.changed
		s.auto.mu.Unlock()
		for _, a := range s.Addrs() {
			if a.Origin == OriginSLAAC && (a.State == AddrAssigned || a.State == AddrDeprecated) {
				return nil
			}
		}
		select {
		case <-changed:
		case <-s.closed:
			return fmt.Errorf("stack: wait for SLAAC on %s: %w", s.name, net.ErrClosed)
		case <-ctx.Done():
			text := fmt.Sprintf("no router on %s has advertised an IPv6 prefix for autoconfiguration: is there one on this link?", s.name)
			if w := s.Warnings(); len(w) > 0 {
				text += " (" + w[len(w)-1] + ")"
			}
			return &dhcpError{text, ctxErr(ctx)}
		}
	}
}

// applyNDP carries out what netstack's callbacks note, and lets name servers
// expire.
func (a *autoconf) applyNDP(ctx context.Context) {
	applied := make(map[Route]struct{})
	expiry := time.NewTimer(time.Hour)
	defer expiry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.ndp.kick:
		case <-expiry.C:
		}
		a.mu.Lock()
		want := maps.Clone(a.ndp.routes)
		taken := a.ndp.taken
		a.ndp.taken = make(map[netip.Addr]tcpip.LinkAddress)
		a.mu.Unlock()

		for r := range applied {
			if _, ok := want[r]; !ok {
				a.s.delRouteOf(r)
			}
		}
		for r := range want {
			a.s.addRoute(nicID, r) // does nothing if it is there
		}
		applied = want
		for ip, holder := range taken {
			who := "another station"
			if len(holder) > 0 {
				who = net.HardwareAddr(holder).String()
			}
			a.s.warnAbout(netip.Addr{}, "duplicate address: %v is used by %s on this link, so the stack goes without it: give one of the two another MAC", ip, who)
		}
		next := a.learnDNS(time.Now())
		expiry.Reset(next)

		a.mu.Lock()
		close(a.ndp.changed)
		a.ndp.changed = make(chan struct{})
		a.mu.Unlock()
	}
}

// learnDNS tells the resolver which advertised servers and domains are valid. It
// returns the time until that changes.
func (a *autoconf) learnDNS(now time.Time) time.Duration {
	a.mu.Lock()
	next := now.Add(time.Hour)
	var servers []netip.AddrPort
	for ip, until := range a.ndp.servers {
		if !until.IsZero() && !until.After(now) {
			delete(a.ndp.servers, ip)
			continue
		}
		servers = append(servers, netip.AddrPortFrom(ip, 53))
		if !until.IsZero() && until.Before(next) {
			next = until
		}
	}
	var domains []string
	for name, until := range a.ndp.domains {
		if !until.IsZero() && !until.After(now) {
			delete(a.ndp.domains, name)
			continue
		}
		domains = append(domains, name)
		if !until.IsZero() && until.Before(next) {
			next = until
		}
	}
	a.mu.Unlock()
	slices.SortFunc(servers, netip.AddrPort.Compare)
	sort.Strings(domains)
	a.s.dns.learn(OriginRA, servers, domains)
	return next.Sub(now)
}

// note changes the state that routers advertise and wakes applyNDP.
func (a *autoconf) note(f func(*ndpState)) {
	a.mu.Lock()
	f(&a.ndp)
	a.mu.Unlock()
	select {
	case a.ndp.kick <- struct{}{}:
	default:
	}
}

// An ndpDispatcher implements ipv6.NDPDispatcher. Its methods are called with
// netstack's locks held, so they only take note.
type ndpDispatcher struct{ a *autoconf }

var _ ipv6.NDPDispatcher = ndpDispatcher{}

// OnDuplicateAddressDetectionResult is called when an address need not be
// tentative any more, or was taken off because somebody else has it.
func (d ndpDispatcher) OnDuplicateAddressDetectionResult(nic tcpip.NICID, addr tcpip.Address, r gstack.DADResult) {
	if dup, ok := r.(*gstack.DADDupAddrDetected); ok && nic == nicID {
		d.a.note(func(n *ndpState) {
			if len(n.taken) < maxWarnings {
				n.taken[fromAddress(addr)] = dup.HolderLinkAddress
			}
		})
	}
}

// OnOffLinkRouteUpdated is called for a default router (RFC 4861) or a more
// specific route (RFC 4191). Preferences are not told apart.
func (d ndpDispatcher) OnOffLinkRouteUpdated(_ tcpip.NICID, dst tcpip.Subnet, router tcpip.Address, _ header.NDPRoutePreference) {
	r := raRoute(dst, router)
	d.a.note(func(n *ndpState) { n.routes[r] = struct{}{} })
}

// OnOffLinkRouteInvalidated is called when its lifetime has ended.
func (d ndpDispatcher) OnOffLinkRouteInvalidated(_ tcpip.NICID, dst tcpip.Subnet, router tcpip.Address) {
	r := raRoute(dst, router)
	d.a.note(func(n *ndpState) { delete(n.routes, r) })
}

// OnOnLinkPrefixDiscovered is called for a prefix whose stations are neighbours.
func (d ndpDispatcher) OnOnLinkPrefixDiscovered(_ tcpip.NICID, dst tcpip.Subnet) {
	r := raRoute(dst, tcpip.Address{})
	d.a.note(func(n *ndpState) { n.routes[r] = struct{}{} })
}

// OnOnLinkPrefixInvalidated is called when its lifetime has ended.
func (d ndpDispatcher) OnOnLinkPrefixInvalidated(_ tcpip.NICID, dst tcpip.Subnet) {
	r := raRoute(dst, tcpip.Address{})
	d.a.note(func(n *ndpState) { delete(n.routes, r) })
}

func raRoute(dst tcpip.Subnet, router tcpip.Address) Route {
	return Route{
		Dst:     netip.PrefixFrom(fromAddress(dst.ID()), dst.Prefix()).Masked(),
		Gateway: fromAddress(router),
		Origin:  OriginRA,
	}
}

// OnAutoGenAddress is called when an address was made for a prefix, or for the
// link.
func (d ndpDispatcher) OnAutoGenAddress(_ tcpip.NICID, addr tcpip.AddressWithPrefix) gstack.AddressDispatcher {
	p := netip.PrefixFrom(fromAddress(addr.Address), addr.PrefixLen)
	origin := OriginSLAAC
	if p.Addr().IsLinkLocalUnicast() {
		origin = OriginLinkLocal
	}
	d.a.s.orig.update(p.Addr(), func(o *originOf) { *o = originOf{origin: origin} })
	d.a.note(func(n *ndpState) { n.addrs[p.Addr()] = ndpAddr{prefix: p, state: AddrTentative} })
	return addrDispatcher{d.a, p}
}

// OnAutoGenAddressDeprecated does nothing: the addrDispatcher hears of it too.
func (d ndpDispatcher) OnAutoGenAddressDeprecated(tcpip.NICID, tcpip.AddressWithPrefix) {}

// OnAutoGenAddressInvalidated does nothing: the addrDispatcher hears of it too.
func (d ndpDispatcher) OnAutoGenAddressInvalidated(tcpip.NICID, tcpip.AddressWithPrefix) {}

// OnRecursiveDNSServerOption is called for name servers (RFC 8106 section 5.1).
func (d ndpDispatcher) OnRecursiveDNSServerOption(_ tcpip.NICID, addrs []tcpip.Address, lifetime time.Duration) {
	until := lifetimeEnd(lifetime)
	d.a.note(func(n *ndpState) {
		for _, addr := range addrs {
			ip := fromAddress(addr)
			if ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() || ip.Is4In6() {
				continue
			}
			keep(n.servers, ip, lifetime, until, maxRAServers)
		}
	})
}

// OnDNSSearchListOption is called for search domains (RFC 8106 section 5.2).
func (d ndpDispatcher) OnDNSSearchListOption(_ tcpip.NICID, names []string, lifetime time.Duration) {
	until := lifetimeEnd(lifetime)
	d.a.note(func(n *ndpState) {
		for _, name := range cleanDomains(names, maxRADomains) {
			keep(n.domains, name, lifetime, until, maxRADomains)
		}
	})
}

// OnDHCPv6Configuration does nothing: there is no DHCPv6 client.
func (d ndpDispatcher) OnDHCPv6Configuration(tcpip.NICID, ipv6.DHCPv6ConfigurationFromNDPRA) {}

// keep refreshes an entry that has a lifetime; zero removes it.
func keep[K comparable](m map[K]time.Time, key K, lifetime time.Duration, until time.Time, limit int) {
	_, known := m[key]
	switch {
	case lifetime == 0:
		delete(m, key)
	case known || len(m) < limit:
		m[key] = until
	}
}

// lifetimeEnd returns the zero time for an infinite lifetime.
func lifetimeEnd(d time.Duration) time.Time {
	if d >= header.NDPInfiniteLifetime {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// An addrDispatcher hears what becomes of one generated address. It too is called
// with locks held.
type addrDispatcher struct {
	a      *autoconf
	prefix netip.Prefix
}

// OnChanged implements gstack.AddressDispatcher.
func (d addrDispatcher) OnChanged(l gstack.AddressLifetimes, state gstack.AddressAssignmentState) {
	next := ndpAddr{prefix: d.prefix, state: AddrTentative}
	switch {
	case state == gstack.AddressAssigned && l.Deprecated:
		next.state = AddrDeprecated
	case state == gstack.AddressAssigned:
		next.state = AddrAssigned
	}
	if l.ValidUntil != tcpip.MonotonicTimeInfinite() {
		now := d.a.s.ns.Clock().NowMonotonic() // takes no lock
		next.validUntil = time.Now().Add(l.ValidUntil.Sub(now)).Round(time.Second)
	}
	d.a.s.orig.update(d.prefix.Addr(), func(o *originOf) {
		if o.origin != "" {
			o.validUntil = next.validUntil
		}
	})
	d.a.note(func(n *ndpState) { n.addrs[d.prefix.Addr()] = next })
}

// OnRemoved implements gstack.AddressDispatcher.
func (d addrDispatcher) OnRemoved(gstack.AddressRemovalReason) {
	d.a.s.orig.forget(d.prefix.Addr())
	d.a.note(func(n *ndpState) { delete(n.addrs, d.prefix.Addr()) })
}
