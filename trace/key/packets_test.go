package key

import (
	"testing"
	"time"
)

func TestPackets(t *testing.T) {
	var p Packets
	for i, step := range []struct {
		at    time.Duration
		key   Key
		place string
		want  uint64
		why   string
	}{
		{0, 7, "receive a", 1, "the first"},
		{1, 7, "queue b", 1, "the same, further on"},
		{1, 7, "", 1, "dropped there, say"},
		{2, 8, "receive a", 2, "another"},
		{3, 7, "queue c", 1, "a copy of it, by a flood"},
		{4, 7, "receive a", 3, "sent again"},
		{5, 7, "queue b", 3, "goes the same way"},
		{5, 7, "", 3, "any number of times"},
		{5, 7, "", 3, "any number of times"},
		{5 + defaultGap, 7, "", 3, "still in time"},
		{6 + 2*defaultGap, 7, "", 4, "too late"},
		{defaultGap, 7, "", 4, "told late, of before"},
	} {
		if got := p.See(step.at, step.key, step.place); got != step.want {
			t.Errorf("step %d, %s: packet %d, want %d", i, step.why, got, step.want)
		}
	}
	p.Join(9, 7)
	if got := p.See(6+2*defaultGap, 9, "queue d"); got != 4 {
		t.Errorf("with translated addresses: packet %d, want 4", got)
	}
	p.Join(10, 11) // of a packet that is not known
	if got := p.See(6+2*defaultGap, 10, ""); got != 5 {
		t.Errorf("joined to nothing: packet %d, want 5", got)
	}
}

// What is remembered is bounded, and what was just seen is among it.
func TestPacketsAreBounded(t *testing.T) {
	p := Packets{Gap: time.Hour}
	for i := range Key(5 * maxPackets) {
		first := p.See(0, i, "a")
		if again := p.See(0, i, "b"); again != first {
			t.Fatalf("packet %d was forgotten at once", i)
		}
	}
	if n := len(p.now) + len(p.before); n > 2*maxPackets {
		t.Errorf("%d packets are remembered", n)
	}
	for i := range 3 * maxPlaces {
		p.See(0, 1, string(rune('a'+i)))
	}
	if n := len(p.find(1).places); n > maxPlaces {
		t.Errorf("%d places are remembered", n)
	}
}
