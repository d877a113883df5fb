package runner

import (
	"sync"
	"time"
)

// heldCalls are the calls that wait for something to happen. A thread makes one call at a
// time, so another one of the same thread says that a signal has ended the first.
type heldCalls struct {
	mu    sync.Mutex
	byTID map[int]*heldCall
}

// A heldCall is a call that waits; gone is closed when nobody waits for its answer any more.
type heldCall struct {
	c    *call
	gone chan struct{}
	// flags are accept4's.
	flags int
	timer *time.Timer // of its timeout, if it has one
}

// hold registers a call.
func (h *heldCalls) hold(c *call) *heldCall {
	held := &heldCall{c: c, gone: make(chan struct{})}
	c.sup.restarts.wait(c)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byTID == nil {
		h.byTID = make(map[int]*heldCall)
	}
	if old := h.byTID[c.tid]; old != nil {
		c.sup.restarts.waited(old.c)
		close(old.gone)
	}
	h.byTID[c.tid] = held
	return held
}

// done takes a call out that is about to be answered.
func (h *heldCalls) done(held *heldCall) {
	held.c.sup.restarts.waited(held.c)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byTID[held.c.tid] == held {
		delete(h.byTID, held.c.tid)
	}
}

// drop ends the call of a thread.
func (h *heldCalls) drop(tid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.byTID[tid]; old != nil {
		old.c.sup.restarts.waited(old.c)
		close(old.gone)
		delete(h.byTID, tid)
	}
}

// dropAll ends all calls; dropGone those that nobody waits for any more.
func (h *heldCalls) dropAll()  { h.dropIf(func(*call) bool { return true }) }
func (h *heldCalls) dropGone() { h.dropIf(func(c *call) bool { return !c.valid() }) }

func (h *heldCalls) dropIf(gone func(*call) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for tid, held := range h.byTID {
		if gone(held.c) {
			held.c.sup.restarts.waited(held.c)
			close(held.gone)
			delete(h.byTID, tid)
		}
	}
}

func (h *heldCalls) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.byTID)
}
