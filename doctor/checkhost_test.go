package doctor

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// bridgeFixture makes the tap of a fixture a port of a bridge with another one.
func bridgeFixture(e *Environment) {
	e.tapAttrs().MasterIndex = 3
	e.Links = append(e.Links,
		&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: 3, Name: "br0", MTU: 1500, HardwareAddr: macC, RawFlags: unix.IFF_UP | unix.IFF_LOWER_UP}},
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: 4, Name: "port0", MTU: 1500, MasterIndex: 3, RawFlags: unix.IFF_UP | unix.IFF_LOWER_UP}})
	e.Addrs[0].LinkIndex = 3
	forwarding := BridgePort{State: stateForwarding, PVID: 1, VLANs: []uint16{1}}
	e.Network.Ports = map[string]BridgePort{"tap0": forwarding, "port0": forwarding}
	e.Network.OwnVLANs = []uint16{1}
}

func (e *Environment) setPort(name string, change func(*BridgePort)) {
	p := e.Network.Ports[name]
	change(&p)
	e.Network.Ports[name] = p
}

// What cannot be made for real in a namespace, and what no kernel at hand can do.
func TestHostChecks(t *testing.T) {
	for _, c := range []struct {
		name, cause string
		spoil       func(*Environment)
	}{
		{"a bridge", "", bridgeFixture},
		{"room for connections", "", func(e *Environment) { e.Network.Conntrack = Conntrack{Count: 10, Max: 20} }},
		{"table full", CauseConntrackFull, func(e *Environment) { e.Network.Conntrack = Conntrack{Count: 20, Max: 20} }},
		{"table was full", CauseConntrackFull, func(e *Environment) {
			e.Network.Conntrack = Conntrack{Count: 10, Max: 20, Dropped: 5}
			e.Observed.Conntrack = Conntrack{Count: 19, Max: 20, Dropped: 7}
		}},
		{"table was full long ago", "", func(e *Environment) {
			e.Network.Conntrack = Conntrack{Count: 10, Max: 20, Dropped: 5}
			e.Observed.Conntrack = e.Network.Conntrack
		}},
		{"table full explains what the firewall drops", CauseConntrackFull, func(e *Environment) {
			e.Network.Conntrack = Conntrack{Count: 20, Max: 20}
			e.Observed.Dropped = []KernelDrop{{Link: "tap0", Reason: "NETFILTER_DROP", N: 1}}
		}},
		{"a firewall that drops the stack's", CauseFirewall, func(e *Environment) {
			b := ipFrame(macB, unix.IPPROTO_UDP, udp(goodSum))
			e.Observed.Dropped = []KernelDrop{{Link: "eth0", Reason: netfilterDrop, N: 1, Frame: Frame{Data: b, Len: len(b)}}}
		}},
		{"a firewall that drops what is others'", "", func(e *Environment) {
			b := ipFrame(macB, unix.IPPROTO_UDP, udp(goodSum))
			e.Observed.Dropped = []KernelDrop{{Link: "eth0", Reason: netfilterDrop, N: 1, Frame: Frame{Data: b, Len: len(b)}}}
			e.Stack.Addrs[0].Prefix = netip.PrefixFrom(ipB.Next(), 24)
		}},
		{"ARP of another interface's", "", func(e *Environment) {
			b := arpRequest(macA, ipA, ipB)
			e.Observed.Dropped = []KernelDrop{{Link: "eth0", Reason: netfilterDrop, N: 1, Frame: Frame{Data: b, Len: len(b)}}}
		}},
		{"no queue yet", CauseQdiscDrop, func(e *Environment) {
			e.Observed.Dropped = []KernelDrop{{Link: "tap0", Reason: "QDISC_DROP", Where: "__dev_queue_xmit", N: 1}}
			e.Observed.ToHost = []Ping{{To: ipB, Err: unix.EHOSTUNREACH}}
		}},
		{"queue of another", "", func(e *Environment) {
			e.Observed.Dropped = []KernelDrop{{Link: "eth0", Reason: "QDISC_DROP", Where: "__dev_queue_xmit", N: 1}}
		}},
		{"no VLAN for the tap", CauseVLAN, func(e *Environment) {
			bridgeFixture(e)
			e.Network.Filtering = true
			e.setPort("tap0", func(p *BridgePort) { p.PVID, p.VLANs = 0, nil })
		}},
		{"another VLAN than the host's", CauseVLAN, func(e *Environment) {
			bridgeFixture(e)
			e.Network.Filtering = true
			e.setPort("tap0", func(p *BridgePort) { p.PVID, p.VLANs = 20, []uint16{20} })
		}},
		{"VLANs that nobody looks at", "", func(e *Environment) {
			bridgeFixture(e)
			e.setPort("tap0", func(p *BridgePort) { p.PVID, p.VLANs = 0, nil })
		}},
		{"blocking", CausePortBlocked, func(e *Environment) {
			bridgeFixture(e)
			e.setPort("tap0", func(p *BridgePort) { p.State = 4 })
		}},
		{"LACP from the tap", CauseLACPEaten, func(e *Environment) {
			bridgeFixture(e)
			e.out(lacp())
		}},
		{"LACP that gets through", "", func(e *Environment) {
			bridgeFixture(e)
			e.setPort("tap0", func(p *BridgePort) { p.GroupForward = lacpBit })
			e.out(lacp())
		}},
		{"loopback as name server", CauseDNS, func(e *Environment) {
			e.Observed.DNS = []DNSAnswer{{Server: netip.MustParseAddrPort("127.0.0.53:53"), Err: errors.New("not asked")}}
		}},
		{"IPv6 forwarding", CauseForwardOff, func(e *Environment) {
			host6 := netip.MustParseAddr("fd00::5")
			e.Addrs = append(e.Addrs, netlink.Addr{LinkIndex: 2, IPNet: &net.IPNet{IP: host6.AsSlice(), Mask: net.CIDRMask(64, 128)}})
			e.Stack.Routes = append(e.Stack.Routes, control.Route{Gateway: host6})
			e.Links = append(e.Links, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: 9, Name: "up0"}})
			e.Routes = append(e.Routes, netlink.Route{Family: unix.AF_INET6, LinkIndex: 9, Type: unix.RTN_UNICAST})
			e.Network.Sysctl = map[string]string{"ipv6/conf/all/forwarding": "0"}
		}},
	} {
		env := fixture()
		c.spoil(env)
		var want []string
		if c.cause != "" {
			want = []string{c.cause}
		}
		if got := judged(env); !slices.Equal(got, want) {
			t.Errorf("%s: found %v, want %v", c.name, got, want)
		}
	}
}

// lacp begins as a frame of LACP does.
func lacp() []byte {
	return append([]byte{0x01, 0x80, 0xc2, 0, 0, 2, 2, 0, 0, 0, 0, 9, 0x88, 0x09, 1, 1}, make([]byte, 108)...)
}

func TestReadConntrack(t *testing.T) {
	proc := t.TempDir()
	for name, text := range map[string]string{
		"sys/net/netfilter/nf_conntrack_count": "262144\n",
		"sys/net/netfilter/nf_conntrack_max":   "262144\n",
		"thread-self/net/stat/nf_conntrack": "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop\n" +
			"00040000  00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000 00000003 0000000a 00000002\n" +
			"00040000  00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000 00000003 00000010 00000002\n",
	} {
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := readConntrack(proc), (Conntrack{Count: 262144, Max: 262144, Dropped: 26}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := readConntrack(t.TempDir()); got != (Conntrack{}) {
		t.Errorf("a kernel without it: %+v", got)
	}
}

func TestReadNetstat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "netstat")
	text := "TcpExt: SyncookiesSent IPReversePathFilter\nTcpExt: 1 7\nIpExt: InNoRoutes\nIpExt: 3\nMore: Odd\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got := readNetstat(path)
	if got["IPReversePathFilter"] != 7 || got["InNoRoutes"] != 3 || got["Odd"] != 0 {
		t.Errorf("%v", got)
	}
}

func TestSysctlStep(t *testing.T) {
	if got, want := sysctlStep("ipv4/conf/tap0.5/rp_filter", "2").Command, "sysctl -w net.ipv4.conf.tap0/5.rp_filter=2"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestDescribedRefusal(t *testing.T) {
	server := netip.AddrPortFrom(ipA, 53) // whom frames of ipFrame's are from
	quoted := ipFrame(macB, unix.IPPROTO_UDP, append([]byte{0x80, 0, 0, 53}, make([]byte, 40)...))[headerLen:]
	env := fixture()
	frame := ipFrame(macB, unix.IPPROTO_ICMP, append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, quoted...))
	env.out(frame)
	if !env.refusedPort(server) {
		t.Error("port unreachable is not recognised")
	}
	if env.refusedPort(netip.AddrPortFrom(ipA, 54)) || env.refusedPort(netip.AddrPortFrom(ipB, 53)) {
		t.Error("another port's, or another server's, is")
	}
	for n := range frame { // cut anywhere it is at most another answer
		env.Observed.Frames = []Frame{{Link: "tap0", Data: frame[:n], Len: n}}
		env.refusedPort(server)
	}
}

func FuzzParsePort(f *testing.F) {
	info := nl.NewRtAttr(unix.IFLA_PROTINFO, nil)
	info.AddRtAttr(nl.IFLA_BRPORT_STATE, []byte{3})
	info.AddRtAttr(nl.IFLA_BRPORT_GROUP_FWD_MASK, []byte{4, 4})
	info.AddRtAttr(nl.IFLA_BRPORT_ISOLATED, []byte{1})
	f.Add(info.Serialize()[4:])
	f.Add([]byte{})
	f.Add([]byte(strings.Repeat("\xff", 9)))
	f.Fuzz(func(_ *testing.T, b []byte) { parsePort(b) })
}
