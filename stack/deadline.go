package stack

import (
	"sync"
	"time"
)

// A deadline is a point in time after which waiting ends. The zero value is none.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	expired chan struct{} // closed once the deadline has passed; nil before the first
}

// set moves the deadline; the zero Time removes it. Those who wait already have to
// be told, see side.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.expired // the timer's function runs: let it finish
	}
	d.timer = nil
	if t.IsZero() {
		d.expired = nil
		return
	}
	if d.expired == nil || isClosed(d.expired) {
		d.expired = make(chan struct{})
	}
	expired := d.expired
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(expired) })
	} else {
		close(expired)
	}
}

// wait returns a channel that is closed when the deadline passes; nil without one.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expired
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
