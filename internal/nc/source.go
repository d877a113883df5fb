package nc

import (
	"io"
	"sync"
	"time"
)

const (
	bufferSize = 256 << 10
	// maxDatagram is the largest UDP payload over IPv4.
	maxDatagram = 65507
)

// A source reads standard input ahead by one buffer, for one connection after another.
type source struct {
	r      io.Reader
	chunks chan []byte // closed at the end of r, after err is set
	free   chan []byte
	stop   chan struct{}
	err    error // nil for io.EOF
	wg     sync.WaitGroup
}

func newSource(r io.Reader, size int) *source {
	s := &source{r: r, chunks: make(chan []byte), free: make(chan []byte, 2), stop: make(chan struct{})}
	s.free <- make([]byte, size)
	s.free <- make([]byte, size)
	s.wg.Go(s.run)
	return s
}

func (s *source) run() {
	defer close(s.chunks)
	for {
		var buf []byte
		select {
		case buf = <-s.free:
		case <-s.stop:
			return
		}
		n, err := s.r.Read(buf)
		if n > 0 {
			select {
			case s.chunks <- buf[:n]:
			case <-s.stop:
				return
			}
		} else if err == nil {
			s.free <- buf
		}
		if err != nil {
			if err != io.EOF {
				s.err = err
			}
			return
		}
	}
}

// done gives a chunk back.
func (s *source) done(chunk []byte) { s.free <- chunk[:cap(chunk)] }

// close ends the reading. A Read that cannot be interrupted is left behind.
func (s *source) close() {
	close(s.stop)
	d, ok := s.r.(interface{ SetReadDeadline(time.Time) error })
	if !ok || d.SetReadDeadline(time.Unix(1, 0)) != nil {
		return
	}
	s.wg.Wait()
	d.SetReadDeadline(time.Time{})
}
