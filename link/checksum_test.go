package link

import (
	"math/rand/v2"
	"testing"
)

// slowSum is the Internet checksum's sum, word by word (RFC 1071 section 4.1).
func slowSum(b []byte) uint16 {
	s := uint32(0)
	for i, x := range b {
		if i%2 == 0 {
			s += uint32(x) << 8
		} else {
			s += uint32(x)
		}
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// sameSum compares sums: zero has two representations.
func sameSum(a, b uint16) bool { return a == b || a%0xffff == 0 && b%0xffff == 0 }

func TestSum(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	b := make([]byte, 4096)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	ones := make([]byte, 4096)
	for i := range ones {
		ones[i] = 0xff
	}
	for n := range 300 {
		for _, at := range []int{0, 1, 7} {
			for _, all := range [][]byte{b, ones, make([]byte, 512)} {
				part := all[at : at+n]
				want := slowSum(part)
				if got := fold(sum(0, part)); !sameSum(got, want) {
					t.Fatalf("%d bytes: sum %#04x, want %#04x", n, got, want)
				}
				var m summer
				for rest := part; len(rest) > 0; {
					k := min(rng.IntN(20), len(rest))
					m.add(rest[:k])
					rest = rest[k:]
				}
				if got := fold(m.s); !sameSum(got, want) {
					t.Fatalf("%d bytes in pieces: sum %#04x, want %#04x", n, got, want)
				}
			}
		}
	}
	if got := fold(sum(^uint64(0), []byte{0, 1})); got != 1 {
		t.Errorf("the largest sum and 1 is %#x, want 1", got)
	}
	m := summer{s: ^uint64(0)}
	m.word(0xffff)
	if got := fold(m.s); got != 0xffff {
		t.Errorf("the largest sum and 0xffff is %#x", got)
	}
	if c := m.checksum(); c != 0xffff {
		t.Errorf("a checksum of zero is sent as %#x", c)
	}
	if c := (&summer{s: 0x1234}).checksum(); c != 0xedcb {
		t.Errorf("checksum %#x", c)
	}
}

func FuzzSum(f *testing.F) {
	f.Add([]byte{}, uint(0))
	f.Add([]byte{1}, uint(1))
	f.Add(make([]byte, 131), uint(65))
	f.Fuzz(func(t *testing.T, b []byte, cut uint) {
		var m summer
		k := int(cut % uint(len(b)+1))
		m.add(b[:k])
		m.add(b[k:])
		if got, want := fold(m.s), slowSum(b); !sameSum(got, want) {
			t.Errorf("sum %#04x, want %#04x", got, want)
		}
	})
}

func BenchmarkSum(b *testing.B) {
	p := make([]byte, 1460)
	b.SetBytes(int64(len(p)))
	s := uint64(0)
	for b.Loop() {
		s = sum(s, p)
	}
}
