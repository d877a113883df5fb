package doctor

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// leaveOutServers forgets those of the stack's name servers that nobody named, as they are of the
// host's /etc/resolv.conf, and to which nothing leads: that a stack without a way out cannot ask them is
// no fault of the tap.
func (e *Environment) leaveOutServers() {
	e.Stack.DNS = slices.DeleteFunc(e.Stack.DNS, func(s netip.AddrPort) bool {
		ip := s.Addr()
		gateway := slices.ContainsFunc(e.Stack.gateways(), func(gw netip.Addr) bool { return gw.Is4() == ip.Is4() })
		if e.Stack.reachesDirectly(ip) || gateway && (!e.usesHost(ip.Is4()) || e.leadsTo(ip)) {
			return false
		}
		e.notef("name server %s, of the host's /etc/resolv.conf, is not asked: the stack has no way there", s)
		return true
	})
}

// leadsTo reports whether the host has a route to an address.
func (e *Environment) leadsTo(ip netip.Addr) bool {
	for i := range e.Routes {
		r := &e.Routes[i]
		if r.Type != unix.RTN_UNICAST && r.Type != unix.RTN_LOCAL || (r.Family == unix.AF_INET) != ip.Is4() {
			continue
		}
		if p, ok := prefixOf(r.Dst); r.Dst == nil || ok && p.Contains(ip) {
			return true
		}
	}
	return false
}
