package link

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"testing"
)

// The headers are what Linux 6.18 put in front of frames, or would accept.
func TestVirtioHeader(t *testing.T) {
	for _, c := range []struct {
		hex string // little-endian
		o   Offload
	}{
		{"00000000000000000000", Offload{}},
		{"01000000000022001000", Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 16}},
		{"02000000000000000000", Offload{DataValid: true}},
		{"01014200a80522001000", Offload{NeedsCsum: true, GSOType: GSOTCPv4, HdrLen: 66, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}},
		{"01845600940536001000", Offload{NeedsCsum: true, ECN: true, GSOType: GSOTCPv6, HdrLen: 86, GSOSize: 1428, CsumStart: 54, CsumOffset: 16}},
	} {
		le, err := hex.DecodeString(c.hex)
		if err != nil {
			t.Fatal(err)
		}
		be := bytes.Clone(le)
		for i := 2; i < VirtioLen; i += 2 {
			be[i], be[i+1] = be[i+1], be[i]
		}
		for _, x := range []struct {
			b     []byte
			order binary.ByteOrder
		}{{le, binary.LittleEndian}, {be, binary.BigEndian}} {
			got, err := DecodeVirtio(x.b, x.order)
			if err != nil || got != c.o {
				t.Errorf("%v %x: %+v, %v, want %+v", x.order, x.b, got, err, c.o)
			}
			b := bytes.Repeat([]byte{0xee}, VirtioLen+1)
			c.o.EncodeVirtio(b, x.order)
			if !bytes.Equal(b[:VirtioLen], x.b) || b[VirtioLen] != 0xee {
				t.Errorf("%v %+v: %x, want %x", x.order, c.o, b, x.b)
			}
		}
	}
	for n := range VirtioLen {
		if _, err := DecodeVirtio(make([]byte, n), binary.LittleEndian); err == nil {
			t.Errorf("a header of %d bytes was decoded", n)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Offload
		n    int
		ok   bool
	}{
		{"ordinary", Offload{}, 14, true},
		{"checksum at the very end", Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 6}, 42, true},
		{"checksum one byte beyond", Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 7}, 42, false},
		{"checksum begins beyond", Offload{NeedsCsum: true, CsumStart: 65535, CsumOffset: 65535}, MaxFrame, false},
		{"checksum of the Ethernet header", Offload{NeedsCsum: true, CsumStart: 13}, 60, false},
		{"offsets without a checksum", Offload{CsumStart: 65535, CsumOffset: 65535}, 60, true},
		{"TCP over IPv4", Offload{GSOType: GSOTCPv4, GSOSize: 1}, 60, true},
		{"TCP over IPv6 with ECN", Offload{GSOType: GSOTCPv6, GSOSize: 1, ECN: true}, 60, true},
		{"no segment size", Offload{GSOType: GSOTCPv4}, 60, false},
		{"UDP fragmentation", Offload{GSOType: 3, GSOSize: 8}, 60, false},
		{"UDP segmentation", Offload{GSOType: 5, GSOSize: 8}, 60, false},
		{"ECN alone", Offload{ECN: true}, 60, false},
		{"header length beyond, a hint", Offload{GSOType: GSOTCPv4, GSOSize: 1, HdrLen: 65535}, 60, true},
	} {
		err := c.o.Validate(c.n)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && !errors.Is(err, ErrOffload) {
			t.Errorf("%s: %v does not wrap ErrOffload", c.name, err)
		}
	}
}

// Whatever a header says: no panic, what Validate accepts lies within the frame,
// and it means the same after being encoded and decoded again.
func FuzzVirtio(f *testing.F) {
	f.Add([]byte{}, 60, false)
	f.Add([]byte{1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0}, 3000, false)
	f.Add([]byte{1, 0x84, 0, 86, 5, 0x94, 0, 54, 0, 16}, 3000, true)
	f.Add([]byte{3, 0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 60, true) // ECN alone: sums overflow 16 bits
	f.Add([]byte{1, 3, 0, 0, 0, 0, 34, 0, 25, 0}, 60, false)                         // the last byte beyond the frame
	f.Fuzz(func(t *testing.T, b []byte, n int, bigEndian bool) {
		var order binary.ByteOrder = binary.LittleEndian
		if bigEndian {
			order = binary.BigEndian
		}
		o, err := DecodeVirtio(b, order)
		if (err != nil) != (len(b) < VirtioLen) {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
		if o.Validate(n) == nil {
			if o.NeedsCsum && (o.CsumStart < HeaderLen || int(o.CsumStart)+int(o.CsumOffset) > n-2) {
				t.Fatalf("%+v was accepted for %d bytes", o, n)
			}
			if o.GSOType != GSONone && o.GSOSize == 0 {
				t.Fatalf("%+v was accepted", o)
			}
		}
		again := make([]byte, VirtioLen)
		o.EncodeVirtio(again, order)
		if p, err := DecodeVirtio(again, order); err != nil || p != o {
			t.Fatalf("%+v became %+v, %v", o, p, err)
		}
	})
}

func TestOffloadsString(t *testing.T) {
	for o, want := range map[Offloads]string{
		0: "none", OffloadCsum: "csum", OffloadCsum | OffloadTSO6: "csum,tso6",
		OffloadCsum | OffloadTSO4 | OffloadTSO6 | OffloadECN: "csum,tso4,tso6,ecn",
	} {
		if got := o.String(); got != want {
			t.Errorf("%d: %q, want %q", o, got, want)
		}
	}
}
