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
}

func newOutbox(e *endpoint, overrun, broken func()) *outbox {
	return &outbox{e: e, overrun: overrun, broken: broken, stuck: make(chan struct{}, 1)}
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
	}
	switch {
	case len(o.out) > maxOut:
		o.dead, o.out = true, nil
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
		b := o.out
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
		o.wrote(b)
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

// wrote keeps a buffer for the next. mu is held.
func (o *outbox) wrote(b []byte) {
	o.writing = false
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
	o.broken()
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
		b := o.out
		o.out = o.spare[:0]
		o.mu.Unlock()
		_, err := o.e.Write(b)
		o.mu.Lock()
		if err != nil {
			o.fail()
			return false
		}
		o.wrote(b)
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
	if o.timer != nil {
		o.timer.Stop()
	}
}
