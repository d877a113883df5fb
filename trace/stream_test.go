package trace

import (
	"testing"

	"github.com/ustack/ustack/link"
)

// segment is one with n bytes at seq.
func segment(seq uint32, flags uint8, n int) *packet {
	return &packet{proto: protoTCP, ports: true, seq: seq, flags: flags, l4: 34, tcpHead: 20, end: 54 + n}
}

func TestStream(t *testing.T) {
	var s stream
	hand := func(offset uint64, n int) bool {
		return s.depart(&link.Event{Step: link.StepSocketWrite, Offset: offset, Bytes: n})
	}
	expect := func(what string, p *packet, again bool, offsets ...uint64) {
		t.Helper()
		from, sent := s.send(p)
		ok := sent == again && len(from) == len(offsets)
		for i := range from {
			ok = ok && from[i].offset == offsets[i]
		}
		if !ok {
			t.Errorf("%s: from %+v, sent before %v; want the writes at %v", what, from, sent, offsets)
		}
	}
	if hand(0, 10) {
		t.Error("a connection that was there before is known")
	}
	expect("unknown connection", segment(5, tcpACK, 10), false)
	isn := uint32(0xffffff00) // the numbers go round
	expect("SYN", segment(isn-1, tcpSYN, 0), false)
	hand(0, 100)
	hand(100, 50)
	expect("one and a half", segment(isn, tcpACK, 120), false, 0, 100)
	expect("again", segment(isn, tcpACK, 120), true)
	expect("the rest", segment(isn+120, tcpACK, 30), false, 100)
	expect("ACK", segment(isn+150, tcpACK, 0), false)
	hand(150, 1000)
	hand(350, 100) // of the 1000 only 200 were taken
	expect("round", segment(isn+150, tcpACK, 250), false, 150, 350)
	expect("more than was handed over", segment(isn+400, tcpACK, 5000), false, 350)
	for range 2 * maxWrites {
		hand(10000, 1)
	}
	if len(s.writes) > maxWrites {
		t.Errorf("%d writes are remembered", len(s.writes))
	}
	expect("before the first", segment(isn-2000, tcpACK, 10), false)
}
