package runner

import (
	"sync"
	"time"
)

// laters are what the sweeper does for TCP sockets when it comes by: a timer for each would wake a thread.
type laters struct {
	mu     sync.Mutex
	dials  map[*dialing]*tcp // that are under way
	unsent []*tcp            // with options that the daemon has to hear of
}

// dialling registers a dial until it is over.
func (l *laters) dialling(d *dialing, t *tcp) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dials == nil {
		l.dials = make(map[*dialing]*tcp)
	}
	l.dials[d] = t
}

func (l *laters) dialled(d *dialing) {
	l.mu.Lock()
	delete(l.dials, d)
	l.mu.Unlock()
}

// options registers a socket whose options may wait.
func (l *laters) options(t *tcp) {
	l.mu.Lock()
	l.unsent = append(l.unsent, t)
	l.mu.Unlock()
}

// do passes options on, and cancels dials whose sockets the program has closed.
func (l *laters) do() {
	l.mu.Lock()
	unsent := l.unsent
	l.unsent = nil
	long := make(map[*dialing]*tcp)
	for d, t := range l.dials {
		if time.Since(d.began) >= watchTime {
			long[d] = t
		}
	}
	l.mu.Unlock()
	for _, t := range unsent {
		t.flushOptions()
	}
	for d, t := range long {
		t.watch(d)
	}
}
