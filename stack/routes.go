package stack

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// A Route is a row of the routing table.
type Route struct {
	Dst netip.Prefix // 0.0.0.0/0 or ::/0 for the default route
	// Gateway is the zero Addr for a directly connected network.
	Gateway netip.Addr
	Link    string // set by Routes
	Origin  string // OriginStatic …
}

// routeOrigins remembers where routes came from, which netstack does not.
type routeOrigins struct {
	mu sync.Mutex
	m  map[routeKey]string
}

type routeKey struct {
	dst     netip.Prefix
	gateway netip.Addr
}

func defaultDst(gw netip.Addr) netip.Prefix {
	if gw.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// AddRoute adds a route through a gateway, or without one to a network on the
// link. EEXIST if the same destination has a route already, ENETUNREACH if the
// gateway is on none of the stack's networks.
func (s *Stack) AddRoute(_ context.Context, r Route) error {
	if !r.Dst.IsValid() || r.Dst != r.Dst.Masked() {
		return fmt.Errorf("stack: add route to %v: not a network: %w", r.Dst, syscall.EINVAL)
	}
	if r.Gateway.IsValid() {
		if r.Gateway.Is4() != r.Dst.Addr().Is4() {
			return fmt.Errorf("stack: add route to %v via %v: different address families: %w", r.Dst, r.Gateway, syscall.EINVAL)
		}
		var networks []netip.Prefix
		for _, a := range s.Addrs() {
			if a.Link != loName {
				networks = append(networks, a.Prefix)
			}
		}
		if err := checkGateway(r.Gateway, networks); err != nil {
			return fmt.Errorf("stack: add route to %v: %w", r.Dst, err)
		}
	}
	for _, have := range s.Routes() {
		if have.Dst == r.Dst && have.Origin != OriginRA {
			return fmt.Errorf("stack: add route to %v: %w", r.Dst, syscall.EEXIST)
		}
	}
	if r.Origin == "" {
		r.Origin = OriginStatic
	}
	s.addRoute(nicID, r)
	return nil
}

// addRoute puts a row into netstack's table, which it keeps sorted by the length
// of the prefix. The same row is not put in twice.
func (s *Stack) addRoute(nic tcpip.NICID, r Route) {
	key := routeKey{r.Dst, r.Gateway}
	s.routes.mu.Lock()
	defer s.routes.mu.Unlock()
	if s.routes.m == nil {
		s.routes.m = make(map[routeKey]string)
	}
	if have, ok := s.routes.m[key]; ok {
		if have == OriginRA { // an address of ours needs it now, whatever routers say
			s.routes.m[key] = r.Origin
		}
		return
	}
	s.routes.m[key] = r.Origin
	var advertised []tcpip.Route
	if r.Origin != OriginRA { // what routers advertise comes after what was configured
		s.ns.RemoveRoutes(func(have tcpip.Route) bool {
			if have.Destination != toSubnet(r.Dst) || s.routes.m[routeKey{r.Dst, fromAddress(have.Gateway)}] != OriginRA {
				return false
			}
			advertised = append(advertised, have)
			return true
		})
	}
	s.ns.AddRoute(tcpip.Route{Destination: toSubnet(r.Dst), Gateway: toAddress(r.Gateway), NIC: nic})
	for _, have := range advertised {
		s.ns.AddRoute(have)
	}
}

func toSubnet(p netip.Prefix) tcpip.Subnet {
	return tcpip.AddressWithPrefix{Address: toAddress(p.Addr()), PrefixLen: p.Bits()}.Subnet()
}

// DelRoute removes the route to r.Dst; if r.Gateway is valid, only the one
// through it. ESRCH if there is none.
func (s *Stack) DelRoute(_ context.Context, r Route) error {
	if !s.delRoute(r) {
		return fmt.Errorf("stack: delete route to %v: %w", r.Dst, syscall.ESRCH)
	}
	return nil
}

func (s *Stack) delRoute(r Route) bool {
	s.routes.mu.Lock()
	defer s.routes.mu.Unlock()
	n := s.ns.RemoveRoutes(func(have tcpip.Route) bool {
		return have.NIC == nicID && have.Destination == toSubnet(r.Dst) &&
			(!r.Gateway.IsValid() || have.Gateway == toAddress(r.Gateway))
	})
	for key := range s.routes.m {
		if n > 0 && key.dst == r.Dst && (!r.Gateway.IsValid() || key.gateway == r.Gateway) {
			delete(s.routes.m, key)
		}
	}
	return n > 0
}

// Routes returns the routing table in the order in which it is searched.
func (s *Stack) Routes() []Route {
	s.routes.mu.Lock()
	defer s.routes.mu.Unlock()
	var routes []Route
	for _, have := range s.ns.GetRouteTable() {
		r := Route{
			Dst:     netip.PrefixFrom(fromAddress(have.Destination.ID()), have.Destination.Prefix()),
			Gateway: fromAddress(have.Gateway),
			Link:    s.linkName(have.NIC),
		}
		r.Origin = s.routes.m[routeKey{r.Dst, r.Gateway}]
		routes = append(routes, r)
	}
	return routes
}

// hasRoute reports whether the stack knows where to send a packet for ip.
func (s *Stack) hasRoute(ip netip.Addr) bool {
	r, terr := s.ns.FindRoute(0, tcpip.Address{}, toAddress(ip), protocolOf(ip), false)
	if terr != nil {
		return false
	}
	r.Release()
	return true
}

// routeTo returns the route to dst that was configured or came with an address;
// what routers advertise does not count.
func (s *Stack) routeTo(dst netip.Prefix) (Route, bool) {
	for _, r := range s.Routes() {
		if r.Dst == dst && r.Origin != OriginRA {
			return r, true
		}
	}
	return Route{}, false
}

// delRouteOf removes exactly r, if it is in the table with r's origin.
func (s *Stack) delRouteOf(r Route) {
	s.routes.mu.Lock()
	defer s.routes.mu.Unlock()
	key := routeKey{r.Dst, r.Gateway}
	if s.routes.m[key] != r.Origin {
		return
	}
	delete(s.routes.m, key)
	s.ns.RemoveRoutes(func(have tcpip.Route) bool {
		return have.NIC == nicID && have.Destination == toSubnet(r.Dst) && have.Gateway == toAddress(r.Gateway)
	})
}
