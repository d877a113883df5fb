package kernel

import (
	"container/heap"
	"time"
)

// Window is how long Read holds an event back for an earlier one from another CPU.
// Between taking the time and a place in the ring a CPU may serve an interrupt,
// so that the order of places is not quite the order of times.
const Window = 2 * time.Millisecond

// maxHeld bounds what is held back; a reader that is behind gets the oldest of
// these at once, and among so many the order is right.
const maxHeld = 4096

// order sorts events by time within Window.
type order struct {
	held held
	seq  uint64
}

// add takes an event in.
func (o *order) add(e Event) {
	o.seq++
	heap.Push(&o.held, entry{e, o.seq})
}

// next returns the oldest event once it is old enough at now. Otherwise it returns
// until when one has to wait for another one; zero if there is none.
func (o *order) next(now time.Duration) (Event, time.Time, bool) {
	if len(o.held) == 0 {
		return Event{}, time.Time{}, false
	}
	left := o.held[0].event.Mono + Window - now
	if left > 0 && len(o.held) < maxHeld {
		// A time ahead of the clock must not hold anything up.
		return Event{}, time.Now().Add(min(left, Window)), false
	}
	return heap.Pop(&o.held).(entry).event, time.Time{}, true
}

type entry struct {
	event Event
	seq   uint64 // arrival, among events of the same time
}

// held is a heap.Interface: the oldest event first.
type held []entry

func (h held) Len() int { return len(h) }
func (h held) Less(i, j int) bool {
	if h[i].event.Mono != h[j].event.Mono {
		return h[i].event.Mono < h[j].event.Mono
	}
	return h[i].seq < h[j].seq
}
func (h held) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *held) Push(x any)   { *h = append(*h, x.(entry)) }
func (h *held) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = entry{}
	*h = (*h)[:last]
	return e
}
