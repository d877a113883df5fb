package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/doctor"
	"github.com/ustack/ustack/internal/netlab"
)

// Each of these makes one fault of the host's network for real and wants doctor to name
// it and no other.

// The router beyond the host.
const (
	routerIn4 = "198.51.100.1"
	hostUp4   = "198.51.100.2"
)

// routed starts a daemon whose gateway is the host, which has a router beyond, the name
// server:
//
//	 ustack         host              router
//	┌──────┐   ┌────────────┐     ┌──────────┐
//	│ .4   ├───┤tap0 .5  up0├─────┤eth0 .1   │
//	└──────┘   └────────────┘     └──────────┘
//	 10.0.0.0/24          198.51.100.0/24
//
// Without an uplink in more, the host forwards, and the router knows the way back.
func routed(t testing.TB, host, router *netlab.NS, more ...string) *daemon {
	t.Helper()
	netlab.Veth(t, host, "up0", router, "eth0")
	router.Addr(t, "eth0", routerIn4+"/24")
	host.Addr(t, "up0", hostUp4+"/24")
	host.Route(t, "default", routerIn4)
	if len(more) == 0 {
		host.Sysctl(t, "net.ipv4.ip_forward", "1")
		router.Route(t, "10.0.0.0/24", hostUp4)
	}
	d := up(t, host, append([]string{"--link", "tap:tap0", "--addr", stack4 + "/24", "--host-addr", host4 + "/24", "--dns", routerIn4}, more...)...)
	answerDNS(t, router, routerIn4+":53")
	return d
}

func TestDoctorHealthyUplink(t *testing.T) {
	t.Parallel()
	host, router := netlab.New(t, "host"), netlab.New(t, "router")
	d := routed(t, host, router, "--uplink", "up0")
	healthy(t, host, d)
	d.terminate(t)
}

func TestDoctorHealthyRouted(t *testing.T) {
	t.Parallel()
	host, router := netlab.New(t, "host"), netlab.New(t, "router")
	d := routed(t, host, router)
	healthy(t, host, d)
	d.terminate(t)
}

// setPort sets what a bridge makes of a port.
func setPort(t testing.TB, ns *netlab.NS, port string, args ...string) {
	t.Helper()
	ns.Run(t, "ip", append([]string{"link", "set", "dev", port, "type", "bridge_slave"}, args...)...)
}

// setPortState does what `bridge link set dev PORT state N` does: ip(8) has the kernel take
// a port that is disabled up again.
func setPortState(t testing.TB, ns *netlab.NS, port string, state byte) {
	t.Helper()
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(ns.Link(t, port).Attrs().Index)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(nl.IFLA_BRPORT_STATE, []byte{state})
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.AddData(msg)
	req.AddData(info)
	ns.Do(t, func() {
		if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDoctorPortBlocked(t *testing.T) {
	for number, name := range []string{"disabled", "listening", "learning"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, far := netlab.New(t, "host"), netlab.New(t, "far")
			d := bridged(t, host, far)
			healthy(t, host, d) // and the kernel has taken the port up
			setPortState(t, host, "tap0", byte(number))
			if f := onlyCause(t, doctor.CausePortBlocked, host, d); !strings.Contains(fmt.Sprint(f), name) {
				t.Errorf("the state is not named: %v", f)
			}
			if name == "disabled" {
				fixed(t, host, d, "bridge link set dev tap0 state 3")
			}
			d.terminate(t)
		})
	}
}

// A bridge with STP lets a new port wait.
func TestDoctorPortOfSTP(t *testing.T) {
	t.Parallel()
	host, far := netlab.New(t, "host"), netlab.New(t, "far")
	netlab.Veth(t, host, "port0", far, "eth0")
	host.Bridge(t, "br0", "port0")
	host.Run(t, "ip", "link", "set", "dev", "br0", "type", "bridge", "stp_state", "1")
	host.Addr(t, "br0", host4+"/24")
	d := up(t, host, "--link", "tap:tap0", "--bridge", "br0", "--addr", stack4+"/24", "--dns", host4)
	// Its state is the kernel's to say as soon as it has a carrier there.
	netlab.WaitFor(t, 10*time.Second, "port that is up", func() bool {
		return host.Link(t, "tap0").Attrs().OperState == netlink.OperUp || host.Link(t, "tap0").Attrs().OperState == netlink.OperUnknown
	})
	onlyCause(t, doctor.CausePortBlocked, host, d)
	d.terminate(t)
}

func TestDoctorPortLocked(t *testing.T) {
	t.Parallel()
	host, far := netlab.New(t, "host"), netlab.New(t, "far")
	d := bridged(t, host, far)
	setPort(t, host, "tap0", "locked", "on", "learning", "off")
	host.Run(t, "ip", "link", "set", "dev", "tap0", "type", "bridge_slave", "fdb_flush")
	onlyCause(t, doctor.CausePortBlocked, host, d)
	d.terminate(t)
}

// The gateway is behind another isolated port.
func TestDoctorPortIsolated(t *testing.T) {
	t.Parallel()
	host, far := netlab.New(t, "host"), netlab.New(t, "far")
	d := bridged(t, host, far, "--gateway", "10.0.0.6")
	for _, port := range []string{"tap0", "port0"} {
		healthy(t, host, d)
		setPort(t, host, port, "isolated", "on")
	}
	onlyCause(t, doctor.CausePortBlocked, host, d)
	d.terminate(t)
}

// lacpdu is what a speaker of LACP sends that knows no partner (IEEE 802.1AX-2014 section
// 6.4.2.3), as far as a bridge looks at it.
func lacpdu(src net.HardwareAddr) []byte {
	b := make([]byte, 14+110)
	copy(b, []byte{0x01, 0x80, 0xc2, 0, 0, 2})
	copy(b[6:], src)
	copy(b[12:], []byte{0x88, 0x09, 1, 1, 1, 20, 0xff, 0xff})
	copy(b[20:], src)
	return b
}

// Somebody behind the tap and somebody behind the bridge's other port want to aggregate.
func TestDoctorLACPEaten(t *testing.T) {
	t.Parallel()
	host, far := netlab.New(t, "host"), netlab.New(t, "far")
	netlab.Veth(t, host, "port0", far, "eth0")
	startBadtap(t, host, "good")
	host.Bridge(t, "br0", "port0", "tap0")
	healthy(t, host, nil, "--program")
	speak(t, far.Injector(t, "eth0"), lacpdu(far.MAC(t, "eth0")))
	if f := onlyCause(t, doctor.CauseLACPEaten, host, nil, "--program"); !strings.Contains(fmt.Sprint(f), "port0") {
		t.Errorf("where it came in is not told: %v", f)
	}
	r := runDoctor(t, host, nil, "--program", "--fix")
	match(t, "doctor --fix", r.stdout, `fix    ip link set dev tap0 type bridge_slave group_fwd_mask 4: done
fix    ip link set dev port0 type bridge_slave group_fwd_mask 4: done
.*healthy`)
	// It really gets through.
	got := host.Capture(t, "tap0")
	got.Wait(t, 10*time.Second, "LACP of the other port's", func(f netlab.Frame) bool { return f.EtherType() == 0x8809 })
}

// speak sends a frame again and again until the end of the test, more often than a speaker
// of LACP does.
func speak(t testing.TB, send func([]byte) error, frame []byte) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				send(frame)
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
}

// A plain stack speaks no LACP: that of others is none of its business.
func TestDoctorLACPOfOthers(t *testing.T) {
	t.Parallel()
	host, far := netlab.New(t, "host"), netlab.New(t, "far")
	d := bridged(t, host, far)
	speak(t, far.Injector(t, "eth0"), lacpdu(far.MAC(t, "eth0")))
	healthy(t, host, d)
	d.terminate(t)
}

// A host with two ways into one network, which answers by the other one.
func TestDoctorRPFilter(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	netlab.Veth(t, host, "port0", host, "eth1")
	host.Bridge(t, "br0", "port0")
	// Who asks on one interface is not answered with the other's address.
	host.Sysctl(t, "net.ipv4.conf.all.arp_ignore", "1")
	host.Sysctl(t, "net.ipv4.conf.all.arp_announce", "2")
	host.Addr(t, "br0", host4+"/24")
	host.Addr(t, "eth1", "10.0.0.9/24")
	host.Run(t, "ip", "route", "del", "10.0.0.0/24", "dev", "br0")
	host.Run(t, "ip", "route", "add", "10.0.0.0/24", "dev", "br0", "src", host4, "metric", "100")
	host.Sysctl(t, "net.ipv4.conf.eth1.accept_local", "1")
	host.Sysctl(t, "net.ipv4.conf.br0.accept_local", "1")
	d := up(t, host, "--link", "tap:tap0", "--bridge", "br0", "--addr", stack4+"/24", "--dns", host4)
	answerDNS(t, host, host4+":53")
	healthy(t, host, d)
	host.Sysctl(t, "net.ipv4.conf.br0.rp_filter", "1")
	onlyCause(t, doctor.CauseRPFilter, host, d)
	fixed(t, host, d, "sysctl -w net.ipv4.conf.br0.rp_filter=2")
	d.terminate(t)
}

// The same setting drops what comes from an address that is routed elsewhere by mistake.
func TestDoctorRPFilterWrongRoute(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	netlab.Veth(t, host, "other0", host, "other1")
	host.Run(t, "ip", "route", "add", stack4+"/32", "dev", "other0")
	host.Sysctl(t, "net.ipv4.conf.all.rp_filter", "1")
	onlyCause(t, doctor.CauseRPFilter, host, d)
	host.Sysctl(t, "net.ipv4.conf.all.rp_filter", "0")
	onlyCause(t, doctor.CauseNoRouteBack, host, d)
	d.terminate(t)
}

func TestDoctorNoRouteBack(t *testing.T) {
	t.Parallel()
	for _, rp := range []string{"0", "2"} {
		t.Run("rp_filter "+rp, func(t *testing.T) {
			t.Parallel()
			host, router := netlab.New(t, "host"), netlab.New(t, "router")
			d := routed(t, host, router)
			host.Sysctl(t, "net.ipv4.conf.tap0.rp_filter", rp)
			host.Run(t, "ip", "addr", "del", host4+"/24", "dev", "tap0")
			host.Addr(t, "tap0", host4+"/32")
			onlyCause(t, doctor.CauseNoRouteBack, host, d) // by the default route
			fixed(t, host, d, "ip route add 10.0.0.0/24 dev tap0")
			host.Run(t, "ip", "route", "del", "10.0.0.0/24", "dev", "tap0")
			host.Run(t, "ip", "route", "del", "default")
			f := causes(t, host, d)
			if want := map[string]string{"0": doctor.CauseNoRouteBack, "2": doctor.CauseRPFilter}[rp]; fmt.Sprint(f) != fmt.Sprint([]string{want}) {
				t.Errorf("without any route: %v, want %s", f, want)
			}
			host.Route(t, "default", routerIn4)
			d.terminate(t)
		})
	}
}

func TestDoctorForwardOff(t *testing.T) {
	t.Parallel()
	host, router := netlab.New(t, "host"), netlab.New(t, "router")
	d := routed(t, host, router)
	host.Sysctl(t, "net.ipv4.ip_forward", "0")
	onlyCause(t, doctor.CauseForwardOff, host, d)
	fixed(t, host, d, "sysctl -w net.ipv4.ip_forward=1")
	host.Sysctl(t, "net.ipv4.conf.tap0.forwarding", "0")
	onlyCause(t, doctor.CauseForwardOff, host, d)
	fixed(t, host, d, "sysctl -w net.ipv4.conf.tap0.forwarding=1")
	d.terminate(t)
}

func TestDoctorFirewall(t *testing.T) {
	for _, c := range []struct{ name, rules, want string }{
		{"forward policy", "add table inet fence; add chain inet fence forward { type filter hook forward priority 0; policy drop; }", "inet fence forward"},
		{"forward rule", "add table ip fence; add chain ip fence forwards { type filter hook forward priority 0; }; add chain ip fence deny; add rule ip fence deny counter drop; add rule ip fence forwards iifname tap0 jump deny", "rose by"},
		{"answers", "add table ip fence; add chain ip fence forwards { type filter hook forward priority 0; }; add rule ip fence forwards oifname tap0 counter drop", "rose by"},
		{"reject", "add table ip fence; add chain ip fence forwards { type filter hook forward priority 0; }; add rule ip fence forwards iifname tap0 reject", "ip fence forwards"},
		{"names alone", "add table inet fence; add chain inet fence names { type filter hook forward priority 0; }; add rule inet fence names udp dport 53 drop", "inet fence names"},
		{"input", "add table inet fence; add chain inet fence in { type filter hook input priority 0; policy drop; }", "inet fence in"},
		{"output", "add table inet fence; add chain inet fence out { type filter hook output priority 0; }; add rule inet fence out oifname tap0 drop", "inet fence out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			host, router := netlab.New(t, "host"), netlab.New(t, "router")
			d := routed(t, host, router)
			host.Run(t, "nft", c.rules)
			if f := onlyCause(t, doctor.CauseFirewall, host, d); !strings.Contains(fmt.Sprint(f), c.want) {
				t.Errorf("%q is not named: %v", c.want, f)
			}
			host.Run(t, "nft", "flush ruleset")
			healthy(t, host, d)
			d.terminate(t)
		})
	}
}

// Filters of frames, who keep the stack even from asking who has an address.
func TestDoctorFirewallOfFrames(t *testing.T) {
	for _, family := range []string{"bridge", "arp"} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			host, far := netlab.New(t, "host"), netlab.New(t, "far")
			d := bridged(t, host, far, "--gateway", "10.0.0.6")
			hook := map[string]string{"bridge": "forward", "arp": "input"}[family]
			host.Run(t, "nft", "add table "+family+" fence; add chain "+family+" fence frames { type filter hook "+hook+" priority 0; policy drop; }")
			if f := onlyCause(t, doctor.CauseFirewall, host, d); !strings.Contains(fmt.Sprint(f), family+" fence frames") {
				t.Errorf("the chain is not named: %v", f)
			}
			host.Run(t, "nft", "flush ruleset")
			healthy(t, host, d)
			d.terminate(t)
		})
	}
}

// The same over IPv6: each fault, and what is left when it is mended.
func TestDoctorRouted6(t *testing.T) {
	t.Parallel()
	host, router := netlab.New(t, "host"), netlab.New(t, "router")
	netlab.Veth(t, host, "up0", router, "eth0")
	router.Addr(t, "eth0", "2001:db8::1/64")
	host.Addr(t, "up0", "2001:db8::2/64")
	host.Route(t, "default", "2001:db8::1")
	d := patient(t, host, "tap:tap0")
	onlyCause(t, doctor.CauseForwardOff, host, d)
	host.Sysctl(t, "net.ipv6.conf.all.forwarding", "1")
	onlyCause(t, doctor.CauseMasquerade, host, d)
	router.Route(t, "fd00:a::/64", "2001:db8::2")
	healthy(t, host, d)
	host.Run(t, "nft", "add table ip6 fence; add chain ip6 fence forwards { type filter hook forward priority 0; policy drop; }")
	onlyCause(t, doctor.CauseFirewall, host, d)
	d.terminate(t)
}

func TestDoctorMasqueradeMissing(t *testing.T) {
	t.Parallel()
	host, router := netlab.New(t, "host"), netlab.New(t, "router")
	d := routed(t, host, router)
	router.Run(t, "ip", "route", "del", "10.0.0.0/24")
	onlyCause(t, doctor.CauseMasquerade, host, d)
	host.Run(t, "nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; add rule ip nat post oifname up0 ip saddr 10.0.0.0/24 masquerade")
	healthy(t, host, d)
	d.terminate(t)
}

// The stack's address is a public one: its packets leave as they should, and the router
// does not know the way back.
func TestDoctorUnknownBeyond(t *testing.T) {
	t.Parallel()
	host, router := netlab.New(t, "host"), netlab.New(t, "router")
	netlab.Veth(t, host, "up0", router, "eth0")
	router.Addr(t, "eth0", routerIn4+"/24")
	host.Addr(t, "up0", hostUp4+"/24")
	host.Route(t, "default", routerIn4)
	host.Sysctl(t, "net.ipv4.ip_forward", "1")
	d := up(t, host, "--link", "tap:tap0", "--addr", "203.0.113.4/24", "--host-addr", "203.0.113.5/24", "--dns", "203.0.113.5")
	answerDNS(t, host, "203.0.113.5:53")
	onlyCause(t, doctor.CauseUnknownBeyond, host, d)
	router.Route(t, "203.0.113.0/24", hostUp4)
	healthy(t, host, d)
	d.terminate(t)
}

func TestDoctorDNS(t *testing.T) {
	for _, c := range []struct{ name, server, want string }{
		{"nobody there", "10.0.0.99", "does not answer"},
		{"nobody listens", host4 + ":54", "nobody listens"},
		{"silent", host4 + ":55", "does not answer"},
		{"refuses", host4 + ":56", ""}, // as one that knows a local domain alone
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			host := netlab.New(t, "host")
			d := patient(t, host, "tap:tap0", "--dns", c.server)
			switch c.name {
			case "silent":
				serveUDP(t, host, c.server, func([]byte) {})
			case "refuses":
				serveUDP(t, host, c.server, func(b []byte) { b[2], b[3] = b[2]|0x80, b[3]&0xf0|5 })
			}
			if c.want == "" {
				healthy(t, host, d)
				d.terminate(t)
				return
			}
			f := onlyCause(t, doctor.CauseDNS, host, d)
			if text := fmt.Sprint(f); len(f) != 1 || !strings.Contains(text, c.want) || !strings.Contains(text, netip.MustParseAddr(strings.Split(c.server, ":")[0]).String()) {
				t.Errorf("want one finding with %q: %v", c.want, text)
			}
			d.terminate(t)
		})
	}
}

// A queueing discipline that drops all, as the kernel's first one does.
func TestDoctorQdiscDrop(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	host.Run(t, "tc", "qdisc", "add", "dev", "tap0", "root", "blackhole")
	onlyCause(t, doctor.CauseQdiscDrop, host, d)
	host.Run(t, "tc", "qdisc", "del", "dev", "tap0", "root")
	healthy(t, host, d)
	d.terminate(t)
}
