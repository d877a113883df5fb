package control

import (
	"sync"
	"syscall"
	"time"
)

// soonTime is how long a message that nobody is in a hurry for waits for others, to go with them.
const soonTime = 5 * time.Millisecond

// An outbox sends the messages of a session in order. Whoever has one writes it as far as the
// client's socket takes it; for the rest a goroutine waits.
type outbox struct {
	e *endpoint
	// overrun and broken are called once at most, when the client reads no replies or has gone.
	overrun, broken func()

	mu      sync.Mutex
	out     []byte
	spare   []byte
	writing bool // somebody writes out
	dead    bool
	timer   *time.Timer // sends what waits, while waits
	waits   bool
	stuck   chan struct{} // has room for one: the socket was full
	// queued counts the messages, written those of them that the socket has; moved tells of that.
	queued, written uint64
	moved           sync.Cond
}

func newOutbox(e *endpoint, overrun, broken func()) *outbox {
	o := &outbox{e: e, overrun: overrun, broken: broken, stuck: make(chan struct{}, 1)}
	o.moved.L = &o.mu
	return o
}

// send sends r, and soon says that it may wait for soonTime.
func (o *outbox) send(r Reply, soon bool) {
	o.mu.Lock()
	if o.dead {
		o.mu.Unlock()
		return
	}
	if b, err := appendMessage(o.out, r); err == nil {
		o.out = b
		o.queued++
	}
	switch {
	case len(o.out) > maxOut:
		o.dead, o.out = true, nil
		o.moved.Broadcast()
		o.mu.Unlock()
		o.overrun()
	case soon && !o.writing:
		if !o.waits {
			o.waits = true
			if o.timer == nil {
				o.timer = time.AfterFunc(soonTime, o.flush)
			} else {
				o.timer.Reset(soonTime)
			}
		}
		o.mu.Unlock()
	default:
		o.mu.Unlock()
		o.flush()
	}
}

// flush writes what the socket takes, unless somebody else is about it.
func (o *outbox) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waits = false
	for !o.writing && !o.dead && len(o.out) > 0 {
		o.writing = true
		b, upTo := o.out, o.queued
		o.out = o.spare[:0]
		o.mu.Unlock()
		n, err := o.write(b)
		o.mu.Lock()
		switch {
		case err == syscall.EAGAIN:
			o.out, o.spare = append(b[n:len(b):len(b)], o.out...), nil
			o.stuck <- struct{}{}
			return // still writing: the goroutine goes on
		case err != nil:
			o.fail()
			return
		}
		o.wrote(b, upTo)
	}
}

func (o *outbox) write(b []byte) (n int, err error) {
	ctlErr := o.e.control(func(fd int) error {
		for n < len(b) {
			var m int
			m, err = sendNow(fd, b[n:])
			if err == syscall.EINTR {
				continue
			}
			if err != nil {
				break
			}
			n += m
		}
		return nil
	})
	if ctlErr != nil {
		return n, ctlErr
	}
	return n, err
}

// wrote notes what was written, and keeps the buffer for the next. mu is held.
func (o *outbox) wrote(b []byte, upTo uint64) {
	o.writing = false
	o.written = upTo
	o.moved.Broadcast()
	if cap(b) <= maxMessage {
		o.spare = b
	}
}

// fail gives up. mu is held.
func (o *outbox) fail() {
	if o.dead {
		return
	}
	o.dead, o.out, o.writing = true, nil, false
	o.moved.Broadcast()
	o.broken()
}

// sync waits until all that was sent so far is in the socket.
func (o *outbox) sync() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for last := o.queued; o.written < last && !o.dead; {
		o.moved.Wait()
	}
}

// run waits for room where a write found none, until done; the end of that is up to the endpoint's
// write deadline.
func (o *outbox) run(done <-chan struct{}) {
	for {
		select {
		case <-o.stuck:
			if !o.drain() {
				return
			}
		case <-done:
			o.close()
			return
		}
	}
}

// drain writes until nothing is left.
func (o *outbox) drain() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.out) > 0 && !o.dead {
		b, upTo := o.out, o.queued
		o.out = o.spare[:0]
		o.mu.Unlock()
		_, err := o.e.Write(b)
		o.mu.Lock()
		if err != nil {
			o.fail()
			return false
		}
		o.wrote(b, upTo)
		o.writing = true
	}
	o.writing = false
	return !o.dead
}

// close sends what is left and takes no more.
func (o *outbox) close() {
	o.flush()
	select {
	case <-o.stuck:
		o.drain()
	default:
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dead = true
	o.moved.Broadcast()
	if o.timer != nil {
		o.timer.Stop()
	}
}
