package hostnet

import (
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
)

// addRoute adds a route with what netlab's Route does not do: interface, metric
// and origin.
func addRoute(t *testing.T, ns *netlab.NS, dst, ifname string, metric int, proto netlink.RouteProtocol) {
	t.Helper()
	_, n, err := net.ParseCIDR(dst)
	if err != nil {
		t.Fatal(err)
	}
	r := &netlink.Route{Dst: n, LinkIndex: ns.Link(t, ifname).Attrs().Index, Priority: metric, Protocol: proto}
	if err := ns.Netlink().RouteAdd(r); err != nil {
		t.Fatalf("route %s dev %s: %v", dst, ifname, err)
	}
}

// twoUplinks is newHost with a second interface outwards, up1.
func twoUplinks(t *testing.T) *netlab.NS {
	t.Helper()
	ns := newHost(t)
	other := netlab.New(t, "other")
	netlab.Veth(t, ns, "up1", other, "out1")
	ns.Up(t, "tap0")
	return ns
}

func TestUplinkAuto(t *testing.T) {
	const static = unix.RTPROT_STATIC
	for _, tt := range []struct {
		name   string
		routes func(t *testing.T, ns *netlab.NS)
		want   string
	}{
		{"lowest metric", func(t *testing.T, ns *netlab.NS) {
			addRoute(t, ns, "0.0.0.0/0", "up0", 200, static)
			addRoute(t, ns, "0.0.0.0/0", "up1", 100, static)
			addRoute(t, ns, "0.0.0.0/1", "up0", 0, static)
		}, "up1"},
		{"not the tap", func(t *testing.T, ns *netlab.NS) {
			addRoute(t, ns, "0.0.0.0/0", "tap0", 1, static)
			addRoute(t, ns, "0.0.0.0/0", "up0", 200, static)
		}, "up0"},
		{"IPv4 first", func(t *testing.T, ns *netlab.NS) {
			addRoute(t, ns, "::/0", "up0", 1, static)
			addRoute(t, ns, "0.0.0.0/0", "up1", 100, static)
		}, "up1"},
		{"IPv6 only", func(t *testing.T, ns *netlab.NS) {
			addRoute(t, ns, "::/0", "up1", 1, static)
		}, "up1"},
		{"none", func(t *testing.T, ns *netlab.NS) {
			if err := ns.Netlink().RouteAdd(&netlink.Route{Dst: ipNet(prefixes("0.0.0.0/0")[0]), Type: unix.RTN_BLACKHOLE}); err != nil {
				t.Fatal(err)
			}
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := twoUplinks(t)
			tt.routes(t, ns)
			h, err := setupIn(t, ns, Config{Tap: "tap0", Uplink: UplinkAuto, StateDir: t.TempDir(), Networks: prefixes("10.0.0.4/24")})
			switch {
			case tt.want == "" && err == nil:
				t.Errorf("uplink %s", h.Uplink())
			case tt.want == "":
				containsAll(t, err.Error(), "no default route")
			case err != nil:
				t.Error(err)
			case h.Uplink() != tt.want:
				t.Errorf("uplink %s, want %s", h.Uplink(), tt.want)
			}
		})
	}
}

// IPv6 forwarding costs other interfaces the routes that routers advertise.
func TestUplinkLostRoutes(t *testing.T) {
	ns := twoUplinks(t)
	for _, ifname := range []string{"up0", "up1"} {
		ns.Sysctl(t, "net.ipv6.conf."+ifname+".accept_ra", "1")
	}
	addRoute(t, ns, "::/0", "up0", 100, unix.RTPROT_RA)
	addRoute(t, ns, "::/0", "up1", 200, unix.RTPROT_RA)
	h := mustSetup(t, ns, Config{Tap: "tap0", Uplink: "up0", StateDir: t.TempDir(), Networks: prefixes("fd00::4/64")})
	onlyOne(t, h.Warnings(), "through up1", "sysctl -w net.ipv6.conf.up1.accept_ra=2")
	mustClose(t, h)
}

// Where the host has the stack's network elsewhere, answers do not come back.
func TestUplinkNetworkElsewhere(t *testing.T) {
	ns := twoUplinks(t)
	addRoute(t, ns, "10.0.0.0/24", "up1", 0, unix.RTPROT_STATIC)
	h := mustSetup(t, ns, Config{Tap: "tap0", Uplink: "up0", StateDir: t.TempDir(), Networks: prefixes("10.0.0.4/24")})
	onlyOne(t, h.Warnings(), "10.0.0.0/24", "up1", "not to tap0")
	mustClose(t, h)

	ns.Down(t, "up0")
	h = mustSetup(t, ns, Config{Tap: "tap0", Uplink: "up0", StateDir: t.TempDir(), Networks: prefixes("10.1.0.4/24", "10.1.0.9/24")})
	onlyOne(t, h.Warnings(), "up0 is down", "ip link set up0 up")
	if got := strings.Join(h.Changes(), "\n"); strings.Count(got, "10.1.0.0/24") != 1 {
		t.Errorf("changes:\n%s", got)
	}
	mustClose(t, h)
}
