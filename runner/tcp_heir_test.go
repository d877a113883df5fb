package runner

import (
	"testing"
	"time"
)

// A listener that another takes the place of loses what was in its queue, and nothing that was on the way.
func TestHeirOfDeliveries(t *testing.T) {
	l := &listening{
		name: "old", arrived: make(map[string]*arrival), delivering: make(map[string]bool), moved: make(chan struct{}),
		heldUntil: time.Now().Add(time.Hour),
	}
	sup := &supervisor{}
	var all [4]*arrival
	var names [4]string
	var to string
	for i := range all {
		all[i] = &arrival{sup: sup, spare: -1}
		names[i] = l.farName()
		to = l.expect(names[i], all[i])
	}
	queued, late, early, refused := all[0], all[1], all[2], all[3]
	l.arrives(names[0], to, false)
	moved := l.moved
	l.mu.Lock()
	lost, _ := l.moveTo(&tcp{}, "new")
	l.mu.Unlock()
	select {
	case <-moved:
	default:
		t.Error("nobody who waits was told")
	}
	if len(lost) != 1 || lost[0] != queued {
		t.Errorf("lost: %v of %v", lost, all)
	}
	if l.heldUntil.IsZero() {
		t.Error("held for nobody while three are on their way")
	}
	l.arrives(names[1], "new", false)
	l.arrives(names[2], "old", false) // into the queue that was about to be closed
	l.arrives(names[3], "", true)
	if l.arrived[names[1]] != late || late.abandoned {
		t.Error("what came to the heir is lost")
	}
	if l.arrived[names[2]] != nil || !early.abandoned {
		t.Error("what was closed with the old one is kept")
	}
	if l.arrived[names[3]] != nil || refused.abandoned {
		t.Error("what nobody took is kept, or given up twice")
	}
	if len(l.delivering) != 0 || !l.heldUntil.IsZero() {
		t.Errorf("on the way still: %v, until %v", l.delivering, l.heldUntil)
	}
}
