package control

import (
	"context"
	"sync"
	"syscall"
)

// A dialing is a dial under way whose local address can be asked for.
type dialing struct {
	over chan struct{}

	mu   sync.Mutex
	sock Socket        // what it connects, the last of several
	has  chan struct{} // closed when there is one
}

// dialing registers a dial with Skip; over is to be called at its end.
func (s *session) dialing(r Request) (over func()) {
	if r.Op != "dial" || r.Skip <= 0 || r.ID == 0 {
		return func() {}
	}
	d := &dialing{over: make(chan struct{}), has: make(chan struct{})}
	s.mu.Lock()
	s.dials[r.ID] = d
	s.mu.Unlock()
	return func() {
		close(d.over)
		s.mu.Lock()
		delete(s.dials, r.ID)
		s.mu.Unlock()
	}
}

// using returns what notes the sockets of a registered dial; nil of another.
func (s *session) using(r Request) func(Socket) {
	s.mu.Lock()
	d := s.dials[r.ID]
	s.mu.Unlock()
	if d == nil || r.ID == 0 {
		return nil
	}
	return func(sock Socket) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.sock == nil {
			close(d.has)
		}
		d.sock = sock
	}
}

// dialLocal waits until a dial has a local address, and tells it.
func (s *session) dialLocal(ctx context.Context, r Request, fd int) result {
	if fd >= 0 {
		closeFD(fd)
		return result{err: errNoDescriptor}
	}
	s.mu.Lock()
	d := s.dials[r.Target]
	s.mu.Unlock()
	if d == nil {
		return result{err: syscall.ENOENT}
	}
	wait := func(c <-chan struct{}) error {
		select {
		case <-c:
			return nil
		case <-d.over:
			return syscall.ENOENT
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := wait(d.has); err != nil {
		return result{err: err}
	}
	d.mu.Lock()
	sock := d.sock
	d.mu.Unlock()
	starter, ok := sock.(Starter)
	if !ok {
		return result{err: syscall.EOPNOTSUPP}
	}
	if err := wait(starter.Started()); err != nil {
		return result{err: err}
	}
	local := sock.LocalAddr()
	if !local.IsValid() {
		return result{err: syscall.ENOENT}
	}
	return result{reply: Reply{Local: local.String()}}
}
