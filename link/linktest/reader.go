package linktest

import (
	"bytes"
	"sync"
	"time"

	"github.com/ustack/ustack/link"
)

// A received is one frame that a Device returned.
type received struct {
	queue   int
	frame   []byte
	offload link.Offload
}

// A reader reads all queues of a Device until they end.
type reader struct {
	s       *suite
	frames  chan received
	done    sync.WaitGroup
	mu      sync.Mutex
	all     int   // frames read, foreign ones too; guarded by mu
	bytes   int   // theirs; guarded by mu
	lastErr error // guarded by mu
}

// read starts a goroutine for each queue that offers batch buffers of size bytes. It
// is joined when the check ends, after the Device was closed.
func (s *suite) read(dev link.Device, batch, size int) *reader {
	r := &reader{s: s, frames: make(chan received, 1<<16)}
	for i, q := range dev.Queues() {
		r.done.Go(func() { r.loop(i, q, batch, size) })
	}
	return r
}

func (r *reader) loop(queue int, q link.Queue, batch, size int) {
	in := make([]link.Frame, batch)
	for i := range in {
		in[i].Buf = make([]byte, size)
	}
	for {
		n, err := q.Read(in)
		if err != nil {
			r.mu.Lock()
			r.lastErr = err
			r.mu.Unlock()
			if n != 0 {
				r.s.Errorf("Read = %d, %v: no frames come with an error", n, err)
			}
			return
		}
		if n < 1 || n > len(in) {
			r.s.Errorf("Read of %d frames = %d, nil", len(in), n)
			return
		}
		for _, f := range in[:n] {
			if f.N < link.HeaderLen || f.N > len(f.Buf) {
				r.s.Errorf("Read returned a frame of %d bytes in a buffer of %d", f.N, len(f.Buf))
				return
			}
			r.mu.Lock()
			r.all++
			r.bytes += f.N
			r.mu.Unlock()
			if ours(f.Buf[:f.N]) {
				r.frames <- received{queue, bytes.Clone(f.Buf[:f.N]), f.Offload}
			}
		}
	}
}

// next returns the next frame of ours.
func (r *reader) next() received {
	r.s.Helper()
	select {
	case f := <-r.frames:
		return f
	case <-time.After(r.s.patience):
		r.s.Fatalf("the Device returned no frame within %v", r.s.patience)
		panic("unreachable")
	}
}

// want compares the next frames.
func (r *reader) want(frames ...[]byte) {
	r.s.Helper()
	for i, w := range frames {
		r.s.same("frame in", i, r.next().frame, w)
	}
}

// wait joins the goroutines and returns the last error of a Read.
func (r *reader) wait(what string) error {
	r.s.Helper()
	r.s.within(what, r.done.Wait)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lastErr
}

func (r *reader) counts() (frames, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all, r.bytes
}
