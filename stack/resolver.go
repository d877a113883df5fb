package stack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// dnsConfig is where names are asked for.
type dnsConfig struct {
	mu      sync.RWMutex
	servers []netip.AddrPort // configured, then those of DHCP and of router advertisements
	search  []string
	learned map[string][]netip.AddrPort // by origin
	domains map[string][]string
	// good is the server that answered last: it is asked first, so that a dead one
	// costs time only once.
	good netip.AddrPort
}

func (d *dnsConfig) answered(by netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.good = by
}

// ask returns the servers in the order in which to ask them.
func (d *dnsConfig) ask() []netip.AddrPort {
	servers, _ := d.get()
	d.mu.RLock()
	defer d.mu.RUnlock()
	if i := slices.Index(servers, d.good); i > 0 {
		servers = append([]netip.AddrPort{d.good}, slices.Delete(servers, i, i+1)...)
	}
	return servers
}

func (d *dnsConfig) set(servers []netip.AddrPort, search []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.servers, d.search = slices.Clone(servers), slices.Clone(search)
}

// learn replaces the name servers and search domains that came from origin.
func (d *dnsConfig) learn(origin string, servers []netip.AddrPort, search []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.learned == nil {
		d.learned, d.domains = make(map[string][]netip.AddrPort), make(map[string][]string)
	}
	d.learned[origin], d.domains[origin] = servers, search
}

func (d *dnsConfig) get() (servers []netip.AddrPort, search []string) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	servers, search = slices.Clone(d.servers), slices.Clone(d.search)
	for _, origin := range []string{OriginDHCP, OriginRA} {
		for _, s := range d.learned[origin] {
			if !slices.Contains(servers, s) {
				servers = append(servers, s)
			}
		}
		for _, s := range d.domains[origin] {
			if !slices.Contains(search, s) {
				search = append(search, s)
			}
		}
	}
	return servers, search
}

// DNS returns the name servers that the stack asks, in order, and its search
// domains.
func (s *Stack) DNS() (servers []netip.AddrPort, search []string) { return s.dns.get() }

// Resolver returns a resolver that asks the stack's name servers through the
// stack: nothing reaches the host's network. Names in the host's /etc/hosts are
// answered from there. An absolute name (with a trailing dot) is asked as it is;
// else the host's search list applies, see LookupNetIP for the stack's own.
func (s *Stack) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: s.dialDNS}
}

// LookupNetIP resolves a host through the stack's name servers and search
// domains. network is "ip", "ip4" or "ip6". The addresses are sorted: first the
// family that the stack has a route for, IPv6 before IPv4 where it has both. A
// failure is a *net.DNSError.
func (s *Stack) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap()
		if network == "ip4" && !ip.Is4() || network == "ip6" && !ip.Is6() {
			return nil, &net.AddrError{Err: "no suitable address for " + network, Addr: host}
		}
		return []netip.Addr{ip}, nil
	}
	if isLocalhost(host) { // RFC 6761 section 6.3: not to be asked of anybody
		ips := []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}
		switch network {
		case "ip4":
			ips = ips[1:]
		case "ip6":
			ips = ips[:1]
		}
		return ips, nil
	}
	servers, search := s.dns.get()
	resolver := s.Resolver()
	var first error
	for _, name := range candidates(host, search) {
		ips, err := resolver.LookupNetIP(ctx, network, name)
		if err == nil {
			return s.sortAddrs(ips), nil
		}
		var dnsErr *net.DNSError
		if errors.As(err, &dnsErr) {
			e := *dnsErr
			e.Name = host
			e.Server = ""
			if i := strings.LastIndex(e.Err, ": "); i >= 0 && strings.Contains(e.Err[:i], "->") {
				e.Err = e.Err[i+2:] // "i/o timeout", without the sockets it was on
			}
			if len(servers) > 0 && !e.IsNotFound {
				e.Server = joinAddrs(servers)
			}
			err = &e
		}
		if first == nil {
			first = err
		}
		if dnsErr == nil || !dnsErr.IsNotFound {
			return nil, err
		}
	}
	return nil, first
}

func isLocalhost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// candidates returns the absolute names to try for host: itself first if it has
// a dot, else the search domains first (resolv.conf(5), ndots:1).
func candidates(host string, search []string) []string {
	if strings.HasSuffix(host, ".") {
		return []string{host}
	}
	var names []string
	for _, domain := range search {
		if domain = strings.Trim(domain, "."); domain != "" {
			names = append(names, host+"."+domain+".")
		}
	}
	if strings.Contains(host, ".") {
		return append([]string{host + "."}, names...)
	}
	return append(names, host+".")
}

// sortAddrs puts the addresses that the stack has a route to first, and IPv6
// before IPv4 within (RFC 6724, as far as one interface needs it).
func (s *Stack) sortAddrs(ips []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, 0, len(ips))
	for _, ip := range ips {
		if ip = ip.Unmap(); !slices.Contains(out, ip) {
			out = append(out, ip)
		}
	}
	reachable := map[bool]bool{}
	for _, ip := range out {
		if s.hasRoute(ip) {
			reachable[ip.Is4()] = true
		}
	}
	rank := func(ip netip.Addr) int {
		r := 0
		if !reachable[ip.Is4()] {
			r += 2
		}
		if ip.Is4() {
			r++
		}
		return r
	}
	slices.SortStableFunc(out, func(a, b netip.Addr) int { return rank(a) - rank(b) })
	return out
}

func joinAddrs(addrs []netip.AddrPort) string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = a.String()
	}
	return strings.Join(s, ",")
}

// errNoDNS is what a lookup answers when there is nobody to ask.
var errNoDNS = errors.New("the stack has no name server: give it one with --dns")

// dialDNS connects to the stack's name servers. The address, which package net
// takes from the host's resolv.conf, is not used.
func (s *Stack) dialDNS(ctx context.Context, network, _ string) (net.Conn, error) {
	servers := s.dns.ask()
	if len(servers) == 0 {
		return nil, errNoDNS
	}
	if strings.HasPrefix(network, "tcp") {
		var first error
		for i, server := range servers {
			c, err := s.dialOne(ctx, server, len(servers)-i)
			if err == nil {
				return c, nil
			}
			if first == nil {
				first = err
			}
		}
		return nil, first
	}
	if ctx.Err() != nil {
		return nil, ctxErr(ctx)
	}
	return newDNSConn(ctx, s, servers)
}
