package stack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// A Lease is what a DHCP server has given.
type Lease struct {
	Addr   netip.Prefix
	Server netip.Addr
	// Routes are the default route (option 3) or, where the server sends them, the
	// classless static routes (RFC 3442), which then stand for it too.
	Routes []Route
	DNS    []netip.AddrPort
	Search []string
	MTU    int // in bytes; 0: none given, or none that makes sense
	// Obtained is when the lease was asked for, Renew and Rebind are T1 and T2 of
	// RFC 2131 section 4.4.5. All but Obtained are zero in a lease without an end.
	Obtained, Renew, Rebind, Expires time.Time
}

// Limits on what a server can make us keep.
const (
	maxLeaseRoutes = 32
	maxLeaseDNS    = 8
	maxLeaseSearch = 8
)

// minDHCPMTU is the least MTU that is taken from a server: what every IPv4 host
// must be able to reassemble (RFC 791 section 3.1).
const minDHCPMTU = 576

// infiniteLease is the lease time that means no end (RFC 2131 section 3.3).
const infiniteLease = 0xffffffff * time.Second

// leaseOf reads the parameters of a DHCPOFFER or DHCPACK. prev is the lease that
// is being renewed, or the zero Lease; maxMTU is the link's, in bytes. Parameters
// that make no sense are left out; an error means that there is no usable lease
// in the message.
func leaseOf(m *dhcpv4.DHCPv4, prev Lease, maxMTU int, asked time.Time) (Lease, error) {
	l := Lease{Obtained: asked}
	ip, ok := unicast4(m.YourIPAddr)
	if !ok {
		return l, fmt.Errorf("address %v is not a station's", m.YourIPAddr)
	}
	bits, err := leaseBits(m, ip, prev)
	if err != nil {
		return l, err
	}
	l.Addr = netip.PrefixFrom(ip, bits)
	if err := checkAddr(l.Addr); err != nil {
		return l, err
	}
	l.Server, ok = unicast4(m.ServerIdentifier())
	if !ok && prev.Server.IsValid() {
		l.Server, ok = prev.Server, true
	}
	if !ok || l.Server == ip {
		return l, fmt.Errorf("server identifier %v is not a server's address", m.ServerIdentifier())
	}
	if err := l.setTimes(m); err != nil {
		return l, err
	}
	l.Routes = leaseRoutes(m, ip)
	for _, server := range m.DNS() {
		if ip, ok := unicast4(server); ok && len(l.DNS) < maxLeaseDNS {
			if ap := netip.AddrPortFrom(ip, 53); !slices.Contains(l.DNS, ap) {
				l.DNS = append(l.DNS, ap)
			}
		}
	}
	l.Search = leaseSearch(m)
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, m.Options); err == nil &&
		int(mtu) >= minDHCPMTU && int(mtu) <= maxMTU {
		l.MTU = int(mtu)
	}
	return l, nil
}

// unicast4 converts an address that a station can have. Class E is let through,
// as Linux does, but for the broadcast address.
func unicast4(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok || a.IsMulticast() || a.IsLoopback() || a.As4()[0] == 0 || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.Addr{}, false
	}
	return a, true
}

// leaseBits returns the length of the network's prefix: from the subnet mask, as
// before, or by the address's class (RFC 2132 section 3.3 makes the option
// optional).
func leaseBits(m *dhcpv4.DHCPv4, ip netip.Addr, prev Lease) (int, error) {
	raw := m.Options.Get(dhcpv4.OptionSubnetMask)
	if raw == nil {
		if prev.Addr.Addr() == ip {
			return prev.Addr.Bits(), nil
		}
		ones, _ := net.IP(ip.AsSlice()).DefaultMask().Size()
		if ones == 0 { // class E has none
			ones = 32
		}
		return ones, nil
	}
	if len(raw) != 4 {
		return 0, fmt.Errorf("subnet mask of %d bytes", len(raw))
	}
	ones, size := net.IPMask(raw).Size()
	if size == 0 || ones == 0 {
		return 0, fmt.Errorf("subnet mask %v is not one", net.IP(raw))
	}
	return ones, nil
}

// setTimes sets T1, T2 and the end of the lease (RFC 2131 section 4.4.5). A T1 or
// T2 out of order is replaced by its default.
func (l *Lease) setTimes(m *dhcpv4.DHCPv4) error {
	if m.Options.Get(dhcpv4.OptionIPAddressLeaseTime) == nil {
		return errors.New("no lease time")
	}
	d := m.IPAddressLeaseTime(0)
	switch {
	case d < time.Second:
		return fmt.Errorf("lease time %v", d)
	case d == infiniteLease:
		return nil
	}
	t1, t2 := m.IPAddressRenewalTime(d/2), m.IPAddressRebindingTime(d/8*7)
	if t2 <= 0 || t2 >= d {
		t2 = d * 7 / 8
	}
	if t1 <= 0 || t1 >= t2 {
		t1 = min(d/2, t2/7*4)
	}
	l.Renew, l.Rebind, l.Expires = l.Obtained.Add(t1), l.Obtained.Add(t2), l.Obtained.Add(d)
	return nil
}

// leaseRoutes returns the classless static routes or, if there are none, the
// default route through the first router: the list is in order of preference
// (RFC 2132 section 3.5) and netstack never tries a second one.
func leaseRoutes(m *dhcpv4.DHCPv4, self netip.Addr) []Route {
	var routes []Route
	add := func(r Route) {
		same := func(have Route) bool { return have.Dst == r.Dst }
		if r.Gateway != self && len(routes) < maxLeaseRoutes && !slices.ContainsFunc(routes, same) {
			r.Origin = OriginDHCP
			routes = append(routes, r)
		}
	}
	// RFC 3442: with these, the Router option must be ignored.
	if m.Options.Has(dhcpv4.OptionClasslessStaticRoute) {
		for _, r := range m.ClasslessStaticRoute() {
			ip, ok := netip.AddrFromSlice(r.Dest.IP.To4())
			ones, size := r.Dest.Mask.Size()
			if !ok || size != 32 || ip.IsLoopback() || ip.IsMulticast() {
				continue
			}
			dst := netip.PrefixFrom(ip, ones).Masked()
			if r.Router.Equal(net.IPv4zero) { // on the link
				add(Route{Dst: dst})
			} else if gw, ok := unicast4(r.Router); ok {
				add(Route{Dst: dst, Gateway: gw})
			}
		}
		return routes
	}
	for _, router := range m.Router() {
		if gw, ok := unicast4(router); ok {
			add(Route{Dst: defaultDst(gw), Gateway: gw})
		}
	}
	return routes
}

// leaseSearch returns the search domains: those of option 119 (RFC 3397), then
// the domain of option 15.
func leaseSearch(m *dhcpv4.DHCPv4) []string {
	var names []string
	if labels := m.DomainSearch(); labels != nil {
		names = labels.Labels
	}
	// Servers without option 119 put several names into option 15.
	return cleanDomains(append(names, strings.Fields(m.DomainName())...), maxLeaseSearch)
}

// cleanDomains returns the names that are domain names, without repetition and in
// their order, at most limit of them.
func cleanDomains(names []string, limit int) []string {
	var out []string
	for _, name := range names {
		name = strings.ToLower(strings.TrimRight(name, ".\x00"))
		if len(out) < limit && isDomain(name) && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// isDomain reports whether name can be searched in: labels of letters, digits,
// "-" and "_" (RFC 1035 section 2.3.1, and what is found in the wild).
func isDomain(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
