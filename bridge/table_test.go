package bridge

import (
	"math/rand/v2"
	"sync"
	"testing"
)

func yes() bool { return true }

func TestTable(t *testing.T) {
	tab, want := newTable(5000), map[macAddr]uint32{}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 200000 {
		a := macAddr(r.Uint64N(8000))
		port := uint32(r.Uint64N(50))
		switch r.Uint64N(20) {
		case 0:
			tab.forget(func(p, _ uint32) bool { return p == port })
			for a, p := range want {
				if p == port {
					delete(want, a)
				}
			}
		default:
			from := uint32(0)
			what := tab.learn(a, port, uint32(i), yes, func(port uint32) { from = port })
			old, known := want[a]
			switch {
			case known && old == port && what == learnedSame:
			case known && old != port && what == learnedMove && from == old:
			case !known && len(want) < 5000 && what == learnedNew:
			case !known && len(want) == 5000 && what == learnedNoRoom:
				continue
			default:
				t.Fatalf("learn(%d, %d) = %v, %d; it was %v at %d, of %d", a, port, what, from, known, old, len(want))
			}
			want[a] = port
		}
		a = macAddr(r.Uint64N(8000))
		got, _, ok := tab.lookup(a)
		if p, known := want[a]; ok != known || ok && got != p {
			t.Fatalf("lookup(%d) = %d, %v, want %d, %v", a, got, ok, p, known)
		}
	}
	n := 0
	tab.each(func(a macAddr, port, _ uint32) {
		if n++; want[a] != port {
			t.Errorf("%d at %d", a, port)
		}
	})
	if n != len(want) {
		t.Errorf("%d stations, want %d", n, len(want))
	}
}

// Readers beside a writer see either what was or what is.
func TestTableBesides(t *testing.T) {
	tab := newTable(1 << 16)
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for a := macAddr(0); ; a = (a + 1) % 3000 {
				select {
				case <-done:
					return
				default:
				}
				if port, _, ok := tab.lookup(a); ok && port != uint32(a%100) {
					t.Errorf("%d is at %d", a, port)
					return
				}
				tab.refresh(a, uint32(a%100), 1)
			}
		})
	}
	for i := range 20 {
		for a := range macAddr(3000) {
			tab.learn(a, uint32(a%100), uint32(i), yes, func(uint32) {})
		}
		tab.forget(func(port, _ uint32) bool { return port%2 == 0 })
	}
	close(done)
	wg.Wait()
}

func TestMacAddr(t *testing.T) {
	b := [6]byte{1, 2, 3, 4, 5, 6}
	if a := macOf(b[:]); a != 0x010203040506 || a.bytes() != b || !a.multicast() {
		t.Errorf("%x %x", a, a.bytes())
	}
}
