package stack

import (
	"net"
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A pollable is an endpoint on which goroutines can wait: what all sockets have
// in common.
type pollable struct {
	options
	wq *waiter.Queue

	readable, writable          chan struct{} // capacity 1, a token for each change
	readEntry, writeEntry       waiter.Entry
	readDeadline, writeDeadline *deadline
	ended                       <-chan struct{} // closed when the Stack is
	closeOnce                   sync.Once
	closed                      chan struct{}
}

// init registers for the endpoint's events. It must be followed by release. ended
// is closed when the Stack is, which ends all waiting too.
func (p *pollable) init(ep tcpip.Endpoint, wq *waiter.Queue, ended <-chan struct{}) {
	p.options, p.wq, p.ended = options{ep: ep}, wq, ended
	p.readable, p.writable = make(chan struct{}, 1), make(chan struct{}, 1)
	p.readDeadline, p.writeDeadline = newDeadline(), newDeadline()
	p.closed = make(chan struct{})
	p.readEntry = waiter.NewFunctionEntry(waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr, wake(p.readable))
	p.writeEntry = waiter.NewFunctionEntry(waiter.WritableEvents|waiter.EventHUp|waiter.EventErr, wake(p.writable))
	wq.EventRegister(&p.readEntry)
	wq.EventRegister(&p.writeEntry)
}

func wake(c chan struct{}) func(waiter.EventMask) {
	return func(waiter.EventMask) {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// release ends all waiting, once; end is what is done to the endpoint. The
// result is false if another call was first.
func (p *pollable) release(end func()) bool {
	first := false
	p.closeOnce.Do(func() {
		first = true
		close(p.closed)
		p.wq.EventUnregister(&p.readEntry)
		p.wq.EventUnregister(&p.writeEntry)
		p.readDeadline.set(time.Time{})
		p.writeDeadline.set(time.Time{})
		end()
	})
	return first
}

// Errors of waiting: net.ErrClosed, or os.ErrDeadlineExceeded.

// waitRead returns nil when it is worth to try reading again.
func (p *pollable) waitRead() error { return p.wait(p.readable, p.readDeadline) }

// waitWrite returns nil when it is worth to try writing again.
func (p *pollable) waitWrite() error { return p.wait(p.writable, p.writeDeadline) }

func (p *pollable) wait(ready <-chan struct{}, d *deadline) error {
	select {
	case <-ready:
		return nil
	case <-d.wait():
		return os.ErrDeadlineExceeded
	case <-p.closed:
		return net.ErrClosed
	case <-p.ended:
		return net.ErrClosed
	}
}

// isClosed reports whether this socket or its Stack was closed.
func (p *pollable) isClosed() bool { return isClosed(p.closed) || isClosed(p.ended) }

// check returns the error of an operation that must not even be tried.
func (p *pollable) check(d *deadline) error {
	if p.isClosed() {
		return net.ErrClosed
	}
	select {
	case <-d.wait():
		return os.ErrDeadlineExceeded
	default:
		return nil
	}
}

// SetDeadline sets both deadlines; see net.Conn.
func (p *pollable) SetDeadline(t time.Time) error {
	if err := p.SetReadDeadline(t); err != nil {
		return err
	}
	return p.SetWriteDeadline(t)
}

// SetReadDeadline sets the deadline of reads, those that wait already included.
func (p *pollable) SetReadDeadline(t time.Time) error { return p.setDeadline(p.readDeadline, t) }

// SetWriteDeadline sets the deadline of writes, those that wait already included.
func (p *pollable) SetWriteDeadline(t time.Time) error { return p.setDeadline(p.writeDeadline, t) }

func (p *pollable) setDeadline(d *deadline, t time.Time) error {
	if isClosed(p.closed) {
		return &net.OpError{Op: "set", Net: "ustack", Err: net.ErrClosed}
	}
	d.set(t)
	return nil
}
