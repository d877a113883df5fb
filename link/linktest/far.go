package linktest

import (
	"bytes"
	"hash/fnv"
	"os"
	"sync"
	"time"

	"github.com/ustack/ustack/link"
)

// FarEnd makes a Wire of the Device at the other end, for wires that have a Device
// at both: a pipe, a wrapped pipe. It closes far.
func FarEnd(far link.Device) Wire {
	return &farEnd{dev: far, in: make(chan received, 256)}
}

type farEnd struct {
	dev     link.Device
	in      chan received
	started bool
	done    sync.WaitGroup
	ended   chan struct{}
}

// Send keeps the frames of one pair of stations on one queue.
func (w *farEnd) Send(frame []byte, o link.Offload) error {
	h := fnv.New32a()
	h.Write(frame[:min(12, len(frame))])
	queues := w.dev.Queues()
	q := queues[h.Sum32()%uint32(len(queues))]
	n, err := q.Write([]link.OutFrame{{Pieces: [][]byte{frame}, Offload: o}})
	if err == nil && n != 1 {
		err = os.ErrInvalid
	}
	return err
}

// Recv begins to read at its first call: until then nobody takes frames from the
// Device under test.
func (w *farEnd) Recv(d time.Duration) ([]byte, link.Offload, error) {
	if !w.started {
		w.started, w.ended = true, make(chan struct{})
		for i, q := range w.dev.Queues() {
			w.done.Go(func() { w.read(i, q) })
		}
	}
	select {
	case r := <-w.in:
		return r.frame, r.offload, nil
	default:
	}
	select {
	case r := <-w.in:
		return r.frame, r.offload, nil
	case <-time.After(d):
		return nil, link.Offload{}, os.ErrDeadlineExceeded
	}
}

func (w *farEnd) read(i int, q link.Queue) {
	in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
	for {
		n, err := q.Read(in)
		if err != nil {
			return
		}
		for _, f := range in[:n] {
			select {
			case w.in <- received{i, bytes.Clone(f.Buf[:f.N]), f.Offload}:
			case <-w.ended:
				return
			}
		}
	}
}

func (w *farEnd) Remove() error { return w.dev.Close() }

func (w *farEnd) Close() error {
	err := w.dev.Close()
	if w.started {
		close(w.ended)
		w.done.Wait()
	}
	return err
}
