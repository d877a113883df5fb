package stack

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A pollable is an endpoint on which goroutines can wait: what all sockets have
// in common. There are many of them, so it makes nothing before it is needed.
type pollable struct {
	options
	wq *waiter.Queue

	reading, writing side
	ended            <-chan struct{} // closed when the Stack is
	shut             atomic.Bool     // release was called
}

// A side is where one goroutine at a time waits to read, or to write.
type side struct {
	mu       sync.Mutex
	ready    chan struct{} // capacity 1, a token for each change; nil before the first wait
	entry    waiter.Entry
	deadline deadline
}

// init prepares p, which must be followed by release. ended is closed when the
// Stack is, which ends all waiting too.
func (p *pollable) init(ep tcpip.Endpoint, wq *waiter.Queue, ended <-chan struct{}) {
	p.options, p.wq, p.ended = options{ep: ep}, wq, ended
}

// await returns the channel of tokens. It is new at the first call, and the
// condition must be looked at again: changes before it left no token.
func (s *side) await(wq *waiter.Queue, mask waiter.EventMask) (ready chan struct{}, isNew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready != nil {
		return s.ready, false
	}
	s.ready = make(chan struct{}, 1)
	s.entry.Init(waiter.ChannelNotifier(s.ready), mask|waiter.EventHUp|waiter.EventErr)
	wq.EventRegister(&s.entry)
	return s.ready, true
}

// kick makes whoever waits look again.
func (s *side) kick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.ready <- struct{}{}:
	default: // a token is there, or nobody has ever waited
	}
}

func (s *side) setDeadline(t time.Time) {
	s.deadline.set(t)
	s.kick()
}

func (s *side) release(wq *waiter.Queue) {
	s.setDeadline(time.Time{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready != nil {
		wq.EventUnregister(&s.entry)
	}
}

// release ends all waiting, once; end is what is done to the endpoint. The
// result is false if another call was first.
func (p *pollable) release(end func()) bool {
	if !p.shut.CompareAndSwap(false, true) {
		return false
	}
	p.reading.release(p.wq)
	p.writing.release(p.wq)
	end()
	return true
}

// Errors of waiting: net.ErrClosed, or os.ErrDeadlineExceeded.

// waitRead returns nil when it is worth to try reading again.
func (p *pollable) waitRead() error { return p.wait(&p.reading, waiter.ReadableEvents) }

// waitWrite returns nil when it is worth to try writing again.
func (p *pollable) waitWrite() error { return p.wait(&p.writing, waiter.WritableEvents) }

func (p *pollable) wait(s *side, mask waiter.EventMask) error {
	ready, isNew := s.await(p.wq, mask)
	if p.shut.Load() {
		return net.ErrClosed
	}
	if isNew {
		return nil
	}
	select {
	case <-ready:
		return nil
	case <-s.deadline.wait():
		return os.ErrDeadlineExceeded
	case <-p.ended:
		return net.ErrClosed
	}
}

// isClosed reports whether this socket or its Stack was closed.
func (p *pollable) isClosed() bool { return p.shut.Load() || isClosed(p.ended) }

// checkRead returns the error of a read that must not even be tried.
func (p *pollable) checkRead() error { return p.check(&p.reading) }

// checkWrite returns the error of a write that must not even be tried.
func (p *pollable) checkWrite() error { return p.check(&p.writing) }

func (p *pollable) check(s *side) error {
	if p.isClosed() {
		return net.ErrClosed
	}
	if isClosed(s.deadline.wait()) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// SetDeadline sets both deadlines; see net.Conn.
func (p *pollable) SetDeadline(t time.Time) error {
	if err := p.SetReadDeadline(t); err != nil {
		return err
	}
	return p.SetWriteDeadline(t)
}

// SetReadDeadline sets the deadline of reads, those that wait already included.
func (p *pollable) SetReadDeadline(t time.Time) error { return p.setDeadline(&p.reading, t) }

// SetWriteDeadline sets the deadline of writes, those that wait already included.
func (p *pollable) SetWriteDeadline(t time.Time) error { return p.setDeadline(&p.writing, t) }

func (p *pollable) setDeadline(s *side, t time.Time) error {
	if p.shut.Load() {
		return &net.OpError{Op: "set", Net: "ustack", Err: net.ErrClosed}
	}
	s.setDeadline(t)
	return nil
}
