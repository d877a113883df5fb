package capture

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ustack/ustack/capture/filter"
	"github.com/ustack/ustack/link"
)

// A Point is a Device whose frames can be captured. It passes everything on to the Device
// within, which it owns, and states what that does. While there are captures, frames are written
// one at a time, so that it is known which one the wire did not take.
//
// What a reader sets in Frame.Drop is recorded: it is looked at in the next Read of
// the queue, and with it ends the Point's use of the slice given to the last one.
type Point struct {
	link.Device
	queues []link.Queue
	seats  atomic.Pointer[[]*seat]

	mu sync.Mutex // held to change seats
	// Of drops on the way out; guarded by dropMu.
	dropMu sync.Mutex
	drops  map[string]uint64 // the device's counters when they were last looked at
	reason string            // what had been counted then

	heads sync.Pool // of *[headBytes]byte
}

// A seat is one capture at a point.
type seat struct {
	c    *Capture
	link int // index of the point among the capture's
}

// Wrap returns a Point around dev.
func Wrap(dev link.Device) *Point {
	p := &Point{Device: dev}
	p.heads.New = func() any { return new([headBytes]byte) }
	for i, q := range dev.Queues() {
		p.queues = append(p.queues, &queue{p: p, inner: q, number: i})
	}
	return p
}

// Queues implements link.Device.
func (p *Point) Queues() []link.Queue { return p.queues }

func (p *Point) add(s *seat) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var now []*seat
	if was := p.seats.Load(); was != nil {
		now = slices.Clone(*was)
	}
	if len(now) == MaxCaptures {
		return fmt.Errorf("capture: %s has %d captures already: end one of them first", p.Info().Name, MaxCaptures)
	}
	if len(now) == 0 {
		p.dropMu.Lock()
		p.drops, p.reason = p.Stats().Drops, ""
		p.dropMu.Unlock()
		if t, ok := p.Device.(link.DropTeller); ok {
			t.TellDrops(p.lost)
		}
	}
	now = append(now, s)
	p.seats.Store(&now)
	return nil
}

func (p *Point) remove(c *Capture) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.seats.Load()
	if was == nil {
		return
	}
	now := slices.DeleteFunc(slices.Clone(*was), func(s *seat) bool { return s.c == c })
	if len(now) > 0 {
		p.seats.Store(&now)
		return
	}
	p.seats.Store(nil)
	if t, ok := p.Device.(link.DropTeller); ok {
		t.TellDrops(nil)
	}
}

// lost records a frame that the device drops on its way in.
func (p *Point) lost(why link.Drop, frame []byte) {
	seats := p.seats.Load()
	if seats == nil {
		return
	}
	piece := [1][]byte{frame}
	f := frameInfo{at: time.Now(), in: true, n: len(frame), pieces: piece[:], head: frame}
	for _, s := range *seats {
		if e := s.begin(&f); e.slot != nil {
			e.end(why.String())
		}
	}
}

// whyLost returns the counter under which the device has just dropped a frame that was
// written, or several that may be meant.
func (p *Point) whyLost() string {
	now := p.Stats().Drops
	p.dropMu.Lock()
	defer p.dropMu.Unlock()
	var changed []string
	for name, n := range now {
		if strings.HasPrefix(name, "tx_") && n != p.drops[name] {
			changed = append(changed, name)
		}
	}
	p.drops = now
	// Another goroutine may have looked in between: then it is what that one saw.
	if len(changed) > 0 {
		slices.Sort(changed)
		p.reason = strings.Join(changed, " or ")
	} else if p.reason == "" {
		return "unknown"
	}
	return p.reason
}

// A frameInfo is what all captures are told of a frame.
type frameInfo struct {
	at      time.Time
	queue   int
	in      bool
	offload link.Offload
	n       int
	pieces  [][]byte
	// head is the whole frame or its first headBytes, for filters.
	head []byte
}

// An entry is a record that is not complete yet.
type entry struct {
	c    *Capture
	slot *slot
	at   int // index of the frame in its Read
	// Whether it is wanted if the frame is passed on, and if it is dropped.
	passed, dropped bool
}

// begin records a frame whose verdict is not known. The slot of the result is nil if it is
// not wanted, or there is no room.
func (s *seat) begin(f *frameInfo) entry {
	c := s.c
	e := entry{c: c, passed: true, dropped: true}
	if c.cfg.Filter != nil {
		m := filter.Meta{In: f.in, WireLen: f.n}
		e.passed = c.cfg.Filter.Match(m, f.head)
		if e.dropped = e.passed; c.cfg.Filter.NeedsVerdict() {
			m.Dropped = true
			e.dropped = c.cfg.Filter.Match(m, f.head)
		}
		if !e.passed && !e.dropped {
			return e
		}
	}
	keep := min(f.n, c.cfg.SnapLen)
	slot := c.ring.reserve(keep)
	if slot == nil {
		c.counts[s.link].matched.Add(1)
		c.counts[s.link].dropped.Add(1)
		return e
	}
	r := &slot.rec
	r.Time, r.Link, r.Queue, r.In, r.Len, r.Offload = f.at, s.link, f.queue, f.in, f.n, f.offload
	for at, i := 0, 0; at < keep; i++ {
		at += copy(r.Data[at:], f.pieces[i])
	}
	e.slot = slot
	return e
}

// end completes a record; drop is "" for a frame that was passed on.
func (e *entry) end(drop string) {
	wanted := e.passed
	if drop != "" {
		wanted, e.slot.rec.Drop = e.dropped, drop
	}
	if !wanted {
		e.c.ring.settle(e.slot, void)
		return
	}
	e.c.counts[e.slot.rec.Link].matched.Add(1)
	e.c.ring.settle(e.slot, committed)
}

// headBytes is how much filters see of a frame that is not in one piece.
const headBytes = 2048

// gather copies the beginning of a frame together.
func gather(buf *[headBytes]byte, pieces [][]byte) (head []byte) {
	n := 0
	for _, piece := range pieces {
		n += copy(buf[n:], piece)
	}
	return buf[:n]
}
