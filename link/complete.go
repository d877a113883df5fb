package link

import (
	"bytes"
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// Complete returns a Device on top of dev, which it owns, that takes every offload:
// what dev does not take is finished in software before it is handed on. Checksums
// that are to be done are put in place, TCP super-frames are cut into segments of
// Offload.GSOSize bytes of payload, with continuing IPv4 identification and sequence
// numbers, FIN and PSH on the last only, CWR on the first only. What dev does take
// passes untouched.
//
// takes are the offloads that the reader can deal with: frames read that carry others
// are finished in the same way. Complete(dev, dev.Info().RX) leaves reading as it is;
// with takes = 0 the frames read are ordinary frames whose checksums are in place and
// must be verified.
//
// The memory of frames written is not changed, and not copied: headers that change are
// replaced by others.
//
// A frame that cannot be finished is dropped and counted as DropTxOffload or
// DropRxOffload: one whose metadata is invalid, and a super-frame that has no checksum
// to do, is not TCP over the IP version it claims, is a fragment, has another length
// than its IP header says, or more than 1024 bytes of headers. Frames written are
// counted as they leave, in segments; a super-frame counts as taken by Write when all
// of its segments were. Frames read are counted as they are returned.
func Complete(dev Device, takes Offloads) Device {
	inner := dev.Info()
	if !takes.Has(OffloadCsum) {
		takes = 0
	}
	d := &completed{Device: dev, info: inner, takes: takes, wire: inner.TX, pool: new(sync.Pool)}
	d.info.RX &= takes
	d.info.TX = OffloadCsum | OffloadTSO4 | OffloadTSO6 | OffloadECN
	d.pool.New = func() any { return newFinisher() }
	const split = OffloadTSO4 | OffloadTSO6 | OffloadECN
	d.reads = inner.RX&^takes != 0
	for _, q := range dev.Queues() {
		c := &completedQueue{inner: q, dev: d}
		if inner.RX&^takes&split != 0 {
			c.one = []Frame{{Buf: make([]byte, MaxFrame)}}
			c.whole.Pieces = make([][]byte, 1)
		}
		d.queues = append(d.queues, c)
	}
	return d
}

type completed struct {
	Device
	info   Info
	takes  Offloads // of the reader
	wire   Offloads // of the wire, for what is written
	reads  bool     // frames read are finished, and counted here
	queues []Queue
	pool   *sync.Pool // of *finisher
	closed atomic.Bool
	own    Counters
}

func (d *completed) Info() Info {
	i := d.info
	i.HardwareAddr = bytes.Clone(i.HardwareAddr)
	return i
}

func (d *completed) Queues() []Queue { return d.queues }

func (d *completed) Stats() Stats {
	own, s := d.own.Stats(), d.Device.Stats()
	if d.reads {
		s.RxFrames, s.RxBytes = own.RxFrames, own.RxBytes
	}
	s.addDrops(own.Drops)
	return s
}

// TellDrops implements DropTeller.
func (d *completed) TellDrops(f func(why Drop, frame []byte)) {
	d.own.TellDrops(f)
	tellDrops(d.Device, f)
}

// addDrops adds the drops of another layer.
func (s *Stats) addDrops(drops map[string]uint64) {
	if s.Drops == nil {
		s.Drops = drops
		return
	}
	for why, n := range drops {
		s.Drops[why] += n
	}
}

func (d *completed) Close() error {
	d.closed.Store(true)
	return d.Device.Close()
}

type completedQueue struct {
	inner Queue
	dev   *completed

	// Of the one reader. one is nil when frames need not be cut.
	one    []Frame
	whole  OutFrame // the frame in one, while it is cut
	seg    segmenter
	hdr    [maxHeaders]byte
	pieces [][]byte
}

func (q *completedQueue) Write(frames []OutFrame) (int, error) {
	i := 0
	for i < len(frames) && q.dev.wire.Has(frames[i].Offload.needs()) {
		i++
	}
	if i == len(frames) {
		return q.inner.Write(frames)
	}
	w := q.dev.pool.Get().(*finisher)
	n, err := w.write(q, frames)
	w.reset()
	w.seg.stop()
	q.dev.pool.Put(w)
	return n, err
}

// finishBatch is how many frames a finisher gathers before it writes them, which is
// what bounds its memory.
const finishBatch = 64

// A finisher is what one Write works with.
type finisher struct {
	seg    segmenter
	frames []OutFrame
	pieces [][]byte
	bytes  []byte // of headers and checksums
}

func newFinisher() *finisher {
	return &finisher{
		frames: make([]OutFrame, 0, finishBatch),
		pieces: make([][]byte, 0, 4*finishBatch),
		bytes:  make([]byte, 0, 128*finishBatch),
	}
}

func (w *finisher) write(q *completedQueue, frames []OutFrame) (int, error) {
	taken := 0
	for i := range frames {
		f := &frames[i]
		if q.dev.wire.Has(f.Offload.needs()) {
			w.frames = append(w.frames, *f)
		} else {
			n, why, ok := q.dev.info.CheckOut(f)
			super := ok && f.Offload.GSOType != GSONone
			if super && !w.seg.start(f, n) {
				ok, why = false, DropTxOffload
			}
			if !ok || super {
				t, err := w.flush(q)
				taken += t
				if err != nil {
					return taken, err
				}
			}
			switch {
			case !ok:
				q.dev.own.Drop(why)
			case super:
				all, err := w.segments(q)
				if err != nil {
					return taken, err
				}
				if all {
					taken++
				}
			default:
				w.checksum(f, n)
			}
		}
		if len(w.frames) == finishBatch {
			t, err := w.flush(q)
			taken += t
			if err != nil {
				return taken, err
			}
		}
	}
	t, err := w.flush(q)
	return taken + t, err
}

// flush writes what was gathered. It asks the wire even when that is nothing, for it
// may have ended.
func (w *finisher) flush(q *completedQueue) (int, error) {
	n, err := q.inner.Write(w.frames)
	w.reset()
	return n, err
}

// reset forgets all memory of the caller's.
func (w *finisher) reset() {
	clear(w.frames)
	clear(w.pieces)
	w.frames, w.pieces, w.bytes = w.frames[:0], w.pieces[:0], w.bytes[:0]
}

// scratch returns n bytes that are valid until reset.
func (w *finisher) scratch(n int) []byte {
	at := len(w.bytes)
	if at+n > cap(w.bytes) {
		w.bytes, at = make([]byte, 0, 2*cap(w.bytes)+n), 0
	}
	w.bytes = w.bytes[:at+n]
	return w.bytes[at : at+n : at+n]
}

// add gathers one frame of the pieces from start on.
func (w *finisher) add(start int) {
	w.frames = append(w.frames, OutFrame{Pieces: w.pieces[start:len(w.pieces):len(w.pieces)]})
}

// checksum gathers f, of n bytes, with its checksum in place of the partial one.
func (w *finisher) checksum(f *OutFrame, n int) {
	from := int(f.Offload.CsumStart)
	at := from + int(f.Offload.CsumOffset)
	field := w.scratch(2)
	binary.BigEndian.PutUint16(field, f.checksum(from, n))

	start, c := len(w.pieces), cursor{pieces: f.Pieces}
	w.pieces = c.appendTo(w.pieces, at)
	w.pieces = append(w.pieces, field)
	for skip := 2; skip > 0; {
		skip -= len(c.take(skip))
	}
	w.pieces = c.appendTo(w.pieces, n-at-2)
	w.add(start)
}

// checksum returns the Internet checksum of a frame's n bytes from an offset on, with
// what is in the checksum field taken into account.
func (f *OutFrame) checksum(from, n int) uint16 {
	var s summer
	c := cursor{pieces: f.Pieces}
	for left := from; left > 0; {
		left -= len(c.take(left))
	}
	for left := n - from; left > 0; {
		b := c.take(left)
		s.add(b)
		left -= len(b)
	}
	return s.checksum()
}

// segments writes all segments of the frame that w.seg was started with, and reports
// whether the wire took all.
func (w *finisher) segments(q *completedQueue) (bool, error) {
	all := true
	for w.seg.more() {
		for w.seg.more() && len(w.frames) < finishBatch {
			start := len(w.pieces)
			w.pieces = w.seg.next(w.scratch(w.seg.hdr), w.pieces)
			w.add(start)
		}
		have := len(w.frames)
		n, err := w.flush(q)
		if err != nil {
			return false, err
		}
		all = all && n == have
	}
	return all, nil
}

func (q *completedQueue) Read(frames []Frame) (int, error) {
	switch {
	case !q.dev.reads, len(frames) == 0:
		return q.inner.Read(frames)
	case q.one == nil:
		return q.readInPlace(frames)
	}
	for {
		if q.dev.closed.Load() {
			return 0, ErrClosed
		}
		if n := q.readSegments(frames); n > 0 {
			return n, nil
		}
		if q.seg.more() {
			continue
		}
		q.seg.stop()
		if _, err := q.inner.Read(q.one); err != nil {
			return 0, err
		}
		in := &q.one[0]
		if o := &in.Offload; o.GSOType != GSONone && !q.dev.takes.Has(o.needs()) {
			q.whole.Pieces[0], q.whole.Offload = in.Buf[:in.N], *o
			if o.Validate(in.N) != nil || !q.seg.start(&q.whole, in.N) {
				q.dev.own.DropFrame(DropRxOffload, in.Buf[:in.N])
			}
			continue
		}
		if in.N > len(frames[0].Buf) {
			q.dev.own.DropFrame(DropRxOversize, in.Buf[:in.N])
			continue
		}
		out := &frames[0]
		out.N, out.Offload = copy(out.Buf, in.Buf[:in.N]), in.Offload
		if q.finish(out) {
			q.dev.own.Rx(1, out.N)
			return 1, nil
		}
	}
}

// readSegments returns segments of the super-frame that was read last.
func (q *completedQueue) readSegments(frames []Frame) int {
	got, size := 0, 0
	for got < len(frames) && q.seg.more() {
		q.pieces = q.seg.next(q.hdr[:q.seg.hdr], q.pieces[:0])
		out, n := &frames[got], 0
		for _, p := range q.pieces {
			n += len(p)
		}
		if n > len(out.Buf) {
			q.dev.own.Drop(DropRxOversize)
			continue
		}
		out.N, out.Offload = 0, Offload{DataValid: q.dev.takes.Has(OffloadCsum)}
		for _, p := range q.pieces {
			out.N += copy(out.Buf[out.N:], p)
		}
		got, size = got+1, size+n
	}
	if got > 0 {
		q.dev.own.Rx(got, size)
	}
	return got
}

// readInPlace is Read where nothing has to be cut.
func (q *completedQueue) readInPlace(frames []Frame) (int, error) {
	for {
		n, err := q.inner.Read(frames)
		if err != nil {
			return 0, err
		}
		got, size := 0, 0
		for i := range n {
			if !q.finish(&frames[i]) {
				continue
			}
			size += frames[i].N
			// Swapped, so that no buffer is offered twice.
			frames[got], frames[i] = frames[i], frames[got]
			got++
		}
		if got > 0 {
			q.dev.own.Rx(got, size)
			return got, nil
		}
	}
}

// finish puts the checksum in place in a frame that needs it for this reader, and
// counts one whose metadata is not within it.
func (q *completedQueue) finish(f *Frame) bool {
	o := &f.Offload
	if q.dev.takes.Has(OffloadCsum) {
		return true
	}
	if o.NeedsCsum {
		if o.Validate(f.N) != nil {
			q.dev.own.DropFrame(DropRxOffload, f.Buf[:f.N])
			return false
		}
		at := int(o.CsumStart) + int(o.CsumOffset)
		var s summer
		s.add(f.Buf[o.CsumStart:f.N])
		binary.BigEndian.PutUint16(f.Buf[at:], s.checksum())
	}
	f.Offload = Offload{}
	return true
}
