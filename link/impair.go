package link

import (
	"bytes"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of ImpairConfig.
const (
	// DefaultImpairLimit is the number of frames that each direction of each queue of
	// an impaired Device holds, as tc-netem(8) has it.
	DefaultImpairLimit = 1000
	// MaxImpairLimit bounds what a configuration may ask for.
	MaxImpairLimit = 1_000_000
	// MaxImpairDelay bounds Delay.
	MaxImpairDelay = time.Hour
)

// An ImpairConfig says what happens to frames on an impaired wire. It is applied to
// both directions, each by itself. The words mean what they do in tc-netem(8). The
// zero value impairs nothing.
type ImpairConfig struct {
	// Delay is added to each frame. Frames stay in order as long as neither Jitter
	// nor Reorder is set.
	Delay time.Duration
	// Jitter spreads the delay evenly between Delay-Jitter and Delay+Jitter. It cannot
	// exceed Delay.
	Jitter time.Duration
	// Loss, Duplicate, Reorder and Corrupt are probabilities for each frame, from 0 to
	// 1. A frame that is reordered is not delayed, and so overtakes others; this needs a
	// Delay. A frame that is corrupted has one bit inverted, anywhere.
	Loss, Duplicate, Reorder, Corrupt float64
	// Rate is in bits of frames per second, the Ethernet header counted; 0 does not
	// limit it. All queues of one direction share it.
	Rate uint64
	// Limit bounds, in frames, what each direction of each queue holds; 0 means
	// DefaultImpairLimit. Without loss, a limit of Rate × Delay / frame size is the
	// least that keeps the wire busy.
	Limit int
	// Seed makes what happens reproducible: frame by frame, each direction of each
	// queue meets the same accidents in each run. Each of them draws from a stream of
	// its own.
	Seed uint64
}

// Check returns an error that names the field which is out of range, and the range.
func (c *ImpairConfig) Check() error {
	for _, p := range []struct {
		name  string
		value float64
	}{{"loss", c.Loss}, {"duplicate", c.Duplicate}, {"reorder", c.Reorder}, {"corrupt", c.Corrupt}} {
		if math.IsNaN(p.value) || p.value < 0 || p.value > 1 {
			return fmt.Errorf("%s of %v is not a probability: use 0%% to 100%%", p.name, p.value)
		}
	}
	switch {
	case c.Delay < 0 || c.Delay > MaxImpairDelay:
		return fmt.Errorf("delay %v is out of range: use 0 to %v", c.Delay, MaxImpairDelay)
	case c.Jitter < 0 || c.Jitter > c.Delay:
		return fmt.Errorf("jitter %v is out of range: use 0 to the delay, which is %v", c.Jitter, c.Delay)
	case c.Reorder > 0 && c.Delay == 0:
		return fmt.Errorf("reorder needs a delay for frames to overtake: add one such as delay=10ms")
	case c.Limit < 0 || c.Limit > MaxImpairLimit:
		return fmt.Errorf("limit %d is out of range: use 1 to %d frames", c.Limit, MaxImpairLimit)
	}
	return nil
}

// impairs reports whether there is anything to do.
func (c *ImpairConfig) impairs() bool {
	return c.Delay > 0 || c.Loss > 0 || c.Duplicate > 0 || c.Corrupt > 0 || c.Rate > 0
}

// Impair returns a Device on top of dev, which it owns, whose frames are delayed,
// lost, duplicated, reordered and damaged. When cfg asks for nothing of the kind that
// is dev itself. The error is cfg.Check's; dev is then still the caller's.
//
// The impaired Device states no offloads, so that accidents happen to frames as they
// would be on a wire, and that damage is seen by whoever verifies checksums:
// super-frames that dev delivers are cut, and checksums put in place, before.
//
// A frame written counts as passed when it has been put in the queue. One that is lost
// is dropped and counted as DropTxLost or DropRxLost; one that finds the queue full, as
// DropTxLimit or DropRxLimit. What dev itself does not take later is among its drops.
// A duplicate is not counted when it is written, and as any other frame when it is
// read. Frames that are in a queue when the Device ends are lost.
func Impair(dev Device, cfg ImpairConfig) (Device, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("impair %s: %w", dev.Info().Name, err)
	}
	if !cfg.impairs() {
		return dev, nil
	}
	if cfg.Limit == 0 {
		cfg.Limit = DefaultImpairLimit
	}
	d := &impaired{Device: Complete(dev, 0), done: make(chan struct{})}
	d.info = d.Device.Info()
	d.info.TX = 0
	d.info.Driver += ", impaired"
	pool := newFramePool(d.info.MTU)
	rx := &medium{cfg: cfg, start: time.Now(), lost: DropRxLost, full: DropRxLimit, pool: pool}
	tx := &medium{cfg: cfg, start: rx.start, lost: DropTxLost, full: DropTxLimit, pool: pool}
	for i, inner := range d.Device.Queues() {
		q := &impairedQueue{
			dev: d, inner: inner,
			rx: newDelayLine(rx, 2*uint64(i)), tx: newDelayLine(tx, 2*uint64(i)+1),
		}
		d.queues = append(d.queues, q)
		d.workers.Go(q.receive)
		d.workers.Go(q.transmit)
	}
	return d, nil
}

type impaired struct {
	Device
	info   Info
	queues []Queue
	own    Counters

	workers sync.WaitGroup
	err     atomic.Pointer[error] // why it ended
	done    chan struct{}         // closed when it has
	endOnce sync.Once

	closeOnce sync.Once
	closeErr  error // set by closeOnce
}

func (d *impaired) Info() Info {
	i := d.info
	i.HardwareAddr = bytes.Clone(i.HardwareAddr)
	return i
}

// TellDrops implements DropTeller.
func (d *impaired) TellDrops(f func(why Drop, frame []byte)) {
	d.own.TellDrops(f)
	tellDrops(d.Device, f)
}

func (d *impaired) Queues() []Queue { return d.queues }

func (d *impaired) Stats() Stats {
	s, inner := d.own.Stats(), d.Device.Stats()
	s.addDrops(inner.Drops)
	s.Waiting = inner.Waiting
	return s
}

// Close closes the wire and waits for the goroutines of all queues.
func (d *impaired) Close() error {
	closed := ErrClosed
	d.err.Store(&closed)
	d.endOnce.Do(func() { close(d.done) })
	d.closeOnce.Do(func() {
		d.closeErr = d.Device.Close()
		d.workers.Wait()
	})
	return d.closeErr
}

// end notes that the wire has ended by itself.
func (d *impaired) end(err error) {
	d.err.CompareAndSwap(nil, &err)
	d.endOnce.Do(func() { close(d.done) })
}

// ended returns why the Device has ended, or nil.
func (d *impaired) ended() error {
	if p := d.err.Load(); p != nil {
		return *p
	}
	return nil
}

// impairBatch is how many frames pass the wire itself in one call.
const impairBatch = 16

type impairedQueue struct {
	dev    *impaired
	inner  Queue
	rx, tx *delayLine
}

func (q *impairedQueue) Write(frames []OutFrame) (int, error) {
	if err := q.dev.ended(); err != nil {
		return 0, err
	}
	taken, size := 0, 0
	for i := range frames {
		f := &frames[i]
		n, why, ok := q.dev.info.CheckOut(f)
		if ok {
			why, ok = q.tx.add(f.Pieces, n)
		}
		if !ok {
			q.dev.own.Drop(why)
			continue
		}
		taken, size = taken+1, size+n
	}
	q.dev.own.Tx(taken, size)
	return taken, nil
}

func (q *impairedQueue) Read(frames []Frame) (int, error) {
	for {
		if err := q.dev.ended(); err != nil || len(frames) == 0 {
			return 0, err
		}
		got, size := 0, 0
		for got < len(frames) {
			f, ok := q.rx.next()
			if !ok {
				break
			}
			if out := &frames[got]; f.n > len(out.Buf) {
				q.dev.own.DropFrame(DropRxOversize, f.buf.b[:f.n])
			} else {
				out.N, out.Offload = copy(out.Buf, f.buf.b[:f.n]), Offload{}
				got, size = got+1, size+f.n
			}
			q.rx.pool.put(f.buf)
		}
		if got > 0 {
			q.dev.own.Rx(got, size)
			return got, nil
		}
		q.rx.wait(q.dev.done)
	}
}

// receive moves frames from the wire to the queue they wait in.
func (q *impairedQueue) receive() {
	in := make([]Frame, impairBatch)
	for i := range in {
		in[i].Buf = make([]byte, MaxFrame)
	}
	pieces := make([][]byte, 1)
	for {
		n, err := q.inner.Read(in)
		if err != nil {
			q.dev.end(err)
			return
		}
		for i := range in[:n] {
			pieces[0] = in[i].Buf[:in[i].N]
			if why, ok := q.rx.add(pieces, in[i].N); !ok {
				q.dev.own.DropFrame(why, pieces[0])
			}
		}
	}
}

// transmit moves frames whose time has come to the wire.
func (q *impairedQueue) transmit() {
	var bufs [impairBatch]*frameBuf
	out := make([]OutFrame, impairBatch)
	for i := range out {
		out[i].Pieces = make([][]byte, 1)
	}
	for q.dev.ended() == nil {
		n := 0
		for n < len(out) {
			f, ok := q.tx.next()
			if !ok {
				break
			}
			bufs[n], out[n].Pieces[0] = f.buf, f.buf.b[:f.n]
			n++
		}
		if n == 0 {
			q.tx.wait(q.dev.done)
			continue
		}
		_, err := q.inner.Write(out[:n])
		for i := range n {
			q.tx.pool.put(bufs[i])
		}
		if err != nil {
			q.dev.end(err)
			return
		}
	}
}
