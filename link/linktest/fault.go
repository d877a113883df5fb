package linktest

import (
	"bytes"
	"sync"
	"sync/atomic"

	"github.com/ustack/ustack/link"
)

// An Action is what a Faulty Device does to a frame.
type Action int

// The Actions.
const (
	Pass Action = iota
	Drop
	// Corrupt inverts the last byte of the frame.
	Corrupt
	// Duplicate passes the frame twice. A frame read is repeated by the Read after
	// the one that returns it.
	Duplicate
)

// A Plan decides what happens to each frame of one direction. n counts the frames
// from 1; frame is valid during the call. Calls for one direction do not overlap.
type Plan func(n uint64, frame []byte) Action

// Nth acts on the nth frame alone.
func Nth(n uint64, a Action) Plan {
	return func(i uint64, _ []byte) Action {
		if i == n {
			return a
		}
		return Pass
	}
}

// Every acts on each nth frame.
func Every(n uint64, a Action) Plan {
	return func(i uint64, _ []byte) Action {
		if i%n == 0 {
			return a
		}
		return Pass
	}
}

// A Faulty is a Device whose frames meet with accidents. Frames that it drops are
// not counted anywhere: they are lost on the way.
type Faulty struct {
	link.Device
	queues []link.Queue
	failed atomic.Pointer[error]
}

// NewFaulty wraps dev, which it closes when it is closed. A nil Plan passes
// everything; rx is for frames read, tx for frames written.
func NewFaulty(dev link.Device, rx, tx Plan) *Faulty {
	d := &Faulty{Device: dev}
	in, out := &plan{decide: rx}, &plan{decide: tx}
	for _, q := range dev.Queues() {
		d.queues = append(d.queues, &faultyQueue{Queue: q, dev: d, rx: in, tx: out})
	}
	return d
}

// Queues returns the wrapped queues.
func (d *Faulty) Queues() []link.Queue { return d.queues }

// Close closes the wrapped Device; duplicates that are still to be read are lost.
func (d *Faulty) Close() error {
	err := d.Device.Close()
	closed := link.ErrClosed
	d.failed.Store(&closed)
	return err
}

// Fail makes every Read and Write from now on return err, such as link.ErrGone. A
// Read that waits returns it with the next frame, which is lost.
func (d *Faulty) Fail(err error) { d.failed.Store(&err) }

func (d *Faulty) err() error {
	if p := d.failed.Load(); p != nil {
		return *p
	}
	return nil
}

type plan struct {
	decide Plan
	mu     sync.Mutex
	n      uint64 // guarded by mu
}

func (p *plan) next(frame []byte) Action {
	if p.decide == nil {
		return Pass
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
	return p.decide(p.n, frame)
}

type faultyQueue struct {
	link.Queue
	dev    *Faulty
	rx, tx *plan
	again  []again // of the one reader
}

// An again is a frame that is to be read a second time.
type again struct {
	data []byte
	o    link.Offload
}

func (q *faultyQueue) Read(frames []link.Frame) (int, error) {
	for {
		if err := q.dev.err(); err != nil {
			return 0, err
		}
		if n := q.repeat(frames); n > 0 || len(frames) == 0 {
			return n, nil
		}
		n, err := q.Queue.Read(frames)
		if err != nil {
			return 0, err
		}
		if err := q.dev.err(); err != nil {
			return 0, err
		}
		kept := 0
		for i := range n {
			f := &frames[i]
			data := f.Buf[:f.N]
			switch q.rx.next(data) {
			case Drop:
				continue
			case Corrupt:
				data[len(data)-1] ^= 0xff
			case Duplicate:
				q.again = append(q.again, again{bytes.Clone(data), f.Offload})
			}
			// Swapped, so that no buffer is offered twice.
			frames[kept], frames[i] = frames[i], frames[kept]
			kept++
		}
		if kept > 0 {
			return kept, nil
		}
	}
}

// repeat returns duplicates that fit.
func (q *faultyQueue) repeat(frames []link.Frame) int {
	n := 0
	for len(q.again) > 0 && n < len(frames) {
		if a := q.again[0]; len(a.data) <= len(frames[n].Buf) {
			frames[n].N, frames[n].Offload = copy(frames[n].Buf, a.data), a.o
			n++
		}
		q.again = q.again[1:]
	}
	return n
}

// Write reports a frame that is lost as taken: it was lost on the way.
func (q *faultyQueue) Write(frames []link.OutFrame) (int, error) {
	taken := 0
	for i := range frames {
		if err := q.dev.err(); err != nil {
			return taken, err
		}
		f, times := frames[i], 1
		if whole := bytes.Join(f.Pieces, nil); len(whole) > 0 {
			switch q.tx.next(whole) {
			case Drop:
				taken++
				continue
			case Corrupt:
				whole[len(whole)-1] ^= 0xff
				f.Pieces = [][]byte{whole}
			case Duplicate:
				times = 2
			}
		}
		for j := range times {
			n, err := q.Queue.Write([]link.OutFrame{f})
			if err != nil {
				return taken, err
			}
			if j == 0 {
				taken += n
			}
		}
	}
	return taken, nil
}
