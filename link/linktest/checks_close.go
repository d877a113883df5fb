package linktest

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/ustack/ustack/link"
)

// wantClosed wants the error that every call after Close returns.
func (s *suite) wantClosed(what string, n int, err error) {
	s.Helper()
	if n != 0 || !errors.Is(err, link.ErrClosed) || !errors.Is(err, net.ErrClosed) {
		s.Errorf("%s = %d, %v, want 0, %v", what, n, err, link.ErrClosed)
	}
}

func checkCloseUnblocksRead(s *suite) {
	dev, wire := s.open()
	r := s.read(dev, 1, link.MaxFrame)
	f := frame(1, 100)
	s.send(wire, f)
	r.want(f) // so the readers are at work
	s.within("Close under a Read", func() { dev.Close() })
	s.wantClosed("Read under Close", 0, r.wait("Read under Close"))
}

func checkCloseUnderWrite(s *suite) {
	dev, _ := s.open()
	out := []link.OutFrame{{Pieces: series(0, 1)}, {Pieces: series(1, 1)}}
	var wg sync.WaitGroup
	started := make(chan struct{}, 8)
	for _, q := range dev.Queues() {
		for range 3 {
			wg.Go(func() {
				for i := 0; ; i++ {
					_, err := q.Write(out)
					if i == 10 {
						started <- struct{}{}
					}
					if err == nil {
						continue
					}
					if !errors.Is(err, link.ErrClosed) {
						s.Errorf("Write under Close: %v, want %v", err, link.ErrClosed)
					}
					if i < 10 {
						started <- struct{}{}
					}
					return
				}
			})
		}
	}
	for range 3 * len(dev.Queues()) {
		<-started
	}
	s.within("Close under Writes", func() { dev.Close() })
	s.within("Write under Close", wg.Wait)
}

func checkCloseTwice(s *suite) {
	dev, _ := s.open()
	for i := range 3 {
		s.within("Close", func() {
			if err := dev.Close(); err != nil {
				s.Errorf("Close number %d: %v", i+1, err)
			}
		})
	}
}

func checkCloseAtOnce(s *suite) {
	dev, _ := s.open()
	r := s.read(dev, 1, link.MaxFrame)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := dev.Close(); err != nil {
				s.Errorf("Close, 8 at once: %v", err)
			}
			// Each of them returns only when it is done.
			_, err := dev.Queues()[0].Write([]link.OutFrame{{Pieces: series(0, 1)}})
			s.wantClosed("Write after a concurrent Close", 0, err)
		})
	}
	s.within("8 Closes at once", wg.Wait)
	s.wantClosed("Read", 0, r.wait("Read"))
}

func checkAfterClose(s *suite) {
	dev, wire := s.open()
	s.send(wire, series(0, 3)...) // left unread
	before := dev.Info()
	s.within("Close", func() { dev.Close() })
	for range 2 {
		for i, q := range dev.Queues() {
			s.within("Read after Close", func() {
				n, err := q.Read([]link.Frame{{Buf: make([]byte, link.MaxFrame)}})
				s.wantClosed(fmt.Sprintf("queue %d: Read after Close", i), n, err)
			})
			s.within("Write after Close", func() {
				n, err := q.Write([]link.OutFrame{{Pieces: series(0, 1)}})
				s.wantClosed(fmt.Sprintf("queue %d: Write after Close", i), n, err)
			})
		}
	}
	if after := dev.Info(); after.Name != before.Name || after.MTU != before.MTU {
		s.Errorf("Info is %+v after Close, was %+v", after, before)
	}
	if st := dev.Stats(); st.TxFrames != 0 {
		s.Errorf("stats count %d frames out, written after Close", st.TxFrames)
	}
}

func checkGone(s *suite) {
	dev, wire := s.open()
	r := s.read(dev, 1, link.MaxFrame)
	f := frame(1, 100)
	s.send(wire, f)
	r.want(f)
	if err := wire.Remove(); errors.Is(err, errors.ErrUnsupported) {
		return
	} else if err != nil {
		s.Fatalf("Remove: %v", err)
	}
	wantGone := func(what string, n int, err error) {
		if n != 0 || !errors.Is(err, link.ErrGone) || errors.Is(err, net.ErrClosed) {
			s.Errorf("%s = %d, %v, want 0, %v", what, n, err, link.ErrGone)
		}
	}
	wantGone("Read of a wire that goes", 0, r.wait("Read of a wire that goes"))
	for range 2 {
		for _, q := range dev.Queues() {
			s.within("Read of a wire that is gone", func() {
				n, err := q.Read([]link.Frame{{Buf: make([]byte, link.MaxFrame)}})
				wantGone("Read of a wire that is gone", n, err)
			})
			s.within("Write to a wire that is gone", func() {
				n, err := q.Write([]link.OutFrame{{Pieces: series(0, 1)}})
				wantGone("Write to a wire that is gone", n, err)
			})
		}
	}
	s.within("Close of a Device whose wire is gone", func() {
		if err := dev.Close(); err != nil {
			s.Errorf("Close of a Device whose wire is gone: %v", err)
		}
	})
	n, err := dev.Queues()[0].Write([]link.OutFrame{{Pieces: series(0, 1)}})
	s.wantClosed("Write after Close", n, err)
}
