package link

import (
	"encoding/binary"
	"testing"
)

// partialFrame is a TCP or UDP frame whose checksum field holds the pseudo-header's sum alone.
func partialFrame(v6 bool, proto byte, payload int, tag bool) (frame []byte, o Offload) {
	frame = make([]byte, 12, 200)
	if tag {
		frame = append(frame, 0x81, 0, 0, 7)
	}
	size := 20
	at := 16
	if proto == protoUDP {
		size, at = 8, 6
	}
	n := size + payload
	var pseudo summer
	if v6 {
		frame = append(frame, 0x86, 0xdd)
		ip := make([]byte, 40)
		ip[0], ip[6], ip[8], ip[39] = 0x60, proto, 0xfd, 9
		binary.BigEndian.PutUint16(ip[4:], uint16(n))
		pseudo.add(ip[8:])
		frame = append(frame, ip...)
	} else {
		frame = append(frame, 0x08, 0)
		ip := make([]byte, 24) // with an option
		ip[0], ip[9], ip[12], ip[19] = 0x46, proto, 10, 7
		binary.BigEndian.PutUint16(ip[2:], uint16(24+n))
		pseudo.add(ip[12:20])
		frame = append(frame, ip...)
	}
	pseudo.word(uint16(proto))
	pseudo.word(uint16(n))
	l4 := len(frame)
	for i := range n {
		frame = append(frame, byte(i+1))
	}
	binary.BigEndian.PutUint16(frame[l4+at:], fold(pseudo.s))
	return frame, Offload{NeedsCsum: true, CsumStart: uint16(l4), CsumOffset: uint16(at)}
}

func TestFindPartial(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, proto := range []byte{protoTCP, protoUDP} {
			for _, tag := range []bool{false, true} {
				f, want := partialFrame(v6, proto, 33, tag)
				if o, ok := FindPartial(f); !ok || o != want {
					t.Errorf("v6 %v, protocol %d, tag %v: %+v, %v", v6, proto, tag, o, ok)
				}
				for n := range f {
					if _, ok := FindPartial(f[:n]); ok {
						t.Errorf("cut to %d bytes it is taken for a whole one", n)
					}
				}
				if _, ok := FindPartial(append(f, 0)); ok {
					t.Error("padded")
				}
				// Finished it is another frame.
				var s summer
				s.add(f[want.CsumStart:])
				binary.BigEndian.PutUint16(f[want.CsumStart+want.CsumOffset:], s.checksum())
				if _, ok := FindPartial(f); ok {
					t.Error("finished")
				}
			}
		}
	}
	f, _ := partialFrame(false, protoTCP, 33, false)
	f[HeaderLen+6] = 0x20 // a fragment
	if _, ok := FindPartial(f); ok {
		t.Error("a fragment")
	}
}

func FuzzFindPartial(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		frame, _ := partialFrame(v6, protoTCP, 5, true)
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if o, ok := FindPartial(frame); ok && o.Validate(len(frame)) != nil {
			t.Fatalf("%+v of %d bytes", o, len(frame))
		}
	})
}
