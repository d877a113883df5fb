package qemu

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
)

// A session is one connection.
type session struct {
	d    *stream
	conn net.Conn
	raw  syscall.RawConn

	mu   sync.Mutex
	more sync.Cond
	over bool
	out  []byte // not yet given to the kernel
	busy bool   // flush has bytes that go before those in out
	took int    // how many those are
}

func newSession(d *stream, c net.Conn) (*session, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, errors.New("no descriptor")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	if u, ok := c.(*net.UnixConn); ok {
		// What the system allows at most is enough, and its default not too little.
		_ = u.SetWriteBuffer(512 << 10)
	}
	s := &session{d: d, conn: c, raw: raw}
	s.more.L = &s.mu
	return s, nil
}

// end closes the connection, which lets flush and a Read end.
func (s *session) end() {
	s.mu.Lock()
	s.over = true
	s.more.Broadcast()
	s.mu.Unlock()
	s.conn.Close()
}

// write queues what there is room for and gives the kernel what it takes of it.
func (s *session) write(frames []link.OutFrame) (taken, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range frames {
		f := &frames[i]
		n, why, ok := s.d.info.CheckOut(f)
		switch {
		case !ok:
			s.d.Drop(why)
		case s.over:
			s.d.Drop(link.DropTxDown)
		case s.took+len(s.out)+lengthLen+n > s.d.cfg.Buffer && !s.try():
			s.d.Drop(link.DropTxFull)
		case s.took+len(s.out)+lengthLen+n > s.d.cfg.Buffer:
			s.d.Drop(link.DropTxFull)
		default:
			s.out = binary.BigEndian.AppendUint32(s.out, uint32(n))
			for _, p := range f.Pieces {
				s.out = append(s.out, p...)
			}
			taken, size = taken+1, size+n
		}
	}
	s.try()
	return taken, size
}

// try gives the kernel what it takes at once, and leaves the rest to flush. It says whether
// there is nothing before what is written next. mu is held.
func (s *session) try() bool {
	if s.busy || s.over {
		return false
	}
	for len(s.out) > 0 {
		n, errno := 0, error(nil)
		err := s.raw.Control(func(fd uintptr) {
			n, errno = unix.SendmsgN(int(fd), s.out, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		})
		switch {
		case err == nil && errno == nil:
			s.out = s.out[:copy(s.out, s.out[n:])]
		case errno == unix.EINTR:
		default: // full, or at its end, which flush finds out
			s.busy = true
			s.more.Broadcast()
			return false
		}
	}
	return true
}

// flush waits for the kernel to take what it did not take at once.
func (s *session) flush() {
	var bytes []byte
	for {
		s.mu.Lock()
		s.took = 0
		if len(s.out) == 0 {
			s.busy = false
		}
		for !s.busy && !s.over {
			s.more.Wait()
		}
		if s.over {
			s.mu.Unlock()
			return
		}
		bytes, s.out = s.out, bytes[:0]
		s.took = len(bytes)
		s.mu.Unlock()
		if _, err := s.conn.Write(bytes); err != nil {
			s.d.leave(s, err)
			return
		}
	}
}
