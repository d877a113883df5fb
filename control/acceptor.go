package control

import (
	"net"
	"slices"
	"sync"
)

// An acceptor shares a listener among accept requests that can be cancelled. It
// accepts only while one waits, so the backlog stays the stack's.
type acceptor struct {
	lis Listener

	mu      sync.Mutex
	waiting []*acceptWait
	running bool
	held    Conn // came after the last request had been cancelled
	closed  bool
	wg      sync.WaitGroup
}

// An acceptWait is a request that waits for a connection. then is called once, unless forget was
// before it, by a goroutine that serves all requests in their order.
type acceptWait struct {
	then func(Conn, error)
	over bool // of the acceptor's mu
}

// accept lets w wait. What is there already it gets at once.
func (a *acceptor) accept(w *acceptWait) {
	a.mu.Lock()
	switch {
	case w.over:
		a.mu.Unlock()
		return
	case a.closed:
		w.over = true
		a.mu.Unlock()
		w.then(nil, net.ErrClosed)
		return
	case a.held != nil:
		c := a.held
		a.held, w.over = nil, true
		a.mu.Unlock()
		w.then(c, nil)
		return
	case a.running:
		a.waiting = append(a.waiting, w)
		a.mu.Unlock()
		return
	}
	a.running = true
	if t, ok := a.lis.(TryListener); ok {
		if c, err := t.TryAccept(); c != nil || err != nil {
			w.over = true
			a.mu.Unlock()
			w.then(c, err)
			a.mu.Lock()
			if len(a.waiting) == 0 {
				a.running = false
				a.mu.Unlock()
				return
			}
			a.startLoop()
			a.mu.Unlock()
			return
		}
	}
	a.waiting = append(a.waiting, w)
	a.startLoop()
	a.mu.Unlock()
}

func (a *acceptor) startLoop() {
	a.wg.Add(1)
	go a.loop()
}

// forget takes a request back, and says whether it was in time.
func (a *acceptor) forget(w *acceptWait) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w.over {
		return false
	}
	w.over = true
	a.waiting = slices.DeleteFunc(a.waiting, func(other *acceptWait) bool { return other == w })
	return true
}

func (a *acceptor) loop() {
	defer a.wg.Done()
	for {
		c, err := a.lis.Accept()
		a.mu.Lock()
		var got []*acceptWait
		switch {
		case err != nil:
			// Every request hears of it: what ends a listener ends it for all.
			got, a.waiting = a.waiting, nil
		case len(a.waiting) > 0:
			got, a.waiting = a.waiting[:1:1], a.waiting[1:]
		case a.closed || a.held != nil:
			c.Abort()
		default:
			a.held = c
		}
		for _, w := range got {
			w.over = true
		}
		a.mu.Unlock()
		for _, w := range got {
			w.then(c, err)
		}
		a.mu.Lock()
		if len(a.waiting) == 0 {
			a.running = false
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
	}
}

// close ends the listener and whoever waits on it.
func (a *acceptor) close() {
	a.mu.Lock()
	a.closed = true
	waiting, held := a.waiting, a.held
	a.waiting, a.held = nil, nil
	for _, w := range waiting {
		w.over = true
	}
	a.mu.Unlock()
	for _, w := range waiting {
		w.then(nil, net.ErrClosed)
	}
	a.lis.Close()
	if held != nil {
		held.Abort()
	}
	a.wg.Wait()
}
