package doctor

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// TestBorrowedServers: the host's own name servers are asked where the stack has a way to them.
func TestBorrowedServers(t *testing.T) {
	route := func(dst string) netlink.Route {
		_, n, err := net.ParseCIDR(dst)
		if err != nil {
			t.Fatal(err)
		}
		return netlink.Route{Family: unix.AF_INET, Type: unix.RTN_UNICAST, Dst: n}
	}
	for _, c := range []struct {
		name, server, gateway string
		routes                []netlink.Route
		asked                 bool
	}{
		{"the host has no route", "192.0.2.53:53", "10.0.0.5", []netlink.Route{route("10.0.0.0/24")}, false},
		{"the host has a default route", "192.0.2.53:53", "10.0.0.5", []netlink.Route{route("10.0.0.0/24"), route("0.0.0.0/0")}, true},
		{"the host has a route there", "192.0.2.53:53", "10.0.0.5", []netlink.Route{route("192.0.2.0/24")}, true},
		{"the stack has no gateway", "192.0.2.53:53", "", []netlink.Route{route("0.0.0.0/0")}, false},
		{"the gateway is another station", "192.0.2.53:53", "10.0.0.1", nil, true},
		{"in the stack's own network", "10.0.0.5:53", "", nil, true},
	} {
		dev := &netlink.Tuntap{Mode: netlink.TUNTAP_MODE_TAP, LinkAttrs: netlink.LinkAttrs{Name: "tap0", Index: 7}}
		host := net.IPNet{IP: net.IPv4(10, 0, 0, 5).To4(), Mask: net.CIDRMask(24, 32)}
		env := &Environment{
			Link: "tap0", Links: []netlink.Link{dev}, Routes: c.routes,
			Addrs: []netlink.Addr{{IPNet: &host, LinkIndex: 7}},
			Stack: &Stack{
				Addrs: []control.Addr{{Prefix: netip.MustParsePrefix("10.0.0.4/24")}},
				DNS:   []netip.AddrPort{netip.MustParseAddrPort(c.server)},
			},
		}
		if c.gateway != "" {
			env.Stack.Routes = []control.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr(c.gateway)}}
		}
		env.leaveOutServers()
		if asked := len(env.Stack.DNS) == 1; asked != c.asked {
			t.Errorf("%s: asked %v", c.name, asked)
		}
	}
}
