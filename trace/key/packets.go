package key

import (
	"slices"
	"time"
)

// Packets numbers the packets that are seen at several places, by their Keys. The zero
// value is ready. It is for one goroutine.
type Packets struct {
	// Gap is for how long a packet may be out of sight; later its Key is that of
	// another one. 0 means 2 s.
	Gap time.Duration

	last        uint64
	now, before map[Key]*packet // two generations, so that the oldest can be forgotten
}

type packet struct {
	number uint64
	seen   time.Duration
	places []string
}

const (
	defaultGap = 2 * time.Second
	// maxPackets bounds a generation, maxPlaces what is kept of one packet.
	maxPackets = 16384
	maxPlaces  = 64
)

// See returns the number of the packet with a Key that is seen at a time, counting
// from 1. A packet passes each place once: seen there again it is another one, sent
// again or going in a circle. An empty place may be passed any number of times.
func (p *Packets) See(at time.Duration, k Key, place string) uint64 {
	pk := p.find(k)
	if pk == nil || at-pk.seen > p.gap() || place != "" && slices.Contains(pk.places, place) {
		p.last++
		pk = &packet{number: p.last, seen: at}
		p.put(k, pk)
	}
	pk.seen = max(pk.seen, at)
	if place != "" && len(pk.places) < maxPlaces {
		pk.places = append(pk.places, place)
	}
	return pk.number
}

// Join says that the packet with a Key goes on with another one: its addresses were
// translated.
func (p *Packets) Join(other, k Key) {
	if pk := p.find(k); pk != nil && p.find(other) != pk {
		p.put(other, pk)
	}
}

func (p *Packets) gap() time.Duration {
	if p.Gap == 0 {
		return defaultGap
	}
	return p.Gap
}

func (p *Packets) find(k Key) *packet {
	if pk, ok := p.now[k]; ok {
		return pk
	}
	return p.before[k]
}

func (p *Packets) put(k Key, pk *packet) {
	if p.now == nil || len(p.now) >= maxPackets {
		p.now, p.before = make(map[Key]*packet), p.now
	}
	p.now[k] = pk
}
