package control

import (
	"context"
	"net"
	"sync"
)

// An acceptor shares a listener among accept requests that can be cancelled. It
// accepts only while one waits, so the backlog stays the stack's.
type acceptor struct {
	lis Listener

	mu      sync.Mutex
	waiting []chan accepted
	running bool
	held    Conn // came after the last request had been cancelled
	closed  bool
	wg      sync.WaitGroup
}

type accepted struct {
	conn Conn
	err  error
}

func (a *acceptor) accept(ctx context.Context) (Conn, error) {
	ch := make(chan accepted, 1)
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil, net.ErrClosed
	}
	if c := a.held; c != nil {
		a.held = nil
		a.mu.Unlock()
		return c, nil
	}
	a.waiting = append(a.waiting, ch)
	if !a.running {
		a.running = true
		a.wg.Add(1)
		go a.loop()
	}
	a.mu.Unlock()
	select {
	case r := <-ch:
		return r.conn, r.err
	case <-ctx.Done():
	}
	a.mu.Lock()
	for i, w := range a.waiting {
		if w == ch {
			a.waiting = append(a.waiting[:i], a.waiting[i+1:]...)
			a.mu.Unlock()
			return nil, ctx.Err()
		}
	}
	a.mu.Unlock()
	r := <-ch // it was served meanwhile
	if r.conn != nil {
		a.putBack(r.conn)
	}
	return nil, ctx.Err()
}

// putBack keeps a connection for the next request.
func (a *acceptor) putBack(c Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !a.closed && len(a.waiting) > 0:
		a.waiting[0] <- accepted{conn: c}
		a.waiting = a.waiting[1:]
	case !a.closed && a.held == nil:
		a.held = c
	default:
		c.Abort()
	}
}

func (a *acceptor) loop() {
	defer a.wg.Done()
	for {
		c, err := a.lis.Accept()
		a.mu.Lock()
		switch {
		case err != nil && a.closed:
			a.running = false
			a.mu.Unlock()
			return
		case err != nil:
			// Every request hears of it: what ends a listener ends it for all.
			for _, w := range a.waiting {
				w <- accepted{err: err}
			}
			a.waiting = nil
		case len(a.waiting) > 0:
			a.waiting[0] <- accepted{conn: c}
			a.waiting = a.waiting[1:]
		case a.closed || a.held != nil:
			c.Abort()
		default:
			a.held = c
		}
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
	for _, w := range a.waiting {
		w <- accepted{err: net.ErrClosed}
	}
	a.waiting = nil
	held := a.held
	a.held = nil
	a.mu.Unlock()
	a.lis.Close()
	if held != nil {
		held.Abort()
	}
	a.wg.Wait()
}
