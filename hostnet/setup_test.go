package hostnet

import (
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
)

// newHost is a namespace with a persistent tap that is down, and an uplink.
func newHost(t *testing.T) *netlab.NS {
	t.Helper()
	ns := netlab.New(t, "host")
	ns.Tap(t, "tap0", 0)
	ns.Down(t, "tap0")
	// Above any bridge's, so that it may stay as it is in one.
	if err := ns.Netlink().LinkSetHardwareAddr(ns.Link(t, "tap0"), net.HardwareAddr{0xfe, 0, 0, 0, 0, 1}); err != nil {
		t.Fatal(err)
	}
	outside := netlab.New(t, "outside")
	netlab.Veth(t, ns, "up0", outside, "out0")
	ns.Sysctl(t, "net.ipv6.conf.up0.accept_dad", "0")
	ns.Addr(t, "up0", "203.0.113.1/24")
	outside.Addr(t, "out0", "203.0.113.2/24")
	return ns
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Everything Setup does is there until Close, and then nothing of it.
func TestUndo(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(t *testing.T, ns *netlab.NS)
		cfg     Config
		want    []string // Changes
	}{
		{
			name: "address",
			cfg:  Config{Addrs: prefixes("10.0.0.5/24", "fd00::5/64"), MTU: 1400},
			want: []string{
				"ip link set tap0 mtu 1400", "ip addr add 10.0.0.5/24 dev tap0",
				"ip addr add fd00::5/64 dev tap0", "ip link set tap0 up",
			},
		},
		{
			name: "part is there",
			prepare: func(t *testing.T, ns *netlab.NS) {
				ns.Addr(t, "tap0", "10.0.0.5/24")
				ns.Up(t, "tap0")
			},
			cfg:  Config{Addrs: prefixes("10.0.0.5/24", "10.0.1.5/24"), MTU: 1500},
			want: []string{"ip addr add 10.0.1.5/24 dev tap0"},
		},
		{
			name: "uplink",
			prepare: func(t *testing.T, ns *netlab.NS) {
				ns.Sysctl(t, "net.ipv6.conf.up0.accept_ra", "1")
			},
			cfg: Config{Addrs: prefixes("10.0.0.5/24"), Uplink: "up0", Networks: prefixes("10.0.0.4/24", "fd00::4/64")},
			want: []string{
				"ip addr add 10.0.0.5/24 dev tap0", "ip link set tap0 up", "ip route add fd00::/64 dev tap0",
				"sysctl -w net.ipv4.ip_forward=1", "sysctl -w net.ipv6.conf.up0.accept_ra=2",
				"sysctl -w net.ipv6.conf.all.forwarding=1", "nft add table inet ustack_tap0",
			},
		},
		{
			name: "uplink on a host with settings of its own",
			prepare: func(t *testing.T, ns *netlab.NS) {
				ns.Sysctl(t, "net.ipv4.conf.all.accept_redirects", "0")
				ns.Sysctl(t, "net.ipv4.conf.up0.forwarding", "1")
				ns.Sysctl(t, "net.ipv6.conf.up0.forwarding", "1")
				ns.Sysctl(t, "net.ipv6.conf.up0.accept_ra", "0")
				ns.Route(t, "default", "203.0.113.2")
			},
			cfg: Config{Uplink: UplinkAuto, Networks: prefixes("10.0.0.0/24", "fd00::4/64")},
			want: []string{
				"ip link set tap0 up", "ip route add 10.0.0.0/24 dev tap0", "ip route add fd00::/64 dev tap0",
				"sysctl -w net.ipv4.ip_forward=1", "sysctl -w net.ipv6.conf.all.forwarding=1", "nft add table inet ustack_tap0",
			},
		},
		{
			name: "uplink of a router",
			prepare: func(t *testing.T, ns *netlab.NS) {
				ns.Sysctl(t, "net.ipv4.ip_forward", "1")
				ns.Sysctl(t, "net.ipv6.conf.all.forwarding", "1")
				ns.Sysctl(t, "net.ipv6.conf.up0.accept_ra", "1")
			},
			cfg: Config{Addrs: prefixes("10.0.0.5/24", "fd00::5/64"), Uplink: "up0", Networks: prefixes("10.0.0.4/24", "fd00::4/64")},
			want: []string{
				"ip addr add 10.0.0.5/24 dev tap0", "ip addr add fd00::5/64 dev tap0", "ip link set tap0 up", "nft add table inet ustack_tap0",
			},
		},
		{
			name:    "bridge",
			prepare: func(t *testing.T, ns *netlab.NS) { ns.Bridge(t, "br0") },
			cfg:     Config{Addrs: prefixes("10.0.0.5/24"), Bridge: "br0"},
			want:    []string{"ip link set tap0 up", "ip link set tap0 master br0"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ns := newHost(t)
			if tt.prepare != nil {
				tt.prepare(t, ns)
			}
			before, fds := snapshot(t, ns), openFDs(t)
			cfg := tt.cfg
			cfg.Tap, cfg.StateDir = "tap0", t.TempDir()
			h := mustSetup(t, ns, cfg)
			if got := h.Changes(); !slices.Equal(got, tt.want) {
				t.Errorf("changes:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			if w := h.Warnings(); len(w) > 0 {
				t.Errorf("warnings: %q", w)
			}
			during := snapshot(t, ns)
			if slices.Equal(before, during) {
				t.Error("Setup changed nothing")
			}
			if cfg.Uplink != "" && h.Uplink() != "up0" {
				t.Errorf("uplink %q", h.Uplink())
			}
			if n := len(journals(t, cfg.StateDir)); n != 1 {
				t.Errorf("%d journals, want 1", n)
			}
			// A second one finds all of it there.
			if cfg.Uplink == "" {
				second := mustSetup(t, ns, cfg)
				if got := second.Changes(); len(got) > 0 {
					t.Errorf("the second changes %q", got)
				}
				mustClose(t, second)
				sameState(t, during, snapshot(t, ns))
			}
			mustClose(t, h)
			mustClose(t, h)
			sameState(t, before, snapshot(t, ns))
			if left := journals(t, cfg.StateDir); len(left) > 0 {
				t.Errorf("journals left: %q", left)
			}
			if n := openFDs(t); n > fds {
				t.Errorf("%d descriptors open, %d before", n, fds)
			}
		})
	}
}

// What cannot be is one clear line, and everything before it is undone.
func TestSetupErrors(t *testing.T) {
	ns := newHost(t)
	ns.Bridge(t, "br0")
	ns.Bridge(t, "br1")
	ns.Tap(t, "tap1", 0)
	ns.Do(t, func() {
		tap, _ := netlink.LinkByName("tap1")
		br, _ := netlink.LinkByName("br1")
		if err := netlink.LinkSetMaster(tap, br); err != nil {
			t.Fatal(err)
		}
	})
	before := snapshot(t, ns)
	tests := []struct {
		name string
		cfg  Config
		conf bool
		want []string
	}{
		{"no tap", Config{Tap: "tap9"}, false, []string{"no interface tap9", "lo", "tap0", "up0"}},
		{"no uplink", Config{Uplink: "eth9", Networks: prefixes("10.0.0.4/24"), Addrs: prefixes("10.0.0.5/24")}, false, []string{"uplink", "no interface eth9", "tap0", "up0"}},
		{"no default route", Config{Uplink: "auto", Networks: prefixes("10.0.0.4/24")}, false, []string{"no default route"}},
		{"loopback", Config{Uplink: "lo", Networks: prefixes("10.0.0.4/24")}, false, []string{"lo is the loopback"}},
		{"uplink is tap", Config{Uplink: "tap0", Networks: prefixes("10.0.0.4/24")}, true, []string{"tap itself"}},
		{"nothing to masquerade", Config{Uplink: "up0"}, true, []string{"network"}},
		{"no bridge", Config{Bridge: "br9"}, false, []string{"no bridge br9", "ip link add br9 type bridge"}},
		{"not a bridge", Config{Bridge: "up0"}, false, []string{"up0 is not a Linux bridge", "veth"}},
		{"in another bridge", Config{Tap: "tap1", Bridge: "br0"}, false, []string{"port of br1", "ip link set tap1 nomaster"}},
		{"bridge and uplink", Config{Bridge: "br0", Uplink: "up0", Networks: prefixes("10.0.0.4/24")}, true, []string{"exclude each other"}},
		{"bridge and address", Config{Bridge: "br0", Addrs: prefixes("10.0.0.5/24"), Explicit: true}, true, []string{"exclude each other", "ip addr add 10.0.0.5/24 dev br0"}},
		{"address taken", Config{Addrs: prefixes("203.0.113.1/25"), Explicit: true}, false, []string{"add 203.0.113.1/25 to tap0", "up0 has 203.0.113.1/24 already"}},
		{"network address", Config{Addrs: prefixes("10.0.0.0/24")}, true, []string{"10.0.0.1/24"}},
		{"MTU", Config{MTU: 60}, true, []string{"MTU 60"}},
		{"MTU too large", Config{MTU: 65535}, false, []string{"MTU of tap0 to 65535", "ip -d link show tap0"}},
		{"MTU for IPv6", Config{MTU: 1000, Addrs: prefixes("fd00::5/64")}, true, []string{"fd00::5/64 with MTU 1000", "1280"}},
		{"name", Config{Tap: "../tap0"}, true, []string{"interface name"}},
		{"long name", Config{Tap: "a23456789012345x"}, true, []string{"15 bytes"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := tt.cfg
			if cfg.Tap == "" {
				cfg.Tap = "tap0"
			}
			cfg.StateDir = t.TempDir()
			_, err := setupIn(t, ns, cfg)
			if err == nil {
				t.Fatal("no error")
			}
			containsAll(t, err.Error(), append(tt.want, "hostnet: ")...)
			if errors.Is(err, ErrConfig) != tt.conf {
				t.Errorf("errors.Is(%v, ErrConfig) = %v", err, !tt.conf)
			}
			sameState(t, before, snapshot(t, ns))
			if left := journals(t, cfg.StateDir); len(left) > 0 {
				t.Errorf("journals left: %q", left)
			}
		})
	}
}

// Addresses that collide with another interface's.
func TestOverlap(t *testing.T) {
	ns := newHost(t)
	for _, explicit := range []bool{false, true} {
		cfg := Config{Tap: "tap0", Addrs: prefixes("203.0.113.77/25"), Explicit: explicit, StateDir: t.TempDir()}
		h := mustSetup(t, ns, cfg)
		onlyOne(t, h.Warnings(), "203.0.113.77/25", "tap0", "203.0.113.1/24 on up0")
		added := slices.Contains(h.Changes(), "ip addr add 203.0.113.77/25 dev tap0")
		if added != explicit {
			t.Errorf("explicit %v: added %v", explicit, added)
		}
		mustClose(t, h)
	}
}

// The tap may be gone, or another one of its name be there, when it is undone.
func TestUndoGone(t *testing.T) {
	ns := newHost(t)
	h := mustSetup(t, ns, Config{Tap: "tap0", Addrs: prefixes("10.0.0.5/24"), StateDir: t.TempDir(), Uplink: "up0", Networks: prefixes("10.0.0.4/24")})
	tap := ns.Link(t, "tap0")
	if err := ns.Netlink().LinkDel(tap); err != nil {
		t.Fatal(err)
	}
	if err := ns.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "tap0"}}); err != nil {
		t.Fatal(err)
	}
	ns.Addr(t, "tap0", "10.0.0.5/24")
	ns.Up(t, "tap0")
	mustClose(t, h)
	if ns.Link(t, "tap0").Attrs().Flags&net.FlagUp == 0 {
		t.Error("another interface of the tap's name was brought down")
	}
	addrs, err := ns.Netlink().AddrList(ns.Link(t, "tap0"), netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 {
		t.Errorf("addresses of the other interface: %v, %v", addrs, err)
	}
}

// What somebody else changed in the meantime is theirs.
func TestUndoOnlyOurs(t *testing.T) {
	ns := newHost(t)
	h := mustSetup(t, ns, Config{Tap: "tap0", MTU: 1400, StateDir: t.TempDir(), Uplink: "up0", Networks: prefixes("10.0.0.4/24", "fd00::4/64")})
	if err := ns.Netlink().LinkSetMTU(ns.Link(t, "tap0"), 1300); err != nil {
		t.Fatal(err)
	}
	ns.Sysctl(t, "net.ipv6.conf.all.forwarding", "0")
	ns.Sysctl(t, "net.ipv6.conf.up0.accept_ra", "0")
	mustClose(t, h)
	if mtu := ns.Link(t, "tap0").Attrs().MTU; mtu != 1300 {
		t.Errorf("MTU %d, want 1300", mtu)
	}
	if v := ns.SysctlValue(t, "net.ipv6.conf.up0.accept_ra"); v != "0" {
		t.Errorf("accept_ra %s, want 0", v)
	}
	if v := ns.SysctlValue(t, "net.ipv4.ip_forward"); v != "0" {
		t.Errorf("ip_forward %s, want 0", v)
	}
}

// An IPv6 address of the host's answers at once: the stack would not find its
// gateway for a second otherwise.
func TestAddressWithoutDAD(t *testing.T) {
	ns := newHost(t)
	h := mustSetup(t, ns, Config{Tap: "tap0", Addrs: prefixes("fd00::5/64"), StateDir: t.TempDir()})
	defer mustClose(t, h)
	addrs, err := ns.Netlink().AddrList(ns.Link(t, "tap0"), netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		return a.IPNet.String() == "fd00::5/64" && a.Flags&unix.IFA_F_NODAD != 0
	}) {
		t.Errorf("%v", addrs)
	}
}
