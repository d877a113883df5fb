package stack

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/ustack/ustack/link"
)

// A fickleWriter takes what is written to it in random parts.
type fickleWriter struct {
	bytes.Buffer
	random              *rand.Rand
	direct, full, waits int
	limit               int // bytes after which it fails
}

var errFickle = errors.New("has had enough")

func (w *fickleWriter) TryWrite(pieces [][]byte) (n int, err error) {
	w.direct++
	if w.Len() >= w.limit {
		return 0, errFickle
	}
	for _, p := range pieces {
		m := len(p)
		if w.random.IntN(3) == 0 {
			m = w.random.IntN(len(p))
		}
		w.Buffer.Write(p[:m])
		if n += m; m < len(p) {
			w.full++
			break
		}
	}
	return n, nil
}

func (w *fickleWriter) WaitWrite() error {
	w.waits++
	return nil
}

// TestWriteToDirect passes a stream of pieces of all sizes to a writer that takes them
// from netstack's memory.
func TestWriteToDirect(t *testing.T) {
	a, b := pair(t, link.PipeConfig{Offloads: link.OffloadTSO4})
	random := rand.New(rand.NewPCG(1, 2))
	sent := make([]byte, 8<<20)
	for i := range sent {
		sent[i] = byte(random.Uint32())
	}
	for _, limit := range []int{len(sent) + 1, len(sent) / 2} {
		c, s := connect(t, a, b, "10.0.0.2")
		written := make(chan error, 1)
		sizes := rand.New(rand.NewPCG(3, 4))
		go func() {
			for left := sent; len(left) > 0; {
				n := min(len(left), 1+sizes.IntN(1<<(4+sizes.IntN(15))))
				if _, err := c.Write(left[:n]); err != nil {
					written <- err
					return
				}
				left = left[n:]
			}
			written <- c.CloseWrite()
		}()
		w := &fickleWriter{random: random, limit: limit}
		n, err := s.WriteTo(w)
		if n != int64(w.Len()) || !bytes.Equal(w.Bytes(), sent[:w.Len()]) {
			t.Fatalf("limit %d: %d bytes told, %d arrived, the same: %v", limit, n, w.Len(), bytes.Equal(w.Bytes(), sent[:w.Len()]))
		}
		if w.direct == 0 || w.full == 0 || w.waits != w.full {
			t.Errorf("limit %d: %d direct writes, %d without room for all, %d waits", limit, w.direct, w.full, w.waits)
		}
		if limit <= len(sent) {
			if err != errFickle {
				t.Errorf("the writer's error came as %v", err)
			}
			s.Abort()
			c.Abort()
			<-written // all of it may have had room
			continue
		}
		if err != nil || w.Len() != len(sent) {
			t.Errorf("%d of %d bytes, %v", w.Len(), len(sent), err)
		}
		if err := <-written; err != nil {
			t.Error(err)
		}
		if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("after the end: %d, %v", n, err)
		}
		c.Close()
		s.Close()
	}
}
