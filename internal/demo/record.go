package demo

import (
	"context"
	"sync"
	"time"

	"github.com/ustack/ustack/link"
)

// Bounds of a recorder: frames kept, and bytes kept of each.
const (
	maxRecords = 4096
	snapLen    = 2048
)

// A record is one frame that crossed the wire.
type record struct {
	at   time.Time
	out  bool // from the stack to the wire
	data []byte
}

// A recorder is a Device around a Device that keeps what crosses it, both ways.
type recorder struct {
	link.Device
	queues []link.Queue

	mu      sync.Mutex
	records []record
	more    chan struct{} // closed and replaced at every frame
}

func newRecorder(dev link.Device) *recorder {
	r := &recorder{Device: dev, more: make(chan struct{})}
	for _, q := range dev.Queues() {
		r.queues = append(r.queues, &recordedQueue{Queue: q, r: r})
	}
	return r
}

// Queues implements link.Device.
func (r *recorder) Queues() []link.Queue { return r.queues }

// take returns what was recorded since the last call.
func (r *recorder) take() []record {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.records
	r.records = nil
	return all
}

// wait returns when ok is true of what was recorded since the last take, or ctx
// ends.
func (r *recorder) wait(ctx context.Context, ok func([]record) bool) {
	for {
		r.mu.Lock()
		done, more := ok(r.records), r.more
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

func (r *recorder) add(rec record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.records) < maxRecords {
		r.records = append(r.records, rec)
	}
	close(r.more)
	r.more = make(chan struct{})
}

// recordedQueue is one queue of a recorder.
type recordedQueue struct {
	link.Queue
	r *recorder
}

// Read implements link.Queue.
func (q *recordedQueue) Read(frames []link.Frame) (int, error) {
	n, err := q.Queue.Read(frames)
	for _, f := range frames[:n] {
		b := f.Buf[:f.N]
		q.r.add(record{at: time.Now(), data: append([]byte(nil), b[:min(len(b), snapLen)]...)})
	}
	return n, err
}

// Write implements link.Queue. A frame is recorded before the wire has it, so that
// its answer cannot come first.
func (q *recordedQueue) Write(frames []link.OutFrame) (int, error) {
	for _, f := range frames {
		rec := record{at: time.Now(), out: true}
		for _, p := range f.Pieces {
			rec.data = append(rec.data, p[:min(len(p), snapLen-len(rec.data))]...)
		}
		q.r.add(rec)
	}
	return q.Queue.Write(frames)
}
