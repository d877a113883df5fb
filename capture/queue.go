package capture

import (
	"time"

	"github.com/ustack/ustack/link"
)

// A queue is a Point's queue.
type queue struct {
	p      *Point
	inner  link.Queue
	number int

	// Of the one reader: the frames of the last Read that were recorded, and their
	// records, which wait for what becomes of them.
	frames  []link.Frame
	pending []entry
	piece   [1][]byte // the frame that is being recorded
}

// Read implements link.Queue. Nobody may have begun to capture while it waited, so it is
// looked afterwards.
func (q *queue) Read(frames []link.Frame) (int, error) {
	if len(q.pending) > 0 {
		q.settle()
	}
	n, err := q.inner.Read(frames)
	if seats := q.p.seats.Load(); seats != nil && n > 0 {
		q.record(*seats, frames[:n])
	}
	return n, err
}

// record records frames that were read.
func (q *queue) record(seats []*seat, frames []link.Frame) {
	now := time.Now()
	info := frameInfo{at: now, queue: q.number, in: true, pieces: q.piece[:]}
	for i := range frames {
		f := &frames[i]
		f.Drop = ""
		q.piece[0] = f.Buf[:f.N]
		info.n, info.head, info.offload = f.N, q.piece[0], f.Offload
		for _, s := range seats {
			if e := s.begin(&info); e.slot != nil {
				e.at = i
				q.pending = append(q.pending, e)
			}
		}
	}
	q.piece[0], q.frames = nil, frames
}

// settle completes the records of the last Read.
func (q *queue) settle() {
	for i := range q.pending {
		q.pending[i].end(q.frames[q.pending[i].at].Drop)
	}
	clear(q.pending)
	q.frames, q.pending = nil, q.pending[:0]
}

// Write implements link.Queue.
func (q *queue) Write(frames []link.OutFrame) (int, error) {
	seats := q.p.seats.Load()
	if seats == nil {
		return q.inner.Write(frames)
	}
	taken := 0
	for i := range frames {
		n, err := q.write(*seats, frames[i:i+1])
		if err != nil {
			return taken, err
		}
		taken += n
	}
	if len(frames) == 0 {
		return q.inner.Write(frames)
	}
	return taken, nil
}

// ended is the reason for a frame that was written when the device had ended.
const ended = "tx_ended"

// write writes and records one frame. The record is reserved before, for an answer may be
// read before the write has returned.
func (q *queue) write(seats []*seat, one []link.OutFrame) (int, error) {
	f := &one[0]
	info := frameInfo{at: time.Now(), queue: q.number, n: f.Len(), offload: f.Offload, pieces: f.Pieces}
	if len(f.Pieces) == 1 {
		info.head = f.Pieces[0]
	} else if filtered(seats) {
		buf := q.p.heads.Get().(*[headBytes]byte)
		defer q.p.heads.Put(buf)
		info.head = gather(buf, f.Pieces)
	}
	var entries [MaxCaptures]entry
	k := 0
	for _, s := range seats {
		if e := s.begin(&info); e.slot != nil {
			entries[k] = e
			k++
		}
	}
	n, err := q.inner.Write(one)
	drop := ""
	switch {
	case k == 0:
	case err != nil:
		drop = ended
	case n == 0:
		drop = q.p.whyLost()
	}
	for i := range entries[:k] {
		entries[i].end(drop)
	}
	return n, err
}

// filtered reports whether a capture has a filter.
func filtered(seats []*seat) bool {
	for _, s := range seats {
		if s.c.cfg.Filter != nil {
			return true
		}
	}
	return false
}
