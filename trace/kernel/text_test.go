package kernel

import (
	"encoding/binary"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
)

func TestParseLine(t *testing.T) {
	const stamp = 22470*time.Second + 808787*time.Microsecond
	for _, test := range []struct {
		line string
		want Event // Step empty: none
		lost uint64
	}{
		{line: "            curl-14417   [001] b.... 22470.808787: net_dev_queue: dev=lo skbaddr=00000000c844db1a len=74",
			want: Event{Mono: stamp, CPU: 1, Step: Queue, Dev: "lo", Skb: 0xc844db1a, Len: 74}},
		{line: "            curl-14417   [001] b.... 22470.808787: net_dev_start_xmit: dev=lo queue_mapping=0 skbaddr=00000000c844db1a vlan_tagged=1 vlan_proto=0x8100 vlan_tci=0x002a protocol=0x0800 ip_summed=3 len=74 data_len=0 network_offset=14 transport_offset_valid=1 transport_offset=34 tx_flags=0 gso_size=1448 gso_segs=2 gso_type=0x1",
			want: Event{Mono: stamp, CPU: 1, Step: StartXmit, Dev: "lo", Skb: 0xc844db1a, Len: 74, Proto: 0x800,
				VLANProto: 0x8100, VLAN: 42, IPSummed: 3, GSOSize: 1448, GSOSegs: 2}},
		{line: "  x-1 [001] b.... 22470.808787: net_dev_xmit: dev=lo skbaddr=1 len=74 rc=-16",
			want: Event{Mono: stamp, CPU: 1, Step: Xmit, Dev: "lo", Skb: 1, Len: 74, RC: -16}},
		{line: "  x-1 [001] ..s1. 22470.808787: kfree_skb: skbaddr=00000000c844db1a rx_sk=0000000000000000 protocol=2048 location=tcp_v4_rcv+0x91/0x13f0 reason: NO_SOCKET",
			want: Event{Mono: stamp, CPU: 1, Step: Drop, Skb: 0xc844db1a, Proto: 0x800, Where: "tcp_v4_rcv", Reason: "NO_SOCKET"}},
		{line: "  x-1 [001] ..s1. 22470.808787: kfree_skb: skbaddr=1 protocol=2054 location=tun_get_user.isra.0+0x91/0x13f0 [tun] reason: DEV_READY",
			want: Event{Mono: stamp, CPU: 1, Step: Drop, Skb: 1, Proto: 0x806, Where: "tun_get_user", Reason: "DEV_READY"}},
		{line: "  x-1 [001] ..s1. 22470.808787: consume_skb: skbaddr=1 location=0xffffffff81000000",
			want: Event{Mono: stamp, CPU: 1, Step: Consume, Skb: 1}},
		{line: "  a reader-77 [001] ..s1. 22470.808787: skb_copy_datagram_iovec: skbaddr=1 len=98",
			want: Event{Mono: stamp, CPU: 1, Step: CopyOut, Skb: 1, Len: 98, PID: 77, Comm: "a reader"}},
		{line: "  x-1 [001] ..s1. 22470.808787: icmp_send: icmp_send: type=3, code=1. From 10.0.0.1:5 to 10.0.0.2:6 ulen=20 skbaddr=00000000000000ff",
			want: Event{Mono: stamp, CPU: 1, Step: ICMPSend, Skb: 255, ICMPType: 3, ICMPCode: 1}},
		{line: "  x-1 [001] ..s1. 22470.808787: tcp_send_reset: skbaddr=1 skaddr=0 src=127.0.0.1:3 dest=127.0.0.1:35094 state=UNKNOWN reason=NO_SOCKET",
			want: Event{Mono: stamp, CPU: 1, Step: TCPReset, Skb: 1, Reason: "NO_SOCKET"}},
		{line: "CPU:1 [LOST 120 EVENTS]", lost: 120},
		// A process may choose a name that looks like the rest of a line.
		{line: "  [0] d 1.0: a: -9 [001] ..s1. 22470.808787: netif_rx: dev=lo skbaddr=1 len=74",
			want: Event{Mono: stamp, CPU: 1, Step: NetifRx, Dev: "lo", Skb: 1, Len: 74}},
		{line: "  CPU:1 [LOST 9-9 [001] ..s1. 22470.808787: netif_rx: dev=lo skbaddr=1 len=74",
			want: Event{Mono: stamp, CPU: 1, Step: NetifRx, Dev: "lo", Skb: 1, Len: 74}},
		{line: "  x-1 [001] ..s1. 22470.808787: sched_switch: dev=lo skbaddr=1"},
		{line: "  x-1 [001] ..s1. 22470.808787: netif_rx: dev=lo len=74"},
		{line: "  x-1 [001] ..s1. 22470.8: netif_rx: dev=lo skbaddr=1 len=74"},
		{line: "  x-1 [001] ..s1. 99999999999999999999.808787: netif_rx: dev=lo skbaddr=1"},
		{line: "#"}, {line: ""}, {line: "["}, {line: "CPU:"}, {line: "CPU:1 [LOST x EVENTS]"},
	} {
		e, lost, ok := parseLine([]byte(test.line))
		if ok != (test.want.Step != "") || lost != test.lost || !reflect.DeepEqual(e, test.want) {
			t.Errorf("%s\n got %+v, lost %d, %v\nwant %+v, lost %d", test.line, e, lost, ok, test.want, test.lost)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte("            curl-14417   [001] b.... 22470.808787: net_dev_queue: dev=lo skbaddr=00000000c844db1a len=74"))
	f.Add([]byte("  x-1 [001] ..s1. 22470.808787: kfree_skb: skbaddr=1 rx_sk=0 protocol=2048 location=tcp_v4_rcv+0x91/0x13f0 reason: NO_SOCKET"))
	f.Add([]byte("  x-1 [001] ..s1. 22470.808787: icmp_send: icmp_send: type=3, code=1. From 10.0.0.1:5 to 10.0.0.2:6 ulen=20 skbaddr=ff"))
	f.Add([]byte("CPU:1 [LOST 120 EVENTS]"))
	f.Add([]byte("  [0] d 1.0: a: -9 [001] ..s1. 22470.808787: netif_rx: dev=lo skbaddr=1 len=-1"))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, lost, ok := parseLine(line)
		if ok && (e.Step == "" || lost != 0 || e.Mono < 0 || e.Len < 0 || e.PID < 0) {
			t.Errorf("%+v, lost %d", e, lost)
		}
	})
}

func FuzzDecode(f *testing.F) {
	b := make([]byte, recFrame+64)
	b[recStep] = 5
	binary.NativeEndian.PutUint16(b[recStart:], 64)
	f.Add(b)
	b[recStep] = 2
	f.Add(b)
	f.Add(b[:recFrame])
	f.Fuzz(func(t *testing.T, b []byte) {
		d := decoder{layout: new(layout), snap: 64}
		if e, ok := d.decode(b); ok && (e.Step == "" || e.Len < 0 || len(e.Head) > 64) {
			t.Errorf("%+v", e)
		}
	})
}

func FuzzSymbols(f *testing.F) {
	f.Add("ffffffff81000000 T _text\nffffffff81000010 t arp_rcv\nffffffff81000020 t arp_rcv.cold\t[mod]\n", uint64(0xffffffff81000011))
	f.Add("0000000000000000 T _text\n", uint64(1))
	f.Fuzz(func(t *testing.T, text string, addr uint64) {
		s, _ := parseSymbols(strings.NewReader(text))
		s.name(addr)
		for _, at := range s.spans("arp_rcv") {
			if at.from >= at.to {
				t.Errorf("%+v", at)
			}
		}
	})
}

func TestSymbols(t *testing.T) {
	s, err := parseSymbols(strings.NewReader("ffffffff81000030 T after\nffffffff81000010 t arp_rcv\nffffffff81000018 d data\n" +
		"ffffffff81000020 t arp_rcv.cold\nffffffff81000020 t __pfx_same\nffffffffc0000000 t tun_get_user.isra.0\t[tun]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[uint64]string{
		0xffffffff81000011: "arp_rcv", 0xffffffff8100002f: "__pfx_same", 0xffffffffc0000001: "tun_get_user",
		0xffffffff8100000f: "", 0: "",
	} {
		if got := s.name(addr); got != want {
			t.Errorf("%#x is in %q, want %q", addr, got, want)
		}
	}
	want := []span{{0xffffffff81000010, 0xffffffff81000020}, {0xffffffff81000020, 0xffffffff81000030}}
	if got := s.spans("arp_rcv"); !reflect.DeepEqual(got, want) {
		t.Errorf("spans %x, want %x", got, want)
	}
	if s, err := parseSymbols(strings.NewReader("0000000000000000 T hidden\n")); s != nil || err != nil {
		t.Errorf("hidden addresses: %v, %v", s, err)
	}
	var none *symbols
	if none.name(1) != "" || none.spans("arp_rcv") != nil {
		t.Error("no symbols have a name")
	}
}

func TestReasons(t *testing.T) {
	l := &layout{
		drops:   map[uint32]string{13: "OTHERHOST"},
		subsys:  map[uint32]string{0: "CORE", 3: "OPENVSWITCH"},
		rejects: map[uint32]string{1: "NO_SOCKET"},
	}
	for v, want := range map[uint32]string{13: "OTHERHOST", 3<<16 | 2: "OPENVSWITCH:2", 9<<16 | 2: "9:2", 200: "0:200", math.MaxUint32: "65535:65535"} {
		if got := l.dropReason(v); got != want {
			t.Errorf("reason %#x is %q, want %q", v, got, want)
		}
	}
	if got := l.rejectReason(1) + l.rejectReason(99); got != "NO_SOCKET99" {
		t.Errorf("reset reasons: %q", got)
	}
}

// Where a machine counts bits from the other end, so does the layout.
func TestBitFields(t *testing.T) {
	u8 := &btf.Int{Name: "u8", Size: 1}
	s := &btf.Struct{Name: "s", Size: 2, Members: []btf.Member{
		{Name: "a", Type: u8, Offset: 0},
		{Type: &btf.Struct{Size: 1, Members: []btf.Member{
			{Name: "b", Type: u8, Offset: 0, BitfieldSize: 3},
			{Name: "c", Type: u8, Offset: 3, BitfieldSize: 2},
		}}, Offset: 8},
	}}
	little, big := (&finder{}), (&finder{bigEndian: true})
	if got, want := little.bitField(s, "c"), (bitField{1, 3, 3}); got != want {
		t.Errorf("little-endian %+v, want %+v", got, want)
	}
	if got, want := big.bitField(s, "c"), (bitField{1, 3, 3}); got != want {
		t.Errorf("big-endian %+v, want %+v", got, want)
	}
	if got, want := big.bitField(s, "b"), (bitField{1, 5, 7}); got != want {
		t.Errorf("big-endian %+v, want %+v", got, want)
	}
	if little.field(s, "a"); little.err != nil {
		t.Error(little.err)
	}
	if little.field(s, "c"); little.err == nil {
		t.Error("a bit field has no offset in bytes")
	}
	if big.field(s, "d"); big.err == nil || !strings.Contains(big.err.Error(), "struct s") {
		t.Errorf("unknown field: %v", big.err)
	}
}

func TestOrder(t *testing.T) {
	var o order
	at := func(us int) Event { return Event{Mono: time.Duration(us) * time.Microsecond, Len: us} }
	for _, us := range []int{30, 10, 20} {
		o.add(at(us))
	}
	o.add(Event{Mono: 20 * time.Microsecond, Len: 21}) // as old as one that came before
	if e, deadline, ok := o.next(Window); ok || time.Until(deadline) > Window {
		t.Errorf("an event of %v is ready after %v; else at %v", e.Mono, Window, deadline)
	}
	var got []int
	for {
		e, _, ok := o.next(Window + 30*time.Microsecond)
		if !ok {
			break
		}
		got = append(got, e.Len)
	}
	if want := []int{10, 20, 21, 30}; !reflect.DeepEqual(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
	if _, deadline, ok := o.next(0); ok || !deadline.IsZero() {
		t.Error("an empty one waits")
	}
	for i := range maxHeld {
		o.add(at(i + 1000))
	}
	if e, _, ok := o.next(0); !ok || e.Len != 1000 {
		t.Errorf("a full one gives %v, %v", e.Len, ok)
	}
}

// Earlier events complete later ones.
func TestState(t *testing.T) {
	var n names
	n.complete(&Event{NetNS: 1, IfIndex: 2, Dev: "a"})
	for _, test := range []struct {
		e    Event
		want string
	}{{Event{NetNS: 1, IfIndex: 2}, "a"}, {Event{NetNS: 2, IfIndex: 2}, ""}, {Event{NetNS: 1}, ""}} {
		if n.complete(&test.e); test.e.Dev != test.want {
			t.Errorf("device %q, want %q", test.e.Dev, test.want)
		}
	}
	var h heads
	h.complete(&Event{Step: StartXmit, Skb: 7, IfIndex: 2, Head: []byte("frame"), Proto: 0x800})
	elsewhere := Event{Step: Xmit, Skb: 7, IfIndex: 2, CPU: 1}
	if h.complete(&elsewhere); elsewhere.Head != nil {
		t.Error("another CPU's")
	}
	done := Event{Step: Xmit, Skb: 7, IfIndex: 2, RC: 16, Mono: 5}
	if h.complete(&done); string(done.Head) != "frame" || done.RC != 16 || done.Mono != 5 || done.Step != Xmit {
		t.Errorf("%+v", done)
	}
	again := Event{Step: Xmit, Skb: 7, IfIndex: 2}
	if h.complete(&again); again.Head != nil {
		t.Error("told twice")
	}
	for i := range 3 * maxKnown {
		h.complete(&Event{Step: StartXmit, Skb: uint64(i)})
		n.complete(&Event{NetNS: uint64(i), IfIndex: 1, Dev: "x"})
	}
	if len(h.started) > maxKnown || len(n.known) > maxKnown {
		t.Errorf("%d frames and %d devices are remembered", len(h.started), len(n.known))
	}

	datagram := Event{Step: Receive, Proto: 0x0800, Head: frame(other, guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 53, "x")))}
	datagram6 := Event{Step: Receive, Proto: 0x86dd, NoEth: true, CPU: 1,
		Head: append(append([]byte{0x60, 0, 0, 0, 0, 8, 17, 64}, make([]byte, 32)...), udp(1, 53, "")...)}
	var r ready
	if e := (Event{Step: Ready, Port: 53}); r.complete(&e) {
		t.Error("a socket is woken by nothing")
	}
	for skb := range uint64(4) {
		datagram.Skb = skb
		r.complete(&datagram)
	}
	r.complete(&datagram6)
	r.complete(&Event{Step: Drop, Skb: 1})
	r.complete(&Event{Step: Queue, Skb: 2})
	for i, test := range []struct {
		e    Event
		want bool
		skb  uint64
	}{
		{Event{Step: Ready, Port: 54}, false, 0},
		{Event{Step: Ready, Port: 53, CPU: 2}, false, 0},
		{Event{Step: Ready, Port: 53, NetNS: 1}, false, 0},
		{Event{Step: Ready, Port: 53, Mono: time.Second}, false, 0},
		{Event{Step: Ready, Port: 53}, true, 0},
		{Event{Step: Ready, Port: 53}, true, 3}, // 1 was dropped, 2 forwarded
		{Event{Step: Ready, Port: 53}, false, 0},
		{Event{Step: Ready, Port: 53, CPU: 1}, true, 0},
	} {
		e := test.e
		if got := r.complete(&e); got != test.want || got && (e.Step != Ready || len(e.Head) == 0 || e.Port != 53 || e.Skb != test.skb) {
			t.Errorf("%d: %+v: %v, %+v", i, test.e, got, e)
		}
	}
	for skb := range uint64(3 * maxBatch) {
		datagram.Skb = skb
		r.complete(&datagram)
	}
	if n := len(r.received[0]); n > maxBatch {
		t.Errorf("%d datagrams are remembered", n)
	}
	for n := range datagram.Head {
		cut := datagram
		cut.Head = cut.Head[:n]
		if _, ok := cut.udpPort(); ok != (n >= etherLen+20+8) {
			t.Errorf("the port of %d bytes: %v", n, ok)
		}
	}

	var b buffers
	for i, step := range []struct {
		e    Event
		told bool
		dev  string
		why  string
	}{
		{Event{Step: Drop, Skb: 1}, false, "", "never seen"},
		{Event{Step: Drop, Skb: 1, Where: "tun_get_user"}, true, "", "a tap's, though"},
		{Event{Step: Receive, Skb: 1, Dev: "a"}, true, "a", ""},
		{Event{Step: CopyOut, Skb: 1}, false, "", "received: a socket's reader"},
		{Event{Step: StartXmit, Skb: 1, Dev: "tap", Len: 9}, true, "tap", ""},
		{Event{Step: CopyOut, Skb: 1, Len: 8}, false, "", "another length"},
		{Event{Step: StartXmit, Skb: 1, Dev: "tap", Len: 9}, true, "tap", ""},
		{Event{Step: CopyOut, Skb: 1, Len: 9, CPU: 1, Mono: time.Second}, true, "tap", "read later, elsewhere"},
		{Event{Step: CopyOut, Skb: 1, Len: 9}, false, "", "read twice"},
		{Event{Step: Receive, Skb: 1, Dev: "a"}, true, "a", ""},
		{Event{Step: ICMPSend, Skb: 1}, true, "a", "at once"},
		{Event{Step: Drop, Skb: 1}, true, "a", "at once"},
		{Event{Step: Drop, Skb: 1}, false, "", "free by now"},
		{Event{Step: Receive, Skb: 1, Dev: "a"}, true, "a", ""},
		{Event{Step: Consume, Skb: 1, CPU: 1}, false, "", "on another CPU"},
		{Event{Step: Receive, Skb: 1, Dev: "a"}, true, "a", ""},
		{Event{Step: Drop, Skb: 1, Mono: time.Second}, false, "", "later"},
		{Event{Step: Receive, Skb: 1, Dev: "a"}, true, "a", ""},
		{Event{Step: Drop, Skb: 1, Where: "tun_get_user"}, true, "", "another frame, in a new buffer"},
	} {
		if told := b.complete(&step.e); told != step.told || told && step.e.Dev != step.dev {
			t.Errorf("step %d, %s: told %v, device %q; want %v, %q", i, step.why, told, step.e.Dev, step.told, step.dev)
		}
	}
	for i := range 3 * maxKnown {
		b.complete(&Event{Step: Receive, Skb: uint64(i), Dev: "a"})
	}
	if len(b.now)+len(b.before) > 2*maxKnown {
		t.Errorf("%d buffers are remembered", len(b.now)+len(b.before))
	}
}

func TestDeviceFilter(t *testing.T) {
	many := make(map[string]bool)
	for i := range 1000 {
		many[strings.Repeat("x", i%10)+string(rune('a'+i%26))+strings.Repeat("y", i/26%5)] = true
	}
	for _, test := range []struct {
		known map[string]bool
		want  string
	}{
		{map[string]bool{"tap0": true, "br0": true}, `name == " " || name == "br0" || name == "tap0"`},
		{map[string]bool{`a"b`: true}, "0"},
		{map[string]bool{}, `name == " "`},
		{many, "0"},
	} {
		if got := (&devices{known: test.known}).filter(); got != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
	}
}
