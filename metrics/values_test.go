package metrics_test

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/metrics"
	"github.com/ustack/ustack/stack"
)

func newPair(t testing.TB) (a, b *stack.Stack) { return pair(t, link.PipeConfig{}) }

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
)

// ipv4 is a packet from 10.0.0.9 to 10.0.0.1 with a valid header.
func ipv4(proto byte, payload ...byte) []byte {
	b := slices.Concat([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0, 10, 0, 0, 9, 10, 0, 0, 1}, payload)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	sign(b)
	return b
}

// sign fills in the checksum of an IPv4 header (RFC 791 section 3.1).
func sign(b []byte) {
	var sum uint32
	b[10], b[11] = 0, 0
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
}

// One frame that is dropped for a known reason changes the series of that reason and the
// link's counters, and nothing else.
func TestEachDropHasItsSeries(t *testing.T) {
	other := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	udp := []byte{0, 9, 0, 9, 0, 8, 0, 0} // port 9, no checksum
	ip := func(more ...string) []string { return append(more, "ip_packets_received_total") }
	for name, tc := range map[string]struct {
		frame  func(*station)
		series []string // that grow by one
	}{
		"another station's": {
			func(st *station) { st.send(other, etherIPv4, ipv4(17, udp...)...) },
			[]string{`link_frames_dropped_total{link="w",reason="rx_otherhost"}`},
		},
		"no such protocol": {
			func(st *station) { st.send(st.s.HardwareAddr(), 0x88cc, make([]byte, 46)...) },
			[]string{`ethernet_frames_dropped_total{reason="unknown_protocol"}`},
		},
		"ARP too short": {
			func(st *station) { st.send(st.s.HardwareAddr(), etherARP, 0, 1, 2, 3) },
			[]string{`arp_packets_dropped_total{reason="malformed"}`},
		},
		"IP header checksum": {
			func(st *station) {
				b := ipv4(17, udp...)
				b[10] ^= 1
				st.send(st.s.HardwareAddr(), etherIPv4, b...)
			},
			ip(`ip_packets_dropped_total{reason="malformed"}`),
		},
		"to another IP": {
			func(st *station) {
				b := ipv4(17, udp...)
				b[19] = 77
				sign(b)
				st.send(st.s.HardwareAddr(), etherIPv4, b...)
			},
			ip(`ip_packets_dropped_total{reason="invalid_destination"}`),
		},
		"UDP length": {
			func(st *station) {
				st.open("udp")
				st.send(st.s.HardwareAddr(), etherIPv4, ipv4(17, 0, 9, 0, 9, 0, 99, 0, 0)...)
			},
			ip("ip_packets_delivered_total", `udp_datagrams_dropped_total{reason="malformed"}`),
		},
		"UDP without a socket": {
			func(st *station) { st.send(st.s.HardwareAddr(), etherIPv4, ipv4(17, udp...)...) },
			ip("ip_packets_delivered_total", `udp_datagrams_dropped_total{reason="no_port"}`),
		},
		"TCP checksum": {
			func(st *station) {
				st.open("tcp")
				st.send(st.s.HardwareAddr(), etherIPv4, ipv4(6, 0, 9, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 2, 0, 9, 1, 2, 0, 0)...)
			},
			ip("ip_packets_delivered_total", `tcp_segments_dropped_total{reason="checksum"}`),
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStation(t, "w")
			before := values(t, st.s)
			tc.frame(st)
			want := map[string]float64{`link_frames_received_total{link="w"}`: 1}
			for _, s := range tc.series {
				want[s] = 1
			}
			var got map[string]float64
			bytes := `link_received_bytes_total{link="w"}`
			waitFor(t, "the frame to be counted", func() bool {
				got = changes(before, values(t, st.s))
				for series := range got { // the stack introduces itself, and answers
					if strings.Contains(series, "sent_") || strings.HasPrefix(series, "neighbours{") || strings.HasPrefix(series, "sockets{") || strings.HasPrefix(series, "memory_") {
						delete(got, series)
					}
				}
				return len(got) >= len(want)+1
			})
			if got[bytes] < link.HeaderLen {
				t.Errorf("bytes: %v", got[bytes])
			}
			delete(got, bytes)
			if !maps.Equal(got, want) {
				t.Errorf("changed: %v\nwant     %v", got, want)
			}
		})
	}
}

func TestDials(t *testing.T) {
	a, b := newPair(t)
	l, err := b.Listen("tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	before := values(t, a)
	refuse(t, a, "10.0.0.2:81", syscall.ECONNREFUSED)
	refuse(t, a, "192.0.2.1:80", syscall.ENETUNREACH)
	c, err := a.DialContext(testContext(t), "tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := changes(before, values(t, a))
	for series, want := range map[string]float64{
		`tcp_connect_duration_seconds{outcome="ok"}`:             1,
		`tcp_connect_duration_seconds{outcome="refused"}`:        1,
		`tcp_connect_duration_seconds{outcome="unreachable"}`:    1,
		`tcp_connect_duration_seconds{outcome="timeout"}`:        0,
		`tcp_resets_received_total`:                              1,
		`tcp_connects_started_total`:                             2,
		`sockets{protocol="tcp",state="estab"}`:                  1,
		`neighbours{link="pipe0",state="reachable",version="4"}`: 1,
		`arp_packets_sent_total{type="request"}`:                 1,
		`arp_packets_received_total{type="reply"}`:               1,
	} {
		if got[series] != want {
			t.Errorf("%s grew by %v, want %v", series, got[series], want)
		}
	}
	if got["memory_booked_bytes"] <= 0 {
		t.Errorf("booked: %v", got["memory_booked_bytes"])
	}
	for series, n := range got {
		if strings.HasPrefix(series, "tcp_segments_dropped") {
			t.Errorf("%s grew by %v", series, n)
		}
	}
	// The sum is in seconds.
	for _, f := range gather(t, metrics.Config{Stack: a}) {
		for _, m := range f.Metric {
			if h := m.Histogram; h.GetSampleCount() > 0 && (h.GetSampleSum() <= 0 || h.GetSampleSum() > 20) {
				t.Errorf("%v: the sum is %v s", m.Label, h.GetSampleSum())
			}
			if h := m.Histogram; h != nil && (h.Bucket[0].GetUpperBound() != 0.0001 || h.Bucket[len(h.Bucket)-1].GetUpperBound() != 60) {
				t.Errorf("buckets from %v to %v s", h.Bucket[0].GetUpperBound(), h.Bucket[len(h.Bucket)-1].GetUpperBound())
			}
		}
	}
}

// What counts what passed is what was sent.
func TestTraffic(t *testing.T) {
	a, b := newPair(t)
	p, err := b.ListenPacket("udp", "10.0.0.2:53")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := a.Dial("udp", "10.0.0.2:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	beforeA, beforeB := values(t, a), values(t, b)
	const datagrams, size = 20, 100
	for range datagrams {
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if n, _, err := p.ReadFrom(make([]byte, 2000)); n != size || err != nil {
			t.Fatal(n, err)
		}
	}
	if _, err := a.Ping(testContext(t), netip.MustParseAddr("10.0.0.2")); err != nil {
		t.Fatal(err)
	}
	gotA, gotB := changes(beforeA, values(t, a)), changes(beforeB, values(t, b))
	for series, want := range map[string]float64{
		"udp_datagrams_sent_total":                                      datagrams,
		`icmp_messages_received_total{type="echo_reply",version="4"}`:   1,
		`icmp_messages_received_total{type="echo_request",version="4"}`: 0,
	} {
		if gotA[series] != want {
			t.Errorf("a: %s grew by %v, want %v", series, gotA[series], want)
		}
	}
	for series, want := range map[string]float64{
		"udp_datagrams_received_total":                                  datagrams,
		`icmp_messages_received_total{type="echo_request",version="4"}`: 1,
		`icmp_messages_sent_total{type="echo_reply",version="4"}`:       1,
	} {
		if gotB[series] != want {
			t.Errorf("b: %s grew by %v, want %v", series, gotB[series], want)
		}
	}
	// Each says something of itself, too, when it begins.
	const headers = 14 + 20 + 8
	for series, got := range map[string]float64{
		"sent":     gotA[`link_frames_sent_total{link="pipe0"}`],
		"received": gotB[`link_frames_received_total{link="pipe1"}`],
	} {
		if got < datagrams+1 || got > datagrams+20 {
			t.Errorf("%v frames %s for %d datagrams", got, series, datagrams)
		}
	}
	if got := gotA[`link_sent_bytes_total{link="pipe0"}`]; got < datagrams*(size+headers) || got > 2*datagrams*(size+headers) {
		t.Errorf("%v bytes for %d datagrams of %d", got, datagrams, size)
	}
}

// Whatever comes from the wire and the control socket, there are no other series than before.
func TestNothingFromOutsideMakesSeries(t *testing.T) {
	st := newStation(t, "w")
	before := values(t, st.s)
	r := rand.New(rand.NewPCG(1, 2))
	const frames = 2000
	for i := range frames {
		b := make([]byte, r.IntN(200))
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		to, proto := st.s.HardwareAddr(), uint16(r.Uint32())
		switch i % 4 {
		case 1:
			proto, b = etherIPv4, ipv4(byte(r.Uint32()), b...)
		case 2:
			proto = 0x86dd
		case 3:
			proto = etherARP
		}
		st.send(to, proto, b...)
	}
	st.arrived(frames)
	for series := range changes(before, values(t, st.s)) {
		if _, was := before[series]; !was {
			t.Errorf("%s was not there before", series)
		}
	}
}

// The name of an interface can be any bytes but NUL, / and white space.
func TestAnyLinkName(t *testing.T) {
	st := newStation(t, "w\xff\"\\")
	if v := values(t, st.s); v[`link_up{link="w\ufffd\"\\"}`] != 1 && v["link_up{link=\"w\uFFFD\\\"\\\\\"}"] != 1 {
		t.Errorf("no such link in %v", slices.Sorted(maps.Keys(v)))
	}
}

func TestLinkState(t *testing.T) {
	st := newStation(t, "w")
	up := func(cfg metrics.Config) float64 {
		cfg.Stack = st.s
		for _, f := range gather(t, cfg) {
			if f.GetName() == "ustack_link_up" {
				for _, m := range f.Metric {
					if m.Label[0].GetValue() == "w" {
						return m.Gauge.GetValue()
					}
				}
			}
		}
		t.Fatal("no link")
		return -1
	}
	if up(metrics.Config{}) != 1 || up(metrics.Config{IsUp: func(l stack.Link) bool { return l.Name != "w" }}) != 0 {
		t.Error("a link that is up, or down on the host")
	}
	st.dev.Close()
	<-st.s.Done()
	if up(metrics.Config{IsUp: func(stack.Link) bool { return true }}) != 0 {
		t.Error("a link that is gone is up")
	}
}

func TestControlFigures(t *testing.T) {
	a, _ := newPair(t)
	counts := control.Counts{Clients: 3, Accepted: 9, Flows: 2, Requests: []control.RequestCount{{Kind: "flow", Request: "dial", OK: 5, Failed: 4}}}
	got := make(map[string]float64)
	for _, f := range gather(t, metrics.Config{Stack: a, Control: func() control.Counts { return counts }}) {
		for _, m := range f.Metric {
			key := f.GetName()
			for _, l := range m.Label {
				key += " " + l.GetValue()
			}
			got[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for key, want := range map[string]float64{
		"ustack_control_clients": 3, "ustack_control_clients_accepted_total": 9, "ustack_control_flows": 2,
		"ustack_control_requests_total flow ok dial": 5, "ustack_control_requests_total flow error dial": 4,
	} {
		if got[key] != want {
			t.Errorf("%s: %v, want %v", key, got[key], want)
		}
	}
}

// A switch without a stack shows its ports, with a series for each reason and state there is.
func TestPorts(t *testing.T) {
	got := make(map[string]float64)
	for _, f := range gather(t, metrics.Config{Ports: onePort}) {
		for _, m := range f.Metric {
			key := strings.TrimPrefix(f.GetName(), "ustack_bridge_port_")
			for _, l := range m.Label {
				key += " " + l.GetValue()
			}
			got[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
		if strings.HasPrefix(f.GetName(), "ustack_tcp") {
			t.Errorf("%s without a stack", f.GetName())
		}
	}
	for key, want := range map[string]float64{
		"frames_received_total tap1": 1, "received_bytes_total tap1": 100, "frames_sent_total tap1": 2, "sent_bytes_total tap1": 200,
		"frames_flooded_total tap1": 3, "stations tap1": 4, "stations_moved_total tap1": 5, "frames_unlearned_total tap1": 6,
		"frames_dropped_total tap1 switch_loop": 7, "frames_dropped_total tap1 rx_short": 8, "frames_dropped_total tap1 switch_storm": 0,
		"state tap1 looping": 1, "state tap1 forwarding": 0, "state tap1 gone": 0,
	} {
		if n, ok := got[key]; !ok || n != want {
			t.Errorf("%s: %v (%v), want %v", key, n, ok, want)
		}
	}
}
