package link

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
)

// A superFrame describes a TCP super-frame to build.
type superFrame struct {
	v6      bool
	vlans   int
	options int    // bytes of IPv4 options
	ext     []byte // IPv6 extension headers: protoHopByHop, ...
	tcpOpts int
	payload int
	gso     uint16
	flags   byte
	id      uint16
	seq     uint32
}

// build returns the frame and its metadata. All but the partial checksum is as RFC
// 791, 8200 and 9293 have it.
func (c superFrame) build() ([]byte, Offload) {
	f := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	for range c.vlans {
		f = append(f, 0x81, 0, 0, 5)
	}
	tcp := make([]byte, 20+c.tcpOpts+c.payload)
	tcp[1], tcp[3] = 99, 80
	binary.BigEndian.PutUint32(tcp[4:], c.seq)
	tcp[12], tcp[13] = byte(20+c.tcpOpts)/4<<4, c.flags
	for i := range tcp[20:] {
		tcp[20+i] = byte(i*31 + i>>8)
	}
	var addresses []byte
	o := Offload{NeedsCsum: true, CsumOffset: 16, GSOSize: c.gso, HdrLen: 7, ECN: c.flags&tcpCWR != 0}
	if c.v6 {
		f = append(f, 0x86, 0xdd)
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7] = 6<<4, protoTCP, 64
		for i := 8; i < 40; i++ {
			ip[i] = byte(i * 5)
		}
		addresses = ip[8:40]
		var exts []byte
		next := &ip[6]
		for i, proto := range c.ext {
			*next = proto
			ext := make([]byte, 8*(i+1))
			ext[0], ext[1] = protoTCP, byte(i)
			exts = append(exts, ext...)
			next = &exts[len(exts)-len(ext)]
		}
		binary.BigEndian.PutUint16(ip[4:], uint16(len(exts)+len(tcp)))
		f = append(append(f, ip...), exts...)
		o.GSOType = GSOTCPv6
	} else {
		f = append(f, 8, 0)
		ip := make([]byte, 20+c.options)
		ip[0], ip[6], ip[8], ip[9] = 4<<4|byte(len(ip)/4), 0x40, 64, protoTCP
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(tcp)))
		binary.BigEndian.PutUint16(ip[4:], c.id)
		copy(ip[12:], []byte{192, 0, 2, 1, 198, 51, 100, 7})
		for i := 20; i < len(ip); i++ {
			ip[i] = 1 // no operation
		}
		addresses = ip[12:20]
		binary.BigEndian.PutUint16(ip[10:], ^slowSum(ip))
		f = append(f, ip...)
		o.GSOType = GSOTCPv4
	}
	pseudo := append(bytes.Clone(addresses), 0, protoTCP, byte(len(tcp)>>8), byte(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], slowSum(pseudo))
	o.CsumStart = uint16(len(f))
	return append(f, tcp...), o
}

func superFrames() map[string]superFrame {
	return map[string]superFrame{
		"tcp4":         {payload: 5000, gso: 1448, flags: 0x18, id: 0xfffe, seq: 0xfffffc00, tcpOpts: 12},
		"tcp6":         {v6: true, payload: 5001, gso: 1428, flags: 0x19, seq: 77, tcpOpts: 12},
		"exact":        {payload: 3000, gso: 1000, flags: 0x10},
		"one":          {payload: 700, gso: 1000, flags: 0x19},
		"empty":        {payload: 0, gso: 1000, flags: 0x11},
		"odd":          {payload: 1001, gso: 3, flags: 0x18},
		"byte":         {payload: 100, gso: 1, flags: 0x10},
		"vlan":         {payload: 4000, gso: 1400, vlans: 1, flags: 0x10},
		"qinq":         {v6: true, payload: 4000, gso: 1400, vlans: 2, flags: 0x10},
		"options":      {payload: 4000, gso: 1400, options: 24, flags: 0x90, tcpOpts: 40},
		"extensions":   {v6: true, payload: 4000, gso: 1300, ext: []byte{protoHopByHop, protoDestination, protoRouting}, flags: 0x98},
		"64 KiB":       {payload: 65535 - 40, gso: 1460, flags: 0x10, id: 9},
		"64 KiB, IPv6": {v6: true, payload: 65535 - 20, gso: 65535, flags: 0x10},
	}
}

// cut runs a segmenter over f and returns each segment as one slice.
func cut(pieces [][]byte, o Offload) ([][]byte, bool) {
	f := OutFrame{Pieces: pieces, Offload: o}
	n := f.Len()
	var s segmenter
	if o.Validate(n) != nil || n < HeaderLen || n > MaxFrame || !s.start(&f, n) {
		return nil, false
	}
	all := [][]byte{}
	for s.more() {
		all = append(all, bytes.Join(s.next(make([]byte, s.hdr), nil), nil))
	}
	return all, true
}

// slowCut is the reference: one whole frame, byte by byte, with nothing shared with
// the segmenter but constants.
func slowCut(f []byte, o Offload) (all [][]byte, ok bool) {
	u16 := func(b []byte) int { return int(b[0])<<8 | int(b[1]) }
	put := func(b []byte, v int) { b[0], b[1] = byte(v>>8), byte(v) }
	start := int(o.CsumStart)
	if o.Validate(len(f)) != nil || !o.NeedsCsum || len(f) < HeaderLen || len(f) > MaxFrame || o.CsumOffset != 16 || len(f) < start+20 {
		return nil, false
	}
	tcpLen := int(f[start+12]>>4) * 4
	if tcpLen < 20 || start+tcpLen > len(f) || start+tcpLen > maxHeaders {
		return nil, false
	}
	ipAt := 14
	for i := 0; i < 2 && len(f) >= ipAt+4 && (u16(f[ipAt-2:]) == 0x8100 || u16(f[ipAt-2:]) == 0x88a8); i++ {
		ipAt += 4
	}
	if ipAt > start {
		return nil, false
	}
	ip := f[ipAt:start]
	switch {
	case o.GSOType == GSOTCPv4 && u16(f[ipAt-2:]) == 0x0800:
		if len(ip) < 20 || ip[0] != byte(0x40+len(ip)/4) || len(ip)%4 != 0 || ip[9] != 6 || u16(f[ipAt+2:]) != len(f)-ipAt || u16(ip[6:])&^0xc000 != 0 {
			return nil, false
		}
	case o.GSOType == GSOTCPv6 && u16(f[ipAt-2:]) == 0x86dd:
		if len(ip) < 40 || ip[0]&0xf0 != 0x60 || u16(ip[4:]) != len(f)-ipAt-40 {
			return nil, false
		}
		next, rest := ip[6], ip[40:]
		for len(rest) > 0 {
			if next != 0 && next != 43 && next != 60 || len(rest)%8 != 0 || len(rest) < 8*(1+int(rest[1])) {
				return nil, false
			}
			next, rest = rest[0], rest[8*(1+int(rest[1])):]
		}
		if next != 6 {
			return nil, false
		}
	default:
		return nil, false
	}
	payload := f[start+tcpLen:]
	for i := 0; ; i++ {
		size := min(int(o.GSOSize), len(payload))
		last := size == len(payload)
		seg := append(bytes.Clone(f[:start+tcpLen]), payload[:size]...)
		payload = payload[size:]
		ip, tcp := seg[ipAt:start], seg[start:]
		binary.BigEndian.PutUint32(tcp[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(i)*uint32(o.GSOSize))
		if !last {
			tcp[13] &= 0xf6
		}
		if i > 0 {
			tcp[13] &= 0x7f
		}
		// Congruent modulo 65535 is the same sum.
		pseudo := (u16(tcp[16:]) - (len(f) - start) + len(tcp) + 2*65535) % 65535
		put(tcp[16:], 0)
		put(tcp[16:], 65535-(pseudo+int(slowSum(tcp)))%65535)
		if ip[0]>>4 == 6 {
			put(ip[4:], len(seg)-ipAt-40)
		} else {
			put(ip[2:], len(seg)-ipAt)
			put(ip[4:], u16(ip[4:])+i)
			put(ip[10:], 0)
			put(ip[10:], int(^slowSum(ip)))
		}
		all = append(all, seg)
		if last {
			return all, true
		}
	}
}

// verify checks one segment's checksums and lengths as a receiver does.
func verify(c superFrame, seg []byte) error {
	at := HeaderLen + 4*c.vlans
	ip := seg[at:]
	var pseudo []byte
	if c.v6 {
		if n := int(binary.BigEndian.Uint16(ip[4:])); n != len(ip)-40 {
			return fmt.Errorf("payload length %d of %d", n, len(ip)-40)
		}
		pseudo = bytes.Clone(ip[8:40])
		ip = ip[40:]
		for i := range c.ext {
			ip = ip[8*(i+1):]
		}
	} else {
		if n := int(binary.BigEndian.Uint16(ip[2:])); n != len(ip) {
			return fmt.Errorf("total length %d of %d", n, len(ip))
		}
		if s := slowSum(ip[:20+c.options]); s != 0xffff {
			return fmt.Errorf("IPv4 header sums to %#04x", s)
		}
		pseudo = bytes.Clone(ip[12:20])
		ip = ip[20+c.options:]
	}
	pseudo = append(pseudo, 0, protoTCP, byte(len(ip)>>8), byte(len(ip)))
	if s := slowSum(append(pseudo, ip...)); s != 0xffff {
		return fmt.Errorf("TCP sums to %#04x", s)
	}
	return nil
}

func TestSegments(t *testing.T) {
	for name, c := range superFrames() {
		t.Run(name, func(t *testing.T) {
			f, o := c.build()
			segs, ok := cut([][]byte{f[:14], nil, f[14:50], f[50:]}, o)
			if !ok {
				t.Fatal("refused")
			}
			if want := max(1, (c.payload+int(c.gso)-1)/int(c.gso)); len(segs) != want {
				t.Fatalf("%d segments, want %d", len(segs), want)
			}
			hdr := int(o.CsumStart) + 20 + c.tcpOpts
			var data []byte
			for i, seg := range segs {
				if err := verify(c, seg); err != nil {
					t.Errorf("segment %d: %v", i, err)
				}
				tcp := seg[o.CsumStart:]
				if seq := binary.BigEndian.Uint32(tcp[4:]); seq != c.seq+uint32(len(data)) {
					t.Errorf("segment %d: sequence number %d", i, seq)
				}
				want := c.flags
				if i > 0 {
					want &^= 0x80
				}
				if i < len(segs)-1 {
					want &^= 0x09
				}
				if tcp[13] != want {
					t.Errorf("segment %d: flags %#02x, want %#02x", i, tcp[13], want)
				}
				if id := binary.BigEndian.Uint16(seg[18+4*c.vlans:]); !c.v6 && id != c.id+uint16(i) {
					t.Errorf("segment %d: identification %d", i, id)
				}
				if len(seg)-hdr > int(c.gso) {
					t.Errorf("segment %d carries %d bytes", i, len(seg)-hdr)
				}
				data = append(data, seg[hdr:]...)
			}
			if !bytes.Equal(data, f[hdr:]) {
				t.Error("the payload is another one")
			}
		})
	}
}

func TestSegmentsRefused(t *testing.T) {
	for name, change := range map[string]func(f []byte, o *Offload) []byte{
		"no checksum to do":   func(f []byte, o *Offload) []byte { o.NeedsCsum = false; return f },
		"UDP's offset":        func(f []byte, o *Offload) []byte { o.CsumOffset = 6; return f },
		"start too low":       func(f []byte, o *Offload) []byte { o.CsumStart--; return f },
		"start too high":      func(f []byte, o *Offload) []byte { o.CsumStart += 4; return f },
		"start in Ethernet":   func(f []byte, o *Offload) []byte { o.CsumStart = 14; return f },
		"start at the end":    func(f []byte, o *Offload) []byte { o.CsumStart = uint16(len(f) - 18); return f },
		"start beyond":        func(f []byte, o *Offload) []byte { o.CsumStart = 65535; return f },
		"IPv6's type":         func(f []byte, o *Offload) []byte { o.GSOType = GSOTCPv6; return f },
		"no type":             func(f []byte, o *Offload) []byte { o.GSOType = 3; return f },
		"size 0":              func(f []byte, o *Offload) []byte { o.GSOSize = 0; return f },
		"cut off":             func(f []byte, _ *Offload) []byte { return f[:len(f)-1] },
		"padded":              func(f []byte, _ *Offload) []byte { return append(f, 0) },
		"within TCP's header": func(f []byte, _ *Offload) []byte { return f[:50] },
		"UDP":                 func(f []byte, _ *Offload) []byte { f[14+9] = 17; return f },
		"fragment":            func(f []byte, _ *Offload) []byte { f[14+6] = 0x20; return f },
		"last fragment":       func(f []byte, _ *Offload) []byte { f[14+7] = 1; return f },
		"version":             func(f []byte, _ *Offload) []byte { f[14] = 0x65; return f },
		"header length":       func(f []byte, _ *Offload) []byte { f[14] = 0x46; return f },
		"data offset":         func(f []byte, _ *Offload) []byte { f[34+12] = 4 << 4; return f },
		"long data offset":    func(f []byte, _ *Offload) []byte { f[34+12] = 15 << 4; return f[:80] },
		"ARP":                 func(f []byte, _ *Offload) []byte { f[13] = 6; return f },
	} {
		f, o := superFrame{payload: 3000, gso: 1000}.build()
		f = change(f, &o)
		if segs, ok := cut([][]byte{f}, o); ok {
			t.Errorf("%s: %d segments", name, len(segs))
		}
		if _, ok := slowCut(f, o); ok {
			t.Errorf("%s: the reference cuts it", name)
		}
	}
}

func FuzzSegments(f *testing.F) {
	for _, c := range superFrames() {
		if c.payload > 6000 {
			c.payload = 6000
		}
		b, o := c.build()
		f.Add(b, uint8(o.GSOType), o.GSOSize, o.CsumStart, o.CsumOffset, uint16(50), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, typ uint8, size, start, offset, at uint16, needs bool) {
		o := Offload{NeedsCsum: needs, GSOType: GSOType(typ), GSOSize: size, CsumStart: start, CsumOffset: offset}
		if n := int(size); n > 0 && len(b)/n > 2000 {
			return // slow, and nothing new
		}
		before, k := bytes.Clone(b), int(at)%(len(b)+1)
		got, ok := cut([][]byte{b[:k/2], b[k/2 : k], {}, b[k:]}, o)
		if !bytes.Equal(b, before) {
			t.Fatal("the frame itself has changed")
		}
		want, wantOK := slowCut(b, o)
		if ok != wantOK || len(got) != len(want) {
			t.Fatalf("%d segments, %v; want %d, %v", len(got), ok, len(want), wantOK)
		}
		for i := range got {
			if sameBut(got[i], want[i], int(start)+16) {
				continue
			}
			t.Fatalf("segment %d:\n%x\nwant\n%x", i, got[i], want[i])
		}
	})
}

// sameBut compares frames, in which the checksum at an offset may be either zero.
func sameBut(a, b []byte, at int) bool {
	if len(a) != len(b) || !sameSum(binary.BigEndian.Uint16(a[at:]), binary.BigEndian.Uint16(b[at:])) {
		return false
	}
	return bytes.Equal(a[:at], b[:at]) && bytes.Equal(a[at+2:], b[at+2:])
}
