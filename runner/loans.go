package runner

import (
	"slices"
	"sync"
	"time"
)

// loans are the duplicates of the program's descriptors that the supervisor works with outside of its loop.
// While there is one of a socket that the program has closed, the socket is there still.
type loans struct {
	mu   sync.Mutex
	open []*loan // of each time that somebody waited, and since
}

// A loan counts what was borrowed since somebody waited last.
type loan struct {
	n      int
	closed bool          // it counts no more
	over   chan struct{} // closed when all is given back that a closed one counts
}

func (l *loans) borrow() *loan {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.open); n == 0 || l.open[n-1].closed {
		l.open = append(l.open, &loan{over: make(chan struct{})})
	}
	b := l.open[len(l.open)-1]
	b.n++
	return b
}

func (l *loans) giveBack(b *loan) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.n--; b.n > 0 {
		return
	}
	l.open = slices.DeleteFunc(l.open, func(other *loan) bool { return other == b })
	close(b.over)
}

// wait waits until all is given back that is borrowed now, or for a time.
func (l *loans) wait(atMost time.Duration) {
	l.mu.Lock()
	open := slices.Clone(l.open)
	for _, b := range open {
		b.closed = true
	}
	l.mu.Unlock()
	var all []<-chan struct{}
	for _, b := range open {
		all = append(all, b.over)
	}
	waitAll(all, atMost)
}

// closings are flows of datagrams that the daemon was asked to close. It first sends what the program has
// written; until then the port is taken. The supervisor's loop, which reads of their ends, must not wait for them.
type closings struct {
	mu    sync.Mutex
	ended []<-chan struct{}
}

func (c *closings) add(ended <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = append(slices.DeleteFunc(c.ended, isOver), ended)
}

// wait waits until they have all ended, or for a time.
func (c *closings) wait(atMost time.Duration) {
	c.mu.Lock()
	all := slices.Clone(c.ended)
	c.mu.Unlock()
	waitAll(all, atMost)
}

func isOver(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func waitAll(all []<-chan struct{}, atMost time.Duration) {
	if len(all) == 0 {
		return
	}
	t := time.NewTimer(atMost)
	defer t.Stop()
	for _, done := range all {
		select {
		case <-done:
		case <-t.C:
			return
		}
	}
}
