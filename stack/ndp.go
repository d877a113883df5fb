package stack

import (
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

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
	d.a.note(func(n *ndpState) { n.heard, n.routes[r] = true, struct{}{} })
}

// OnOffLinkRouteInvalidated is called when its lifetime has ended.
func (d ndpDispatcher) OnOffLinkRouteInvalidated(_ tcpip.NICID, dst tcpip.Subnet, router tcpip.Address) {
	r := raRoute(dst, router)
	d.a.note(func(n *ndpState) { delete(n.routes, r) })
}

// OnOnLinkPrefixDiscovered is called for a prefix whose stations are neighbours.
func (d ndpDispatcher) OnOnLinkPrefixDiscovered(_ tcpip.NICID, dst tcpip.Subnet) {
	r := raRoute(dst, tcpip.Address{})
	d.a.note(func(n *ndpState) { n.heard, n.routes[r] = true, struct{}{} })
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
	d.a.note(func(n *ndpState) {
		n.heard = n.heard || origin == OriginSLAAC
		n.addrs[p.Addr()] = ndpAddr{prefix: p, state: AddrTentative}
	})
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
