package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/hostnet"
	"github.com/ustack/ustack/internal/netlab"
)

// Packets of a masquerading host are followed through it, each way:
//
//	guest 10.0.0.2 ── tap ── 10.0.0.1  router  10.9.0.1 ── wan ─── far 10.9.0.2
func TestFollowThroughMasquerade(t *testing.T) {
	router, tap := host(t)
	far := netlab.New(t, "far")
	netlab.Veth(t, router, m0, far, h0)
	router.Addr(t, m0, "10.9.0.1/24")
	far.Addr(t, h0, "10.9.0.2/24")
	router.Do(t, func() {
		h, err := hostnet.Setup(hostnet.Config{
			Tap: tap0, Uplink: m0, StateDir: t.TempDir(),
			Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { router.Do(t, func() { h.Close() }) })
	})
	serve(t, tap)
	ping(t, router, guestIP) // ARP is done
	nets := []uint64{inode(t, router), inode(t, far)}
	l := follow(t, open(t, router, Config{NetNS: nets, Via: ViaBPF}))
	send(t, tap, frame(router.MAC(t, tap0), guest, 0x0800,
		ipv4(guestIP, netip.MustParseAddr("10.9.0.2"), 1, []byte{8, 0, 0xf7, 0xfd, 0, 1, 0, 1})))
	events := l.until(t, "the answer read", func(e Event) bool { return e.Step == CopyOut && echo(e) == "reply" })

	var f Follower
	paths := make(map[uint64][]string)
	var numbers []uint64
	for _, e := range events {
		n := f.Packet(e)
		if echo(e) == "" || e.Step == Xmit { // which another CPU may overtake
			continue
		}
		if paths[n] == nil {
			numbers = append(numbers, n)
		}
		paths[n] = append(paths[n], fmt.Sprintf("%s %s %s", echo(e), e.Step, e.Dev))
	}
	var got []string
	for _, n := range numbers {
		got = append(got, strings.Join(paths[n], ", "))
	}
	want := []string{
		strings.Join([]string{
			"request " + Receive + " " + tap0, "request " + Queue + " " + m0, "request " + StartXmit + " " + m0,
			"request " + NetifRx + " " + h0, "request " + Receive + " " + h0, "request " + Consume + " " + h0,
		}, ", "),
		strings.Join([]string{
			"reply " + Queue + " " + h0, "reply " + StartXmit + " " + h0, "reply " + NetifRx + " " + m0,
			"reply " + Receive + " " + m0, "reply " + Queue + " " + tap0, "reply " + StartXmit + " " + tap0, "reply " + CopyOut + " " + tap0,
		}, ", "),
	}
	// The request is consumed after its answer has been sent.
	for i := range got {
		got[i] = strings.Join(slices.Sorted(slices.Values(strings.Split(got[i], ", "))), "\n")
		want[i] = strings.Join(slices.Sorted(slices.Values(strings.Split(want[i], ", "))), "\n")
	}
	if !slices.Equal(got, want) {
		t.Errorf("packets:\n%s\nwant:\n%s", strings.Join(got, "\n\n"), strings.Join(want, "\n\n"))
	}
}

// Without heads a packet is known by its buffer.
func TestFollowByTracefs(t *testing.T) {
	ns, tap := host(t)
	l := follow(t, open(t, ns, Config{Via: ViaTracefs}))
	for range 2 {
		send(t, tap, frame(other, guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "x"))))
	}
	drops := 0
	events := l.until(t, "two drops", func(e Event) bool {
		if e.Step == Drop && e.Dev == tap0 {
			drops++
		}
		return drops == 2
	})
	var f Follower
	var got []string
	for _, e := range events {
		if n := f.Packet(e); e.Dev == tap0 {
			got = append(got, fmt.Sprint(n, " ", e.Step))
		}
	}
	if len(got) != 4 || got[0][0] != got[1][0] || got[2][0] != got[3][0] || got[0][0] == got[2][0] {
		t.Errorf("packets and steps %q: want two of Receive and Drop", got)
	}
}

func TestText(t *testing.T) {
	for _, test := range []struct {
		e    Event
		want string
	}{
		{Event{Step: Queue, Dev: "a"}, "queued on a"},
		{Event{Step: Xmit, Dev: "a", RC: 16}, "refused by the driver of a [NETDEV_TX_BUSY]"},
		{Event{Step: Drop, Dev: "a", Reason: "OTHERHOST", Where: "ip_rcv_core"}, "dropped on a [OTHERHOST] at ip_rcv_core"},
		{Event{Step: Drop}, "dropped on an unknown device [no reason given]"},
		{Event{Step: Consume, Dev: "a", Where: "arp_rcv", Head: []byte{}}, "ignored by ARP, for a is NOARP, at arp_rcv"},
		{Event{Step: Consume, Dev: "a", Where: "arp_rcv"}, "ignored by ARP, for a is NOARP or it is to another host, at arp_rcv"},
		{Event{Step: Consume, Dev: "a", Where: "icmp_rcv"}, "taken in on a at icmp_rcv"},
		{Event{Step: CopyOut, Dev: "a", PID: 7, Comm: "ustack"}, "read from a by process 7 (ustack)"},
		{Event{Step: ICMPSend, ICMPType: 3, ICMPCode: 1}, "answered with ICMP type 3 code 1"},
	} {
		if got := test.e.Text(); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
	for _, p := range probes() {
		if e := (Event{Step: p.name, Dev: "a"}); e.Text() == p.name {
			t.Errorf("%s has no words", p.name)
		}
	}
}

// A buffer that is used anew is not the packet that was in it.
func TestFollowerReuse(t *testing.T) {
	var f Follower
	head := func(id byte) []byte {
		return frame(other, guest, 0x0800, ipv4(guestIP, hostIP, 1, []byte{8, 0, 0, 0, 0, 0, 0, id}))
	}
	first := f.Packet(Event{Step: Receive, Skb: 1, IfIndex: 2, InIndex: 2, Head: head(1)})
	if n := f.Packet(Event{Step: Queue, Skb: 1, IfIndex: 3, Head: head(2)}); n == first {
		t.Error("the host's own packet is taken for one that it received")
	}
	f.Packet(Event{Step: Receive, Skb: 1, IfIndex: 2, InIndex: 2, Head: head(3), Mono: time.Second})
	third := f.Packet(Event{Step: Receive, Skb: 1, IfIndex: 2, InIndex: 2, Head: head(3), Mono: time.Second})
	if n := f.Packet(Event{Step: Queue, Skb: 1, IfIndex: 3, InIndex: 2, Head: head(4), Mono: time.Second}); n != third {
		t.Error("a packet with translated addresses is taken for another")
	}
	for i := range uint64(3 * maxKnown) {
		f.Packet(Event{Step: Receive, Skb: i})
	}
	if n := len(f.now) + len(f.before); n > 2*maxKnown {
		t.Errorf("%d buffers are remembered", n)
	}
}
