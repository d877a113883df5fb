package tapendpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/ustack/ustack/link"
)

func TestMerge(t *testing.T) {
	// of returns n segments of 100 bytes each from a sequence number on.
	of := func(like seg, seq uint32, n int) (s []seg) {
		for i := range n {
			like.seq, like.n = seq+uint32(i)*100, 100
			s = append(s, like)
		}
		return s
	}
	all := func(parts ...[]seg) []seg { return slices.Concat(parts...) }
	one := func(s seg) []seg { return []seg{s} }
	plain := seg{}
	many := func(ports int) (s []seg) {
		for i := range 2 * ports {
			s = append(s, of(seg{port: uint16(i % ports)}, uint32(i/ports)*100, 1)...)
		}
		return s
	}
	for _, c := range []struct {
		name string
		in   []seg
		want string
		only int // 4 or 6, if it is of one
	}{
		{"in order", of(plain, 0, 3), "0:0+300", 0},
		{"sequence numbers that wrap", of(plain, 1<<32-100, 3), "0:4294967196+300", 0},
		{"last shorter", all(of(plain, 0, 2), one(seg{seq: 200, n: 7}), of(plain, 207, 2)), "0:0+207, 0:207+200", 0},
		{"longer", all(of(plain, 0, 2), one(seg{seq: 200, n: 101})), "0:0+200, 0:200+101", 0},
		{"two flows", all(of(plain, 0, 1), of(seg{port: 1}, 0, 1), of(plain, 100, 1), of(seg{port: 1}, 100, 1)), "0:0+200, 1:0+200", 0},
		{"more flows than are held", many(9), "0:0+100, 1:0+100, 2:0+100, 3:0+100, 4:0+100, 5:0+100, 6:0+100, 7:0+100, 8:0+100, " +
			"0:100+100, 1:100+100, 2:100+100, 3:100+100, 4:100+100, 5:100+100, 6:100+100, 7:100+100, 8:100+100", 0},
		{"gap", all(of(plain, 0, 2), of(plain, 300, 2)), "0:0+200, 0:300+200", 0},
		{"order changed", all(of(plain, 100, 1), of(plain, 0, 1), of(plain, 200, 1)), "0:100+100, 0:0+100, 0:200+100", 0},
		{"sent again", all(of(plain, 0, 2), of(plain, 0, 2)), "0:0+200, 0:0+200", 0},
		{"overlap", all(of(plain, 0, 2), of(plain, 150, 1)), "0:0+200, 0:150+100", 0},
		{"FIN", all(of(plain, 0, 2), of(seg{flags: fin}, 200, 1), of(plain, 300, 1)), "0:0+300 F, 0:300+100", 0},
		{"FIN alone", all(of(plain, 0, 2), one(seg{seq: 200, flags: fin})), "0:0+200, 0:200+0 F", 0},
		{"PSH", all(of(plain, 0, 1), of(seg{flags: psh}, 100, 1), of(plain, 200, 2)), "0:0+200 P, 0:200+200", 0},
		{"PSH first", all(of(seg{flags: psh}, 0, 1), of(plain, 100, 2)), "0:0+100 P, 0:100+200", 0},
		{"RST", all(of(plain, 0, 2), one(seg{seq: 200, flags: rst}), of(plain, 200, 2)), "0:0+200, 0:200+0 R, 0:200+200", 0},
		{"RST with data", all(of(plain, 0, 1), of(seg{flags: rst}, 100, 2)), "0:0+100, 0:100+100 R, 0:200+100 R", 0},
		{"SYN", all(of(seg{flags: syn}, 0, 2), of(plain, 200, 2)), "0:0+100 S, 0:100+100 S, 0:200+200", 0},
		{"URG", all(of(plain, 0, 1), of(seg{flags: urg}, 100, 2), of(plain, 300, 1)), "0:0+100, 0:100+100 U, 0:200+100 U, 0:300+100", 0},
		{"CWR", all(of(plain, 0, 1), of(seg{flags: cwr}, 100, 2), of(plain, 300, 1)), "0:0+100, 0:100+100 C, 0:200+100 C, 0:300+100", 0},
		{"ECE", all(of(plain, 0, 2), of(seg{flags: ece}, 200, 2)), "0:0+200, 0:200+200 E", 0},
		{"no ACK", of(seg{noACK: true}, 0, 2), "0:0+100, 0:100+100", 0},
		{"CE", all(of(seg{tos: 2}, 0, 2), of(seg{tos: 3}, 200, 2), of(seg{tos: 2}, 400, 2)), "0:0+200, 0:200+200, 0:400+200", 0},
		{"TTL", all(of(plain, 0, 2), of(seg{ttl: 1}, 200, 2)), "0:0+200, 0:200+200", 0},
		{"DF", all(of(plain, 0, 2), of(seg{noDF: true}, 200, 2)), "0:0+200, 0:200+200", 4},
		{"flow label", all(of(plain, 0, 2), of(seg{label: 7}, 200, 2)), "0:0+200, 0:200+200", 6},
		{"window", all(of(plain, 0, 2), of(seg{window: 1}, 200, 2)), "0:0+200, 0:200+200", 0},
		{"acknowledgement", all(of(plain, 0, 2), of(seg{ack: 1}, 200, 2)), "0:0+200, 0:200+200", 0},
		{"pure ACK between", all(of(plain, 0, 2), one(seg{seq: 200}), of(plain, 200, 2)), "0:0+200, 0:200+0, 0:200+200", 0},
		{"timestamps", all(of(seg{options: "\x01\x01\x08\x0a12345678"}, 0, 2), of(seg{options: "\x01\x01\x08\x0a12345679"}, 200, 2), of(plain, 400, 2)), "0:0+200, 0:200+200, 0:400+200", 0},
		{"padding", all(of(seg{padding: 9}, 0, 2), of(seg{padding: 1}, 200, 2)), "0:0+400", 0},
		{"IP options", all(of(plain, 0, 2), of(seg{port: 1}, 0, 2), of(seg{ipOption: true}, 200, 1), of(plain, 300, 2)), "0:0+200, 1:0+200, odd unverified, 0:300+200", 4},
		{"fragment", all(of(plain, 0, 2), of(seg{port: 1}, 0, 2), of(seg{fragment: true}, 200, 1), of(plain, 300, 2)), "0:0+200, 1:0+200, odd unverified, 0:300+200", 4},
		{"UDP between", all(of(plain, 0, 2), one(seg{udp: true, n: 9}), of(plain, 200, 2)), "other, 0:0+400", 0},
		{"flows out of step", all(of(plain, 0, 1), of(seg{port: 1}, 0, 1), of(seg{port: 2}, 0, 1),
			of(plain, 100, 1), of(seg{port: 1}, 200, 1), of(seg{port: 2, flags: psh}, 100, 1),
			of(plain, 200, 1), of(seg{port: 1}, 300, 1), of(seg{port: 2}, 200, 1)),
			"1:0+100, 2:0+200 P, 0:0+300, 1:200+200, 2:200+100", 0},
		{"same ports, another peer", all(of(plain, 0, 1), of(seg{peer: 1}, 0, 1), of(plain, 100, 1), of(seg{peer: 1}, 100, 1)), "0:0+200, 0:0+200", 0},
		{"same port, to another", all(of(plain, 0, 1), of(seg{to: 1}, 0, 1), of(plain, 100, 1), of(seg{to: 1}, 100, 1)), "0:0+200, 0:0+200", 0},
		{"another station", all(of(plain, 0, 2), of(seg{station: 1}, 200, 2)), "0:0+200, 0:200+200", 0},
		{"to everybody", all(of(plain, 0, 2), of(seg{all: true}, 200, 1), of(plain, 300, 2)), "0:0+200, 0:200+100 unverified, 0:300+200", 0},
		{"backwards", all(of(plain, 200, 1), of(plain, 100, 1), of(plain, 0, 1)), "0:200+100, 0:100+100, 0:0+100", 0},
		{"each twice", all(of(plain, 0, 1), of(plain, 0, 1), of(plain, 100, 1), of(plain, 100, 1)), "0:0+100, 0:0+200, 0:100+100", 0},
		{"one sent again later", all(of(plain, 0, 3), of(plain, 100, 1), of(plain, 300, 1)), "0:0+300, 0:100+100, 0:300+100", 0},
		{"FIN and PSH", all(of(plain, 0, 1), of(seg{flags: fin | psh}, 100, 1), of(plain, 200, 1)), "0:0+200 FP, 0:200+100", 0},
		{"ECE and CWR", all(of(plain, 0, 1), of(seg{flags: ece | cwr}, 100, 2)), "0:0+100, 0:100+100 EC, 0:200+100 EC", 0},
		{"reserved bits", all(of(plain, 0, 2), of(seg{reserved: 1}, 200, 2), of(plain, 400, 1)), "0:0+200, 0:200+200, 0:400+100", 0},
		{"options of another length", all(of(seg{options: "\x01\x01\x01\x01"}, 0, 2), of(seg{options: "\x01\x01\x01\x01\x01\x01\x01\x01"}, 200, 2)), "0:0+200, 0:200+200", 0},
		{"padded to 60 bytes", all(one(seg{n: 1, padding: 5}), one(seg{seq: 1, n: 1, padding: 5}), one(seg{seq: 2, n: 1, padding: 5})), "0:0+3", 0},
		{"ACKs padded to 60 bytes", all(of(plain, 0, 2), one(seg{seq: 200, padding: 6}), one(seg{seq: 200, padding: 6})), "0:0+200, 0:200+0, 0:200+0", 0},
		{"destination options", all(of(plain, 0, 2), of(seg{port: 1}, 0, 2), of(seg{extend: 60}, 200, 1), of(plain, 300, 2)), "0:0+200, 1:0+200, odd unverified, 0:300+200", 6},
		{"routing header", all(of(plain, 0, 1), of(seg{extend: 43}, 100, 2), of(plain, 300, 1)), "0:0+100, odd unverified, odd unverified, 0:300+100", 6},
		{"fragment header", all(of(plain, 0, 2), of(seg{extend: 44}, 200, 1), of(plain, 300, 2)), "0:0+200, odd unverified, 0:300+200", 6},
		{"VLAN tag between", all(of(plain, 0, 2), of(seg{vlan: true}, 200, 1), of(plain, 200, 2)), "other, 0:0+400", 0},
		{"wrong TCP checksum", all(of(plain, 0, 2), of(seg{badTCP: true}, 200, 1), of(plain, 300, 2)), "0:0+200, 0:200+100 unverified, 0:300+200", 0},
		{"wrong TCP checksum first", all(of(seg{badTCP: true}, 0, 1), of(plain, 100, 2)), "0:0+100 unverified, 0:100+200", 0},
		{"wrong IPv4 checksum", all(of(plain, 0, 2), of(seg{badIP: true}, 200, 1), of(plain, 300, 2)), "0:0+200, 0:200+100 unverified, 0:300+200", 4},
		{"wrong UDP checksum", one(seg{udp: true, n: 9, badTCP: true}), "other unverified", 0},
	} {
		for _, v := range []int{4, 6} {
			if c.only != 0 && c.only != v {
				continue
			}
			ep, got := newCollector(t)
			var frames [][]byte
			for _, s := range c.in {
				s.v6 = v == 6
				frames = append(frames, s.frame())
			}
			inBatches(ep, groBatch, frames...)
			var lines []string
			for i, f := range got.frames {
				lines = append(lines, line(f, got.verified[i]))
			}
			if g := strings.Join(lines, ", "); g != c.want {
				t.Errorf("%s, IPv%d:\n got %s\nwant %s", c.name, v, g, c.want)
			}
			// CE marks and timestamps are those of the segments.
			for _, f := range got.frames {
				if p := parse(f); p.kind == kindTCP {
					seq := header.TCP(f[p.l4:]).SequenceNumber()
					i := slices.IndexFunc(c.in, func(s seg) bool { return s.port == header.TCP(f[p.l4:]).SourcePort() && s.seq == seq && !s.udp })
					if tos, _ := header.IPv4(f[atIP:]).TOS(); v == 4 && tos != c.in[i].tos || string(f[p.l4+header.TCPMinimumSize:p.data]) != c.in[i].options {
						t.Errorf("%s, IPv%d: TOS or options changed at %d", c.name, v, seq)
					}
				}
			}
		}
	}
}

// A super-packet ends before its length would not fit IP's field.
func TestMergeBound(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		ep, got := newCollector(t)
		var frames [][]byte
		for i := range 60 {
			frames = append(frames, seg{v6: v6, seq: uint32(i) * 1448, n: 1448, options: "\x01\x01\x08\x0a12345678"}.frame())
		}
		inBatches(ep, groBatch, frames...)
		want := []string{"0:0+65160", "0:65160+21720"}
		for i, f := range got.frames {
			if l := line(f, got.verified[i]); l != want[i] {
				t.Errorf("got %s, want %s", l, want[i])
			}
		}
		if len(got.frames) != len(want) {
			t.Errorf("%d packets", len(got.frames))
		}
	}
}

// Flows of both families on the same ports are two, and what the wire has merged or
// vouched for itself is never held beyond its turn.
func TestMergeAmongOthers(t *testing.T) {
	four := func(seq uint32) []byte { return seg{seq: seq, n: 100}.frame() }
	six := func(seq uint32) []byte { return seg{v6: true, seq: seq, n: 100}.frame() }
	wrong := seg{seq: 100, n: 100, badTCP: true}.frame()
	super := link.Offload{NeedsCsum: true, CsumStart: endIPv4, CsumOffset: 16, GSOType: link.GSOTCPv4, GSOSize: 50, HdrLen: endIPv4 + 20}
	for _, c := range []struct {
		name string
		in   [][]byte
		o    map[int]link.Offload // of some
		want string
	}{
		{"families", [][]byte{four(0), six(0), four(100), six(100)}, nil, "0:0+200, 0:0+200"},
		{"super-frame", [][]byte{four(0), six(0), four(100), four(200), four(300)}, map[int]link.Offload{2: super},
			"0:0+100, 0:0+100, 0:100+100, 0:200+200"},
		{"vouched for", [][]byte{four(0), wrong, four(200)}, map[int]link.Offload{1: {DataValid: true}}, "0:0+300"},
		{"checksum not made yet", [][]byte{four(0), wrong, four(200)},
			map[int]link.Offload{1: {NeedsCsum: true, CsumStart: endIPv4, CsumOffset: 16}}, "0:0+300"},
		{"nobody vouches", [][]byte{four(0), wrong, four(200)}, nil, "0:0+100, 0:100+100 unverified, 0:200+100"},
	} {
		ep, got := newCollector(t)
		in := make([]link.Frame, len(c.in))
		for i, f := range c.in {
			in[i] = link.Frame{Buf: f, N: len(f), Offload: c.o[i]}
		}
		(&merger{e: ep}).receive(in)
		var lines []string
		for i, f := range got.frames {
			lines = append(lines, line(f, got.verified[i]))
		}
		if g := strings.Join(lines, ", "); g != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, g, c.want)
		}
	}
}

// normal is what flows carry, without where it was cut into packets: of each flow the
// runs of bytes that follow each other under the same headers, and where FIN and PSH
// stand. What is not plain TCP is one more flow.
func normal(c *collector) map[string][]string {
	type run struct {
		meta string
		next uint32
		data []byte
	}
	flows, runs := make(map[string][]string), make(map[string]*run)
	end := func(key string) {
		if r := runs[key]; r != nil {
			flows[key] = append(flows[key], fmt.Sprintf("%s %x", r.meta, r.data))
			delete(runs, key)
		}
	}
	for i, f := range c.frames {
		p := parse(f)
		if p.kind != kindTCP {
			flows[""] = append(flows[""], fmt.Sprintf("%x %v", f, c.verified[i]))
			continue
		}
		addrs := f[atIPv6Addrs:endIPv6]
		meta := f[atIP:atIPv6Len:atIPv6Len]
		if p.v4 {
			addrs, meta = f[atIPv4Addrs:endIPv4], []byte{f[atIPv4TOS], f[atIPv4Frag], f[atIPv4TTL]}
		} else {
			meta = append(meta, f[atIPv6Hops])
		}
		h := header.TCP(f[p.l4:p.data])
		key := fmt.Sprintf("%v %x %x", p.v4, addrs, h[:4])
		fl := h.Flags()
		m := fmt.Sprintf("%x %x %x %x %x %v", meta, h[8:13], fl&^(fin|psh), h[14:16], h[20:], c.verified[i])
		if fl&urg != 0 { // else the urgent pointer means nothing
			m += fmt.Sprintf(" %x", h[18:20])
		}
		r := runs[key]
		if r == nil || r.meta != m || r.next != h.SequenceNumber() || p.end == p.data {
			end(key)
			r = &run{meta: m}
			runs[key] = r
			flows[key] = append(flows[key], fmt.Sprint(h.SequenceNumber()))
		}
		r.data = append(r.data, f[p.data:p.end]...)
		r.next = h.SequenceNumber() + uint32(p.end-p.data)
		if fl&(fin|psh) != 0 || p.end == p.data {
			r.meta += fmt.Sprint(fl & (fin | psh))
			end(key)
		}
	}
	for key := range runs {
		end(key)
	}
	return flows
}

func diff(t *testing.T, plain, merged map[string][]string) {
	t.Helper()
	for key, want := range plain {
		if got := merged[key]; !slices.Equal(got, want) {
			t.Fatalf("flow %q:\n got %.2000q\nwant %.2000q", key, got, want)
		}
	}
	if len(merged) != len(plain) {
		t.Fatalf("%d flows, want %d", len(merged), len(plain))
	}
}

// Whatever comes, merged or not, is the same bytes in the same order.
func TestMergeRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	merges := 0
	for range 200 {
		var frames [][]byte
		next := make([]uint32, 12)
		ports := 1 + rng.IntN(len(next))
		for range 1 + rng.IntN(3*groBatch) {
			port := rng.IntN(ports)
			s := seg{v6: port%2 == 1, port: uint16(port), seq: next[port], n: 32}
			next[port] += 32
			if rng.IntN(6) == 0 {
				for _, f := range []func(){
					func() { s.n = rng.IntN(64) },
					func() { s.seq -= uint32(rng.IntN(100)) },
					func() { s.flags = header.TCPFlags(rng.Uint32()) },
					func() { s.noACK = true },
					func() { s.ack++ },
					func() { s.window++ },
					func() { s.tos = uint8(rng.IntN(4)) },
					func() { s.ttl++ },
					func() { s.noDF = true },
					func() { s.options = "\x01\x01\x01\x01" },
					func() { s.ipOption = !s.v6 },
					func() { s.fragment = true },
					func() { s.padding = rng.IntN(20) },
					func() { s.badTCP = true },
					func() { s.badIP = true },
					func() { s.udp = true },
					func() { s.peer = 1 },
					func() { s.to = 1 },
					func() { s.station = 1 },
					func() { s.all = true },
					func() { s.reserved = byte(rng.IntN(16)) },
					func() { s.vlan = true },
					func() {
						if s.v6 {
							s.extend = []uint8{43, 44, 60}[rng.IntN(3)]
						}
					},
				} {
					if rng.IntN(8) == 0 {
						f()
					}
				}
				if rng.IntN(2) == 0 {
					next[port] = s.seq + uint32(s.n)
				}
			}
			f := s.frame()
			if rng.IntN(50) == 0 {
				f[rng.IntN(len(f)-14)+14] ^= 1 << rng.IntN(8)
			}
			frames = append(frames, f)
		}
		ep, merged := newCollector(t)
		inBatches(ep, 1+rng.IntN(groBatch), frames...)
		ep, plain := newCollector(t)
		inBatches(ep, 1, frames...)
		diff(t, normal(plain), normal(merged))
		if len(plain.frames) != len(frames) {
			t.Fatalf("%d of %d frames delivered", len(plain.frames), len(frames))
		}
		merges += len(plain.frames) - len(merged.frames)
	}
	if merges == 0 {
		t.Error("nothing was merged")
	}
}

// A segment with a wrong checksum is netstack's to drop and to count.
func TestMergeLeavesDamageToNetstack(t *testing.T) {
	wire, far := link.Pipe(link.PipeConfig{})
	defer far.Close()
	ep, err := New(Config{Device: wire, HardwareAddr: ownMAC})
	if err != nil {
		t.Fatal(err)
	}
	s := gstack.New(gstack.Options{
		NetworkProtocols:   []gstack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocol},
	})
	if terr := s.CreateNIC(1, ep); terr != nil {
		t.Fatal(terr)
	}
	defer func() { s.Close(); ep.Stop(); s.Wait() }()
	s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: ownIP.WithPrefix()}, gstack.AddressProperties{})
	sock, terr := s.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, new(waiter.Queue))
	if terr != nil {
		t.Fatal(terr)
	}
	defer sock.Close()
	if terr := sock.Bind(tcpip.FullAddress{Port: 80}); terr != nil {
		t.Fatal(terr)
	}
	if terr := sock.Listen(1); terr != nil {
		t.Fatal(terr)
	}
	inBatches(ep, groBatch, seg{port: 9, n: 100}.frame(), seg{port: 9, seq: 100, n: 100, badTCP: true}.frame(),
		seg{port: 9, seq: 200, n: 100}.frame(), seg{port: 9, seq: 300, n: 100, badIP: true}.frame())
	st := s.Stats()
	if tcp, ip := st.TCP.ChecksumErrors.Value(), st.IP.MalformedPacketsReceived.Value(); tcp != 1 || ip != 1 {
		t.Errorf("%d wrong checksums of TCP and %d malformed IP packets counted, want 1 and 1", tcp, ip)
	}
}

// A reader's batch, cut into frames by their first two bytes, is delivered whole.
func FuzzMerge(f *testing.F) {
	join := func(segs ...seg) (b []byte) {
		for _, s := range segs {
			one := s.frame()
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(one))), one...)
		}
		return b
	}
	f.Add(join(seg{n: 9}, seg{seq: 9, n: 9}, seg{seq: 18, n: 3, flags: fin}), false)
	f.Add(join(seg{v6: true, n: 9}, seg{v6: true, seq: 9, n: 9}, seg{fragment: true, n: 9}), true)
	f.Add(join(seg{v6: true, n: 9}, seg{v6: true, seq: 9, n: 9, extend: 60}, seg{v6: true, seq: 18, n: 9}, seg{n: 9, vlan: true}), false)
	f.Add(join(seg{n: 9, reserved: 1}, seg{n: 9, peer: 1}, seg{seq: 9, n: 9, to: 1}, seg{seq: 9, n: 9, flags: urg | ece | cwr}, seg{n: 1, padding: 5}), false)
	f.Add(join(seg{n: 9, ipOption: true}, seg{udp: true, n: 9}, seg{n: 9}, seg{v6: true, port: 3, seq: 9, n: 9}), true)
	f.Fuzz(func(t *testing.T, b []byte, vouched bool) {
		var frames [][]byte
		for len(b) > 2 && len(frames) < groBatch {
			n := min(int(binary.BigEndian.Uint16(b)), len(b)-2)
			frames = append(frames, b[2:2+n])
			b = b[2+n:]
		}
		var got [2]*collector
		for i, batch := range []int{1, groBatch} {
			ep, c := newCollector(t)
			m := &merger{e: ep}
			for some := range slices.Chunk(frames, batch) {
				in := make([]link.Frame, len(some))
				for k, f := range some {
					in[k] = link.Frame{Buf: bytes.Clone(f), N: len(f), Offload: link.Offload{DataValid: vouched}}
				}
				m.receive(in)
			}
			got[i] = c
		}
		diff(t, normal(got[0]), normal(got[1]))
	})
}

// BenchmarkMerge takes batches of full segments in: of one flow, and of as many as
// are held.
func BenchmarkMerge(b *testing.B) {
	for _, flows := range []int{1, groFlows} {
		b.Run(fmt.Sprintf("%dflows", flows), func(b *testing.B) {
			ep, _ := newCollector(b)
			ep.dispatcher = discard{}
			m := &merger{e: ep}
			frames, saved := make([]link.Frame, 40), make([][]byte, 40)
			total := 0
			for i := range frames {
				saved[i] = seg{port: uint16(i % flows), seq: uint32(i/flows) * 1448, n: 1448, options: "\x01\x01\x08\x0a12345678"}.frame()
				frames[i] = link.Frame{Buf: bytes.Clone(saved[i]), N: len(saved[i])}
				total += frames[i].N
			}
			b.SetBytes(int64(total))
			b.ReportAllocs()
			for b.Loop() {
				for i := range frames[:flows] { // the heads have changed
					copy(frames[i].Buf, saved[i][:100])
				}
				m.receive(frames)
			}
		})
	}
}
