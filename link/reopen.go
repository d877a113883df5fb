package link

import (
	"bytes"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// Pauses between two attempts of Reopen.
const (
	reopenMin = 50 * time.Millisecond
	reopenMax = 2 * time.Second
)

// Reopen returns a Device that goes on when its wire has gone and comes again: when dev, which it
// owns, ends with ErrGone, it calls open with growing pauses until there is another, and tells the
// Logger of both. Meanwhile a Read waits, and what is written is dropped and counted as DropTxDown.
//
// What it states of itself is what dev stated first. One that comes later has the same number of
// queues, or is not taken; what it does not take of dev's offloads is finished in software. Its
// counters go on from those of the one before.
func Reopen(dev Device, open func() (Device, error), log *slog.Logger) Device {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := &reopened{info: dev.Info(), open: open, log: log, now: dev, done: make(chan struct{})}
	d.come.L = &d.mu
	for i := range dev.Queues() {
		d.queues = append(d.queues, &reopenedQueue{d, i})
	}
	return d
}

type reopened struct {
	info   Info
	queues []Queue
	open   func() (Device, error)
	log    *slog.Logger
	own    Counters // drops while there is no wire

	mu     sync.Mutex
	come   sync.Cond
	now    Device // nil while there is none
	before Stats  // of those that have gone
	closed bool
	err    error // of Close
	done   chan struct{}
	work   sync.WaitGroup
}

func (d *reopened) Info() Info {
	i := d.info
	i.HardwareAddr, i.Station = bytes.Clone(i.HardwareAddr), bytes.Clone(i.Station)
	return i
}

func (d *reopened) Queues() []Queue { return d.queues }

func (d *reopened) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.before
	s.Drops = maps.Clone(s.Drops)
	s.addDrops(d.own.Stats().Drops)
	if d.now == nil {
		s.Waiting = "the wire is gone; it is attached again when it returns"
		return s
	}
	now := d.now.Stats()
	s.add(now)
	s.Waiting = now.Waiting
	return s
}

// add adds the counters of another Device.
func (s *Stats) add(o Stats) {
	s.RxFrames, s.RxBytes = s.RxFrames+o.RxFrames, s.RxBytes+o.RxBytes
	s.TxFrames, s.TxBytes = s.TxFrames+o.TxFrames, s.TxBytes+o.TxBytes
	s.addDrops(o.Drops)
}

func (d *reopened) Close() error {
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		close(d.done)
		if d.now != nil {
			d.err = d.now.Close()
		}
		d.come.Broadcast()
	}
	d.mu.Unlock()
	d.work.Wait()
	return d.err
}

// current waits for a wire.
func (d *reopened) current() (Device, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.now == nil && !d.closed {
		d.come.Wait()
	}
	if d.closed {
		return nil, ErrClosed
	}
	return d.now, nil
}

// gone replaces a wire that has ended because of err, in the background.
func (d *reopened) gone(dev Device, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.now != dev {
		return // another call did it
	}
	d.now = nil
	d.before.Drops = maps.Clone(d.before.Drops)
	d.before.add(dev.Stats())
	d.log.Warn("the wire is gone; it is attached again when it returns", "link", d.info.Name, "err", err)
	d.work.Go(func() { d.again(dev) })
}

// again waits for the wire to return.
func (d *reopened) again(old Device) {
	_ = old.Close() // it has ended
	for pause := reopenMin; ; pause = min(2*pause, reopenMax) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-d.done:
			timer.Stop()
			return
		}
		dev, err := d.open()
		if err != nil {
			d.log.Debug("the wire is not back", "link", d.info.Name, "err", err)
			continue
		}
		info := dev.Info()
		if len(dev.Queues()) != len(d.queues) || info.MTU < d.info.MTU {
			d.log.Warn("a wire of that name is another one", "link", d.info.Name, "mtu", info.MTU, "queues", len(dev.Queues()))
			dev.Close()
			continue
		} else if !info.TX.Has(d.info.TX) || !d.info.RX.Has(info.RX) {
			dev = Complete(dev, d.info.RX)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.closed {
			dev.Close()
			return
		}
		d.now = dev
		d.log.Info("the wire is back", "link", d.info.Name)
		if !bytes.Equal(info.Station, d.info.Station) {
			d.log.Warn("the wire delivers frames to another address than before: nothing arrives until this is started again, or the wire has its old address",
				"link", d.info.Name, "address", info.Station.String(), "before", d.info.Station.String())
		}
		d.come.Broadcast()
		return
	}
}

type reopenedQueue struct {
	dev *reopened
	i   int
}

func (q *reopenedQueue) Read(frames []Frame) (int, error) {
	for {
		dev, err := q.dev.current()
		if err != nil {
			return 0, err
		}
		n, err := dev.Queues()[q.i].Read(frames)
		if err == nil {
			return n, nil
		}
		q.dev.gone(dev, err)
	}
}

func (q *reopenedQueue) Write(frames []OutFrame) (int, error) {
	d := q.dev
	d.mu.Lock()
	dev, closed := d.now, d.closed
	d.mu.Unlock()
	if closed {
		return 0, ErrClosed
	}
	if dev != nil {
		n, err := dev.Queues()[q.i].Write(frames)
		if err == nil {
			return n, nil
		}
		d.mu.Lock()
		closed = d.closed
		d.mu.Unlock()
		if closed {
			return n, ErrClosed
		}
		d.gone(dev, err)
		d.drop(frames[n:])
		return n, nil
	}
	d.drop(frames)
	return 0, nil
}

// drop counts frames that there is no wire for.
func (d *reopened) drop(frames []OutFrame) {
	for i := range frames {
		if _, why, ok := d.info.CheckOut(&frames[i]); !ok {
			d.own.Drop(why)
		} else {
			d.own.Drop(DropTxDown)
		}
	}
}
