package doctor

import (
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// fixture is a healthy tap with a daemon on it.
func fixture() *Environment {
	tap := &netlink.Tuntap{Mode: netlink.TUNTAP_MODE_TAP, LinkAttrs: netlink.LinkAttrs{
		Index: 2, Name: "tap0", HardwareAddr: macB, MTU: 1500, TxQLen: 1000, Statistics: &netlink.LinkStatistics{},
		RawFlags: unix.IFF_UP | unix.IFF_LOWER_UP | unix.IFF_RUNNING | unix.IFF_BROADCAST | unix.IFF_MULTICAST,
	}}
	return &Environment{
		Link: "tap0", Mode: ModeDaemon, Links: []netlink.Link{tap},
		Ethtool: map[string]Ethtool{"tap0": {Known: true, Speed: 10000, Duplex: "full"}},
		Addrs:   []netlink.Addr{{LinkIndex: 2, IPNet: &net.IPNet{IP: ipB.AsSlice(), Mask: net.CIDRMask(24, 32)}}},
		Stack: &Stack{
			PID: 7, Link: control.Link{Name: "tap0", Kind: "tap", MTU: 1500, HardwareAddr: macA.String()},
			Addrs: []control.Addr{{Prefix: netip.PrefixFrom(ipA, 24), State: "assigned"}},
		},
		Observed: &Observed{Before: map[string]netlink.LinkStatistics{}, After: map[string]netlink.LinkStatistics{"tap0": {TxPackets: 1}}},
	}
}

// program puts a program in the place of the daemon, which reads and says nothing.
func program(e *Environment) {
	e.Mode, e.Stack, e.Holders = ModeProgram, nil, []Holder{{PID: 9, Program: "qemu"}}
	e.Observed.Marker = []byte("a frame like no other")
}

// out adds a frame to those that came out of the tap.
func (e *Environment) out(b []byte) {
	e.Observed.Frames = append(e.Observed.Frames, Frame{Link: "tap0", Data: b, Len: len(b)})
}

// rise has the counters of the tap rise during the probes.
func (e *Environment) rise(read, dropped uint64) {
	e.Observed.After["tap0"] = netlink.LinkStatistics{TxPackets: read, TxDropped: dropped}
}

func (e *Environment) tapAttrs() *netlink.LinkAttrs { return e.Interface("tap0").Attrs() }

func judged(env *Environment) (causes []string) {
	for _, f := range Judge(env).Findings() {
		causes = append(causes, f.Cause)
	}
	return causes
}

func TestChecks(t *testing.T) {
	for i, c := range []struct {
		cause string // "" is healthy
		spoil func(*Environment)
	}{
		{"", func(*Environment) {}},
		{CauseMissing, func(e *Environment) { e.Links = nil }},
		{CauseNotTap, func(e *Environment) { e.Links[0].(*netlink.Tuntap).Mode = netlink.TUNTAP_MODE_TUN }},
		{CauseDown, func(e *Environment) { e.tapAttrs().RawFlags &^= unix.IFF_UP }},
		{CauseDown, func(e *Environment) {
			e.tapAttrs().MasterIndex = 3
			e.Links = append(e.Links, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: 3, Name: "br0"}})
		}},
		{CauseRemoved, func(e *Environment) { e.Links, e.LastEnd = nil, "the daemon ended" }},
		{CauseRemoved, func(e *Environment) { e.Links, e.Detached = nil, []Holder{{PID: 9}} }},
		{CauseRemoved, func(e *Environment) { e.Stack.Link.State = "gone" }},
		{CauseCarrier, func(e *Environment) { e.tapAttrs().RawFlags &^= unix.IFF_LOWER_UP }},
		{"", func(e *Environment) { // nobody has opened it yet
			e.tapAttrs().RawFlags &^= unix.IFF_LOWER_UP
			e.Mode, e.Stack, e.Observed = ModeOwn, nil, nil
		}},
		{CauseNoARP, func(e *Environment) { e.tapAttrs().RawFlags |= unix.IFF_NOARP }},
		{CauseNotPermitted, func(e *Environment) { e.Mode, e.Stack, e.Observed, e.OpenErr = ModeOwn, nil, nil, unix.EPERM }},
		{CauseHeld, func(e *Environment) { e.Mode, e.Stack, e.Observed, e.OpenErr = ModeOwn, nil, nil, unix.EBUSY }},
		{CauseHeld, func(e *Environment) { program(e) }},
		{"", func(e *Environment) { program(e); e.Program = true }},
		{CauseSpeed, func(e *Environment) { e.Ethtool["tap0"] = Ethtool{Known: true, Duplex: "full"} }},
		{CauseSpeed, func(e *Environment) { e.Ethtool["tap0"] = Ethtool{Known: true, Speed: 100, Duplex: "half"} }},
		{CauseMTU, func(e *Environment) { e.tapAttrs().MTU = 1400 }},
		{"", func(e *Environment) { e.tapAttrs().MTU = 9000 }},
		{CauseOffload, func(e *Environment) { e.Ethtool["tap0"] = Ethtool{TSO: true} }},
		{"", func(e *Environment) {
			e.Ethtool["tap0"] = Ethtool{TSO: true}
			e.Links[0].(*netlink.Tuntap).Flags |= netlink.TUNTAP_VNET_HDR
		}},
		{CauseOffload, func(e *Environment) { e.out(ipFrame(macB, unix.IPPROTO_UDP, udp(badSum))) }},
		{"", func(e *Environment) { e.out(ipFrame(macB, unix.IPPROTO_UDP, udp(goodSum))) }},
		{CauseReaderStopped, func(e *Environment) { program(e); e.rise(0, 5) }},
		{CauseOverrun, func(e *Environment) { program(e); e.rise(7, 5) }},
		{CauseEchoed, func(e *Environment) { program(e); e.out(e.Observed.Marker) }},
		{CauseNoHeader, func(e *Environment) { program(e); e.out(ipFrame(macB, unix.IPPROTO_UDP, udp(goodSum))[headerLen:]) }},
		{CauseShifted, func(e *Environment) { program(e); e.out(append(make([]byte, 12), arpRequest(macA, ipA, ipB)...)) }},
		{CauseShifted, func(e *Environment) {
			program(e)
			e.Links[0].(*netlink.Tuntap).Flags |= netlink.TUNTAP_VNET_HDR
			e.Observed.Refused = 3
		}},
		{CauseDuplicateMAC, func(e *Environment) { e.tapAttrs().HardwareAddr = macA }},
		{CauseDuplicateIP, func(e *Environment) { e.Stack.Addrs[0].State = "duplicate" }},
		{CauseDuplicateIP, func(e *Environment) { e.out(arpRequest(macC, ipA, ipB)) }},
		{"", func(e *Environment) { e.out(arpRequest(macA, ipA, ipB)) }},
		{CauseWrongMAC, func(e *Environment) {
			e.Neighbours = append(e.Neighbours, netlink.Neigh{LinkIndex: 2, IP: ipA.AsSlice(), HardwareAddr: macC, State: unix.NUD_PERMANENT})
		}},
		{"", func(e *Environment) {
			e.Neighbours = append(e.Neighbours, netlink.Neigh{LinkIndex: 2, IP: ipA.AsSlice(), HardwareAddr: macA, State: unix.NUD_PERMANENT})
		}},
		{CauseUnanswered, func(e *Environment) {
			e.Observed.ToHost = []Ping{{To: ipB, Err: unix.EHOSTUNREACH}}
			e.out(arpRequest(macA, ipA, ipB))
		}},
		{CauseNoAddress, func(e *Environment) { e.Stack.Addrs = nil }},
		{CauseNoCommon, func(e *Environment) { e.Addrs = nil }},
		{CauseMTU, func(e *Environment) { e.Observed.Full = []Ping{{To: ipB, Size: 1472, Err: unix.ETIMEDOUT}} }},
		{"", func(e *Environment) { // somebody else's answers will do
			e.Addrs = nil
			e.Observed.ToHost = []Ping{{To: ipB}}
		}},
		{"", func(e *Environment) { // what corrupts on purpose spoils checksums
			e.Stack.Link.Spec = "tap:tap0,corrupt=1%"
			e.out(ipFrame(macB, unix.IPPROTO_UDP, udp(badSum)))
		}},
		{CauseUnexplained, func(e *Environment) { e.Observed.ToStack = []Ping{{To: ipA, Err: unix.ETIMEDOUT}} }},
	} {
		env := fixture()
		c.spoil(env)
		var want []string
		if c.cause != "" {
			want = []string{c.cause}
		}
		if got := judged(env); !slices.Equal(got, want) {
			t.Errorf("case %d: found %v, want %v", i, got, want)
		}
	}
}

// Every check has a name of its own, and is masked only by checks before it: else what
// it is masked by is not known yet.
func TestChecksAreInOrder(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Checks() {
		if c.Cause == "" || c.About == "" || c.Find == nil || seen[c.Cause] {
			t.Errorf("check %q is incomplete or there twice", c.Cause)
		}
		for _, cause := range c.After {
			if !seen[cause] {
				t.Errorf("%s comes after %s, which is no check before it", c.Cause, cause)
			}
		}
		seen[c.Cause] = true
	}
}

func TestReport(t *testing.T) {
	env := fixture()
	env.tapAttrs().RawFlags &^= unix.IFF_UP
	env.notef("a note with a\tcontrol character")
	r := Judge(env)
	var text, list bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"tap0, held by the ustack daemon, pid 7; ", "\nok     the interface exists\n",
		"\nFOUND  interface-down: tap0 is down", "\n         seen: the flags", "\n         do:   ip link set dev tap0 up\n",
		"\nnote   a note with a?control character\n", "\n1 finding\n",
	} {
		if !strings.Contains("\n"+text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	if err := r.WriteJSON(&list); err != nil {
		t.Fatal(err)
	}
	var findings []Finding
	if err := json.Unmarshal(list.Bytes(), &findings); err != nil || len(findings) != 1 || findings[0].Link != "tap0" {
		t.Errorf("%v %v\n%s", err, findings, list.String())
	}
	list.Reset()
	if err := Judge(fixture()).WriteJSON(&list); err != nil || list.String() != "[]\n" {
		t.Errorf("%v: healthy is %q", err, list.String())
	}
}
