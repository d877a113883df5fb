package stack

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
)

func ackFor(t testing.TB, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	base := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeAck),
		dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 5)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 1))),
		dhcpv4.WithLeaseTime(3600),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
	}
	m, err := dhcpv4.New(append(base, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	m.OpCode = dhcpv4.OpcodeBootReply
	return m
}

func TestLeaseOf(t *testing.T) {
	generic := dhcpv4.WithGeneric
	for name, mod := range map[string]dhcpv4.Modifier{
		"no address":         dhcpv4.WithYourIP(net.IPv4zero),
		"loopback":           dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1)),
		"multicast":          dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1)),
		"limited broadcast":  dhcpv4.WithYourIP(net.IPv4bcast),
		"network's address":  dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 0)),
		"network broadcast":  dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 255)),
		"server's address":   dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 1)),
		"mask with holes":    generic(dhcpv4.OptionSubnetMask, []byte{255, 0, 255, 0}),
		"mask of 0":          generic(dhcpv4.OptionSubnetMask, []byte{0, 0, 0, 0}),
		"short mask":         generic(dhcpv4.OptionSubnetMask, []byte{255}),
		"no lease time":      dhcpv4.WithoutOption(dhcpv4.OptionIPAddressLeaseTime),
		"lease time 0":       dhcpv4.WithLeaseTime(0),
		"no server":          dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier),
		"server in loopback": dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(127, 0, 0, 1))),
	} {
		if l, err := leaseOf(ackFor(t, mod), Lease{}, 1500, time.Now()); err == nil {
			t.Errorf("%s: accepted as %+v", name, l)
		}
	}

	now := time.Now()
	get := func(mods ...dhcpv4.Modifier) Lease {
		t.Helper()
		l, err := leaseOf(ackFor(t, mods...), Lease{}, 1500, now)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	if l := get(dhcpv4.WithLeaseTime(0xffffffff)); !l.Expires.IsZero() || !l.Renew.IsZero() {
		t.Errorf("infinite lease: %+v", l)
	}
	if l := get(dhcpv4.WithoutOption(dhcpv4.OptionSubnetMask)); l.Addr.Bits() != 8 {
		t.Errorf("class A without a mask: %v", l.Addr)
	}
	if l := get(dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(2*time.Hour)), dhcpv4.WithOption(dhcpv4.OptRebindingTimeValue(time.Hour))); !l.Renew.Before(l.Rebind) || !l.Rebind.Before(l.Expires) || !l.Renew.After(now) {
		t.Errorf("T1 and T2 out of order: %+v", l)
	}
	for mtu, want := range map[uint16]int{0: 0, 68: 0, 575: 0, 576: 576, 1400: 1400, 1501: 0, 65535: 0} {
		if l := get(generic(dhcpv4.OptionInterfaceMTU, []byte{byte(mtu >> 8), byte(mtu)})); l.MTU != want {
			t.Errorf("MTU option %d: %d, want %d", mtu, l.MTU, want)
		}
	}
	if l := get(dhcpv4.WithOption(dhcpv4.OptRouter(net.IPv4zero, net.IPv4bcast, net.IPv4(10, 0, 0, 5), net.IPv4(10, 0, 0, 1)))); len(l.Routes) != 1 || l.Routes[0].Gateway != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("routers: %+v", l.Routes)
	}
	if l := get(dhcpv4.WithOption(dhcpv4.OptDomainName("a.example bad..name ex!ample b.example"))); !slices.Equal(l.Search, []string{"a.example", "b.example"}) {
		t.Errorf("search: %q", l.Search)
	}
}

func FuzzLeaseOf(f *testing.F) {
	f.Add(ackFor(f).ToBytes())
	f.Add(ackFor(f, dhcpv4.WithDNS(net.IPv4(1, 1, 1, 1)), dhcpv4.WithDomainSearchList("a.b", "c")).ToBytes())
	f.Add(ackFor(f, dhcpv4.WithGeneric(dhcpv4.OptionClasslessStaticRoute, []byte{24, 192, 0, 2, 10, 0, 0, 1, 0, 10, 0, 0, 2})).ToBytes())
	f.Add(ackFor(f, dhcpv4.WithGeneric(dhcpv4.OptionClasslessStaticRoute, []byte{33, 1})).ToBytes())
	f.Add(ackFor(f, dhcpv4.WithLeaseTime(0xfffffffe)).ToBytes()) // seven times it overflows
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		now := time.Now()
		l, err := leaseOf(m, Lease{}, 1500, now)
		if err != nil {
			return
		}
		if err := checkAddr(l.Addr); err != nil {
			t.Errorf("lease of %v: %v", l.Addr, err)
		}
		if !l.Expires.IsZero() && (!l.Renew.After(now) || !l.Renew.Before(l.Rebind) || !l.Rebind.Before(l.Expires)) {
			t.Errorf("times %v %v %v", l.Renew.Sub(now), l.Rebind.Sub(now), l.Expires.Sub(now))
		}
		if len(l.Routes) > maxLeaseRoutes || len(l.DNS) > maxLeaseDNS || len(l.Search) > maxLeaseSearch {
			t.Errorf("lease without bounds: %+v", l)
		}
		for _, r := range l.Routes {
			if r.Dst != r.Dst.Masked() || !r.Dst.IsValid() || toSubnet(r.Dst) == (tcpip.Subnet{}) {
				t.Errorf("route %+v", r)
			}
		}
	})
}
