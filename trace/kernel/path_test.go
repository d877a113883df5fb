package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
)

// lab is an outside host on a cable to a bridge with a guest's tap:
//
//	outside           middle
//	h0 ──────────── m0 ─ br0 ─ tap0 ── guest
//	10.0.0.1                           10.0.0.2
func lab(t *testing.T) (outside, middle *netlab.NS) {
	t.Helper()
	outside, middle = netlab.New(t, "outside"), netlab.New(t, "middle")
	netlab.Veth(t, outside, h0, middle, m0)
	tap := openTap(t, middle, tap0)
	middle.Up(t, tap0)
	middle.Bridge(t, br0, m0, tap0)
	outside.Addr(t, h0, "10.0.0.1/24")
	serve(t, tap)
	return outside, middle
}

// echo tells an echo request from its answer; "" for any other frame.
func echo(e Event) string {
	if len(e.Head) < 42 || e.NoEth || binary.BigEndian.Uint16(e.Head[12:]) != 0x0800 || e.Head[23] != 1 {
		return ""
	}
	return map[byte]string{8: "request", 0: "reply"}[e.Head[34]]
}

func hop(e Event) string {
	dst, src := net.HardwareAddr(e.Head[:6]), net.HardwareAddr(e.Head[6:12])
	return fmt.Sprintf("%s %s %s %v -> %v", echo(e), e.Step, e.Dev, src, dst)
}

// The listing of a ping through a bridge: device and MACs at each hop, both ways.
func TestPingThroughABridge(t *testing.T) {
	outside, middle := lab(t)
	ping(t, outside, guestIP) // ARP is done
	nets := []uint64{inode(t, outside), inode(t, middle)}
	l := follow(t, open(t, outside, Config{NetNS: nets, Via: ViaBPF}))
	ping(t, outside, guestIP)
	events := l.until(t, "the reply received", func(e Event) bool {
		return e.Step == Receive && echo(e) == "reply" && e.Dev == h0
	})

	host := outside.MAC(t, h0)
	there, back := fmt.Sprintf("%v -> %v", host, guest), fmt.Sprintf("%v -> %v", guest, host)
	want := []string{
		"request net_dev_queue " + h0 + " " + there,
		"request net_dev_start_xmit " + h0 + " " + there,
		"request netif_rx " + m0 + " " + there,
		"request net_dev_xmit " + h0 + " " + there,
		"request netif_receive_skb " + m0 + " " + there,
		"request net_dev_queue " + tap0 + " " + there,
		"request net_dev_start_xmit " + tap0 + " " + there,
		"request net_dev_xmit " + tap0 + " " + there,
		"request skb_copy_datagram_iovec " + tap0 + " " + there,
		"reply netif_receive_skb " + tap0 + " " + back,
		"reply net_dev_queue " + m0 + " " + back,
		"reply net_dev_start_xmit " + m0 + " " + back,
		"reply netif_rx " + h0 + " " + back,
		"reply net_dev_xmit " + m0 + " " + back,
		"reply netif_receive_skb " + h0 + " " + back,
	}
	var got []string
	for _, e := range events {
		if echo(e) == "" {
			continue
		}
		got = append(got, hop(e))
		ns := nets[1]
		if e.Dev == h0 {
			ns = nets[0]
		}
		if e.NetNS != ns || e.IfIndex == 0 || e.Skb == 0 || e.Len != 14+20+12 || len(e.Head) != e.Len || e.Proto != 0x0800 {
			t.Errorf("%s: namespace %d, index %d, skb %#x, %d bytes, %d of them here, protocol %#x",
				hop(e), e.NetNS, e.IfIndex, e.Skb, e.Len, len(e.Head), e.Proto)
		}
		if e.Step == CopyOut && (e.PID == 0 || e.Comm == "") {
			t.Errorf("%s: by process %d %q", hop(e), e.PID, e.Comm)
		}
	}
	if !slices.Equal(withoutXmit(got), withoutXmit(want)) {
		t.Errorf("steps:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("steps, sorted:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !slices.IsSortedFunc(events, func(a, b Event) int { return int(a.Mono - b.Mono) }) {
		t.Errorf("not in the order of time:\n%s", list(events))
	}
}

// tracefs tells devices and lengths of the same path.
func TestPingThroughABridgeByTracefs(t *testing.T) {
	outside, middle := lab(t)
	ping(t, outside, guestIP)
	l := follow(t, open(t, middle, Config{Via: ViaTracefs}))
	ping(t, outside, guestIP)
	want := []string{
		"netif_rx " + m0, "netif_receive_skb " + m0,
		"net_dev_queue " + tap0, "net_dev_start_xmit " + tap0, "net_dev_xmit " + tap0, "skb_copy_datagram_iovec " + tap0,
		"netif_receive_skb " + tap0, "net_dev_queue " + m0, "net_dev_start_xmit " + m0, "net_dev_xmit " + m0,
	}
	events := l.until(t, "the reply sent", func(e Event) bool { return e.Step == Xmit && e.Dev == m0 && e.Len == 46 })
	var got []string
	for _, e := range events {
		if e.Len != 46 && e.Len != 32 { // of the frame, or of what is behind its MAC header
			continue
		}
		got = append(got, e.Step+" "+e.Dev)
	}
	if !slices.Equal(withoutXmit(got), withoutXmit(want)) {
		t.Errorf("steps:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// withoutXmit leaves the driver's answers out: they may come before or after the
// next steps, which another CPU can take.
func withoutXmit(steps []string) []string {
	return slices.DeleteFunc(slices.Clone(steps), func(l string) bool { return strings.Contains(l, Xmit+" ") })
}

// A namespace that is not asked for is not seen.
func TestAnotherNamespaceIsNotSeen(t *testing.T) {
	ways(t, func(t *testing.T, via string) {
		loud := netlab.New(t, "loud")
		noise := openTap(t, loud, noise0)
		loud.Addr(t, noise0, "10.0.0.1/24")
		loud.Up(t, noise0)
		ns, tap := host(t)
		l := follow(t, open(t, ns, Config{Via: via}))
		for range 100 {
			send(t, noise, frame(loud.MAC(t, noise0), guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "noise"))))
		}
		send(t, tap, frame(ns.MAC(t, tap0), guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "ours"))))
		events := l.until(t, "our frame's drop", func(e Event) bool { return e.Step == Drop && e.Dev == tap0 })
		for _, e := range events {
			if e.Dev == noise0 || e.NetNS != 0 && e.NetNS != inode(t, ns) {
				t.Errorf("seen: %s", list([]Event{e}))
			}
		}
	})
}

// AllNetNS sees every one.
func TestAllNamespaces(t *testing.T) {
	ways(t, func(t *testing.T, via string) {
		ns, tap := host(t)
		elsewhere := netlab.New(t, "elsewhere")
		l := follow(t, open(t, elsewhere, Config{AllNetNS: true, Via: via}))
		// The whole machine's traffic can be too much for one reader: try again.
		ours := func(e Event) bool { return e.Step == Receive && e.Dev == tap0 }
		netlab.WaitFor(t, 10*time.Second, "the frame", func() bool {
			send(t, tap, frame(other, guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "x"))))
			return l.has(ours)
		})
		e := last(l.until(t, "the frame", ours))
		if via == ViaBPF && e.NetNS != inode(t, ns) {
			t.Errorf("namespace %d, want %d", e.NetNS, inode(t, ns))
		}
	})
}

func last(events []Event) Event { return events[len(events)-1] }

// A tag is part of the head while the frame has it, and a snap is kept to.
func TestTagAndSnap(t *testing.T) {
	ns, tap := host(t)
	l := follow(t, open(t, ns, Config{Via: ViaBPF, Snap: 64}))
	tagged := append([]byte{0, 42, 8, 0}, ipv4(guestIP, hostIP, 17, udp(1, 2, strings.Repeat("x", 500)))...)
	b := frame(ns.MAC(t, tap0), guest, 0x8100, tagged)
	send(t, tap, b)
	e := last(l.until(t, "the frame", func(e Event) bool { return e.Step == Receive }))
	if string(e.Head) != string(b[:64]) || e.Len != len(b) || e.Proto != 0x8100 {
		t.Errorf("%d bytes, protocol %#x, head %x; want %d, 0x8100, %x", e.Len, e.Proto, e.Head, len(b), b[:64])
	}
	e = last(l.until(t, "a drop", func(e Event) bool { return e.Step == Drop }))
	if e.Reason != "OTHERHOST" { // there is no interface for this tag
		t.Errorf("reason %q", e.Reason)
	}
}

// A frame without an Ethernet header begins with the network header.
func TestTunDevice(t *testing.T) {
	ns := netlab.New(t, "host")
	tun := openTun(t, ns, tap0, unix.IFF_TUN)
	ns.Addr(t, tap0, "10.0.0.1/24")
	ns.Up(t, tap0)
	l := follow(t, open(t, ns, Config{Via: ViaBPF}))
	b := ipv4(guestIP, hostIP, 17, udp(1, 2, "x"))
	send(t, tun, b)
	e := last(l.until(t, "its drop", func(e Event) bool { return e.Step == Drop && e.Dev == tap0 }))
	if !e.NoEth || string(e.Head) != string(b) || e.Len != len(b) || e.Proto != 0x0800 {
		t.Errorf("no Ethernet header: %v, %d bytes: %s", e.NoEth, e.Len, list([]Event{e}))
	}
}

// What a sniffer reads of a tap is not what the tap's own reader gets.
func TestSnifferIsNoReader(t *testing.T) {
	ns, tap := host(t)
	serve(t, tap)
	ping(t, ns, guestIP) // ARP is done
	sniffed := ns.Capture(t, tap0)
	l := follow(t, open(t, ns, Config{Via: ViaBPF}))
	ping(t, ns, guestIP)
	netlab.WaitFor(t, 10*time.Second, "the sniffer", func() bool { return len(sniffed.Frames()) >= 2 })
	events := l.until(t, "the reply", func(e Event) bool { return e.Step == Receive && echo(e) == "reply" })
	reads := 0
	for _, e := range events {
		if e.Step == CopyOut && echo(e) != "" {
			reads++
		}
	}
	if reads != 1 {
		t.Errorf("%d reads, want 1:\n%s", reads, list(events))
	}
}

// With NAPI a tap gives its frames to GRO, and they go on from there.
func TestNAPITap(t *testing.T) {
	ns := netlab.New(t, "host")
	tap := openTun(t, ns, tap0, unix.IFF_TAP|unix.IFF_NAPI)
	ns.Addr(t, tap0, "10.0.0.1/24")
	ns.Up(t, tap0)
	l := follow(t, open(t, ns, Config{Via: ViaBPF}))
	b := frame(ns.MAC(t, tap0), guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "x")))
	send(t, tap, b)
	events := l.until(t, "its drop", func(e Event) bool { return e.Step == Drop && string(e.Head) == string(b) })
	var steps []string
	for _, e := range events {
		if string(e.Head) == string(b) {
			steps = append(steps, e.Step)
		}
	}
	if want := []string{GRO, Receive, ICMPSend, Drop}; !slices.Equal(steps, want) {
		t.Errorf("steps %v, want %v", steps, want)
	}
}

// IPv6: a neighbour solicitation and an echo request are taken in and answered.
func TestIPv6(t *testing.T) {
	ns := netlab.New(t, "host")
	tap := openTun(t, ns, tap0, unix.IFF_TAP)
	ns.Sysctl(t, "net.ipv6.conf."+tap0+".accept_dad", "0")
	ns.Up(t, tap0)
	ns.Addr(t, tap0, "fd00::1/64")
	l := follow(t, open(t, ns, Config{Via: ViaBPF}))
	src, dst := netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::1")
	mac := ns.MAC(t, tap0)
	solicit := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, dst.AsSlice()...)
	solicit = append(append(solicit, 1, 1), guest...)
	for name, b := range map[string][]byte{
		"solicitation": frame(mac, guest, 0x86dd, ipv6(src, dst, solicit)),
		"echo":         frame(mac, guest, 0x86dd, ipv6(src, dst, []byte{128, 0, 0, 0, 0, 1, 0, 1})),
	} {
		send(t, tap, b)
		e := last(l.until(t, "the end of the "+name, func(e Event) bool {
			return (e.Step == Consume || e.Step == Drop) && string(e.Head) == string(b)
		}))
		if e.Step != Consume || e.Where != "icmpv6_rcv" {
			t.Errorf("%s: %s", name, list([]Event{e}))
		}
	}
	l.until(t, "the advertisement", func(e Event) bool {
		return e.Step == StartXmit && len(e.Head) > 54 && e.Head[54] == 136
	})
}

// ipv6 is an ICMPv6 message from a neighbour.
func ipv6(src, dst netip.Addr, icmp []byte) []byte {
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, 0, 0, byte(len(icmp)), 0, 0, 0, 58)
	binary.BigEndian.PutUint16(icmp[2:], checksum(append(pseudo, icmp...)))
	b := []byte{0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255}
	return append(append(append(b, src.AsSlice()...), dst.AsSlice()...), icmp...)
}

// A device that is made later is followed, too.
func TestLaterDevice(t *testing.T) {
	ways(t, func(t *testing.T, via string) {
		ns := netlab.New(t, "host")
		l := follow(t, open(t, ns, Config{Via: via}))
		tap := openTap(t, ns, tap0)
		ns.Up(t, tap0)
		netlab.WaitFor(t, 10*time.Second, "a frame on the new device", func() bool { // tracefs looks at times
			send(t, tap, frame(other, guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "x"))))
			return l.has(func(e Event) bool { return e.Step == Receive && e.Dev == tap0 })
		})
	})
}
