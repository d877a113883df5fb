package bridge

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/ustack/ustack/link"
)

// A macAddr is an Ethernet address in the lower 48 bits.
type macAddr uint64

func macOf(b []byte) macAddr {
	return macAddr(binary.BigEndian.Uint32(b))<<16 | macAddr(binary.BigEndian.Uint16(b[4:]))
}

func (a macAddr) bytes() [6]byte {
	return [6]byte{byte(a >> 40), byte(a >> 32), byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}
}

// multicast says whether the group bit is set (IEEE 802, clause 8.2.2).
func (a macAddr) multicast() bool { return a>>40&1 != 0 }

// A table is where stations were last seen: a hash table with open addressing, whose
// readers take no lock. A slot is two words: the station, and where and when.
type table struct {
	most int // stations

	slots atomic.Pointer[slots]

	// mu is held by whoever changes which stations there are, or where.
	mu   sync.Mutex
	n    int // stations
	dead int // slots of stations that were forgotten
}

type slots struct {
	// The multiplier of the hash is random, so that nobody can choose addresses that collide.
	mul, shift uint64
	slot       []slot
}

type slot struct {
	key atomic.Uint64 // the station's address + keyBias; 0: never used, 1: forgotten
	val atomic.Uint64 // port << 32 | when, in seconds of the bridge's clock
}

const (
	keyNone = 0
	keyDead = 1
	keyBias = 2
	// maxProbe is how far from its place a station may be.
	maxProbe = 64
	minSlots = 256
)

func newTable(most int) *table {
	t := &table{most: most}
	t.slots.Store(newSlots(minSlots))
	return t
}

func newSlots(n int) *slots {
	return &slots{mul: rand.Uint64() | 1, shift: uint64(64 - bits.Len(uint(n-1))), slot: make([]slot, n)}
}

func (s *slots) home(key uint64) uint64 { return key * s.mul >> s.shift }

// find returns the station's slot, or nil.
func (s *slots) find(a macAddr) *slot {
	key := uint64(a) + keyBias
	mask := uint64(len(s.slot) - 1)
	for i, n := s.home(key), 0; n < maxProbe; i, n = (i+1)&mask, n+1 {
		e := &s.slot[i&mask]
		switch e.key.Load() {
		case key:
			return e
		case keyNone:
			return nil
		}
	}
	return nil
}

// touchFrom is the number of slots from which a table does not fit the processor's nearest caches.
const touchFrom = 1 << 15

// touch lets the processor fetch the places of many stations at once, where lookups one after the other
// would wait for memory each time.
func (t *table) touch(frames []link.Frame) {
	s := t.slots.Load()
	if len(s.slot) < touchFrom {
		return
	}
	for i := range frames {
		b := frames[i].Buf
		s.slot[s.home(uint64(macOf(b))+keyBias)].key.Load()
		s.slot[s.home(uint64(macOf(b[6:]))+keyBias)].key.Load()
	}
}

// lookup returns where and when a station was last seen.
func (t *table) lookup(a macAddr) (port, when uint32, ok bool) {
	e := t.slots.Load().find(a)
	if e == nil {
		return 0, 0, false
	}
	v := e.val.Load()
	if e.key.Load() != uint64(a)+keyBias { // given to another meanwhile
		return 0, 0, false
	}
	return uint32(v >> 32), uint32(v), true
}

// refresh notes that a station is still at a port. It returns false if it is not known there.
func (t *table) refresh(a macAddr, port, now uint32) bool {
	e := t.slots.Load().find(a)
	if e == nil {
		return false
	}
	v := e.val.Load()
	if uint32(v>>32) != port || e.key.Load() != uint64(a)+keyBias {
		return false
	}
	if uint32(v) != now {
		// Where the slot was given to another in this moment, that one was seen there now, too.
		e.val.CompareAndSwap(v, uint64(port)<<32|uint64(now))
	}
	return true
}

// A learned says what learn did.
type learned int

const (
	learnedSame   learned = iota // it was known there
	learnedNoRoom                // neither the table nor the port has room for another
	learnedNew
	learnedMove
)

// learn puts a station at a port. room is asked, under the table's lock, for a place for one more at
// the port, which is taken with that; left is told, under the same lock, the port that the station was
// at until then.
func (t *table) learn(a macAddr, port, now uint32, room func() bool, left func(port uint32)) learned {
	t.mu.Lock()
	defer t.mu.Unlock()
	val := uint64(port)<<32 | uint64(now)
	if e := t.slots.Load().find(a); e != nil {
		from := uint32(e.val.Load() >> 32)
		if from == port {
			e.val.Store(val)
			return learnedSame
		}
		if !room() {
			return learnedNoRoom
		}
		e.val.Store(val)
		left(from)
		return learnedMove
	}
	if t.n >= t.most || !room() {
		return learnedNoRoom
	}
	s := t.slots.Load()
	if 2*(t.n+t.dead+1) > len(s.slot) {
		s = t.rebuild(t.n + 1)
	}
	for !s.put(a, val) {
		s = t.rebuild(2 * len(s.slot)) // that many addresses at one place happens to no random multiplier
	}
	t.n++
	return learnedNew
}

// put takes a free slot for a station that has none. Slots of the forgotten are not taken again: a
// reader may be about to refresh one.
func (s *slots) put(a macAddr, val uint64) bool {
	key := uint64(a) + keyBias
	mask := uint64(len(s.slot) - 1)
	for i, n := s.home(key), 0; n < maxProbe; i, n = (i+1)&mask, n+1 {
		e := &s.slot[i&mask]
		if e.key.Load() == keyNone {
			e.val.Store(val)
			e.key.Store(key)
			return true
		}
	}
	return false
}

// rebuild makes other slots, with room for n stations at least. mu is held.
func (t *table) rebuild(n int) *slots {
	old := t.slots.Load()
	for size := max(minSlots, 1<<bits.Len(uint(3*n-1))); ; size *= 2 {
		s := newSlots(size)
		if s.copyFrom(old) {
			t.dead = 0
			t.slots.Store(s)
			return s
		}
	}
}

func (s *slots) copyFrom(old *slots) bool {
	for i := range old.slot {
		e := &old.slot[i]
		if key := e.key.Load(); key >= keyBias && !s.put(macAddr(key-keyBias), e.val.Load()) {
			return false
		}
	}
	return true
}

// forget removes the stations that gone says are, and calls it under the table's lock.
func (t *table) forget(gone func(port, when uint32) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.slots.Load()
	for i := range s.slot {
		e := &s.slot[i]
		if e.key.Load() < keyBias {
			continue
		}
		if v := e.val.Load(); gone(uint32(v>>32), uint32(v)) {
			e.key.Store(keyDead)
			t.n--
			t.dead++
		}
	}
	if t.n == 0 && t.dead > minSlots {
		t.rebuild(1)
	}
}

// clear forgets all stations.
func (t *table) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n, t.dead = 0, 0
	t.slots.Store(newSlots(minSlots))
}

// each calls f for every station.
func (t *table) each(f func(a macAddr, port, when uint32)) {
	s := t.slots.Load()
	for i := range s.slot {
		e := &s.slot[i]
		if key := e.key.Load(); key >= keyBias {
			v := e.val.Load()
			f(macAddr(key-keyBias), uint32(v>>32), uint32(v))
		}
	}
}
