package ping

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

func echoRequest(v6 bool) []byte {
	b := make([]byte, 24)
	putEcho(b, v6, 0x1234, 0x5678)
	return b
}

func TestDecodeQuoted(t *testing.T) {
	v4 := icmpError(3, 1, 0, echoRequest(false), us4, them4)
	v6 := icmpError(1, 3, 0, echoRequest(true), us6, them6)
	edit := func(b []byte, f func([]byte) []byte) []byte { return f(append([]byte(nil), b...)) }
	set := func(i int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[i] = v; return b }
	}
	cut := func(n int) func([]byte) []byte {
		return func(b []byte) []byte { return b[:n] }
	}
	// insert puts an extension header behind the quoted IPv6 header.
	insert := func(kind byte, h ...byte) func([]byte) []byte {
		return func(b []byte) []byte {
			h[0] = b[8+6]
			b[8+6] = kind
			return append(append(append([]byte(nil), b[:48]...), h...), b[48:]...)
		}
	}
	options := func(b []byte) []byte { // an IPv4 header with 4 bytes of options
		b[8] = 0x46
		return append(append(append([]byte(nil), b[:28]...), 1, 1, 1, 0), b[28:]...)
	}
	for _, tt := range []struct {
		name string
		v6   bool
		b    []byte
		ok   bool
	}{
		{"v4", false, v4, true},
		{"v4 minimum", false, edit(v4, cut(8+20+8)), true},
		{"v4 short", false, edit(v4, cut(8+20+7)), false},
		{"v4 empty quote", false, edit(v4, cut(8)), false},
		{"v4 options", false, edit(v4, options), true},
		{"v4 options short", false, edit(edit(v4, options), cut(8+24+7)), false},
		{"v4 header length 0", false, edit(v4, set(8, 0x40)), false},
		{"v4 header length 60", false, edit(edit(v4, set(8, 0x4f)), cut(60)), false},
		{"v4 version", false, edit(v4, set(8, 0x65)), false},
		{"v4 UDP", false, edit(v4, set(8+9, 17)), false},
		{"v4 later fragment", false, edit(v4, set(8+7, 1)), false},
		{"v4 reply quoted", false, edit(v4, set(8+20, 0)), false},
		{"v6", true, v6, true},
		{"v6 short", true, edit(v6, cut(8+40+7)), false},
		{"v6 version", true, edit(v6, set(8, 0x40)), false},
		{"v6 TCP", true, edit(v6, set(8+6, 6)), false},
		{"v6 fragment", true, edit(v6, insert(protoFragment, 0, 0, 0, 1, 0, 0, 0, 9)), true},
		{"v6 later fragment", true, edit(v6, insert(protoFragment, 0, 0, 0, 8, 0, 0, 0, 9)), false},
		{"v6 options", true, edit(v6, insert(protoDestOptions, 0, 0, 1, 4, 0, 0, 0, 0)), true},
		{"v6 options beyond the end", true, edit(v6, insert(protoHopByHop, 0, 200, 1, 4, 0, 0, 0, 0)), false},
		{"v6 no next header", true, edit(v6, insert(59, 0, 0, 0, 0, 0, 0, 0, 0)), false},
		{"v6 request quoted by v4's rules", false, v6, false},
	} {
		m, ok := decode(tt.b, tt.v6)
		if ok && m.kind != kindError {
			ok = false
		}
		if ok != tt.ok {
			t.Errorf("%s: decoded %v, want %v", tt.name, ok, tt.ok)
			continue
		}
		dst := them4
		if tt.v6 {
			dst = them6
		}
		if ok && (m.id != 0x1234 || m.seq != 0x5678 || m.dst != dst) {
			t.Errorf("%s: %+v", tt.name, m)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		req := echoRequest(v6)
		f.Add(reply(req), v6)
		from, to := us4, them4
		if v6 {
			from, to = us6, them6
		}
		for _, typ := range []uint8{1, 2, 3, 4, 5, 11, 12} {
			b := icmpError(typ, 0, 1400, req, from, to)
			f.Add(b, v6)
			f.Add(b[:40], v6)
		}
	}
	ext := icmpError(1, 3, 0, make([]byte, 8), us6, them6)
	ext[8+6] = protoHopByHop
	ext[8+40+1] = 0xff
	f.Add(ext, true)
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		m, ok := decode(b, v6)
		if m.text(v6) == "" {
			t.Error("no text")
		}
		if !ok {
			return
		}
		switch m.kind {
		case kindReply:
			if len(m.data) != len(b)-icmpHeader || binary.BigEndian.Uint16(b[4:]) != m.id {
				t.Errorf("reply %+v of %x", m, b)
			}
		case kindError, kindNotice:
			if m.dst == (netip.Addr{}) || m.dst.Is6() != v6 {
				t.Errorf("error %+v of %x", m, b)
			}
		}
	})
}
