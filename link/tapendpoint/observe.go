package tapendpoint

import (
	"sync"

	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/ustack/ustack/link"
)

// receiveObserved is receive while there are observers. Segments are not merged, so that
// each frame read is a packet of the stack's.
func (e *Endpoint) receiveObserved(w *link.Watching, queue int, frames []link.Frame) {
	for i := range frames {
		f := &frames[i]
		ev := link.Event{
			Step: link.StepRead, Link: e.info.Name, Queue: queue, Frame: w.NewFrame(),
			Pieces: [][]byte{f.Buf[:f.N]}, Offload: f.Offload,
		}
		w.Observe(&ev)
		in, drop := e.accept(f)
		if drop != "" {
			ev.Step, ev.Drop = link.StepDropped, drop
			w.Observe(&ev)
			continue
		}
		ev.Step = link.StepUp
		if w.Serial() {
			e.deliverAlone(w, &ev, in, f.Offload.Vouched())
			continue
		}
		w.Observe(&ev)
		e.deliver(in, f.Offload.Vouched())
	}
}

// deliverAlone is deliver while no other frame is being delivered, not even one that
// was read before there were observers.
func (e *Endpoint) deliverAlone(w *link.Watching, ev *link.Event, in incoming, vouched bool) {
	e.vouched.Lock()
	defer e.vouched.Unlock()
	w.Observe(ev)
	e.verify.Store(!vouched)
	e.handOver(in, copyFrame(in.frame))
	e.verify.Store(false)
	ev.Step = link.StepDone
	w.Observe(ev)
}

// txObserve is what tells why the device did not take a frame: the device counts, and
// what it counts while no other frame is written is that frame's doing.
type txObserve struct {
	mu    sync.Mutex
	w     *link.Watching    // for whom drops was taken
	drops map[string]uint64 // the device's, before the frame
}

// writeObserved is WritePackets while there are observers. It returns the number of packets.
func (e *Endpoint) writeObserved(w *link.Watching, list []*gstack.PacketBuffer) int {
	b := batches.Get().(*sendBatch)
	defer b.release()
	for _, pkt := range list {
		b.frames, b.pieces = b.frames[:0], b.pieces[:0]
		b.add(pkt)
		b.cut()
		e.writeAlone(w, e.queueFor(pkt), b.frames)
	}
	return len(list)
}

// writeAlone writes one frame.
func (e *Endpoint) writeAlone(w *link.Watching, queue int, one []link.OutFrame) {
	ev := link.Event{
		Step: link.StepWrite, Link: e.info.Name, Queue: queue, Frame: w.NewFrame(),
		Pieces: one[0].Pieces, Offload: one[0].Offload,
	}
	t := &e.txObserve
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.w != w {
		t.w, t.drops = w, e.dev.Stats().Drops
	}
	w.Observe(&ev)
	n, err := e.queues[queue].Write(one)
	switch {
	case err != nil:
		e.stats.txEnded.Add(1)
		ev.Step, ev.Drop = link.StepLost, txEnded
	case n == 0:
		now := e.dev.Stats().Drops
		ev.Step, ev.Drop = link.StepLost, counted(t.drops, now)
		t.drops = now
	default:
		ev.Step = link.StepSent
	}
	w.Observe(&ev)
}

// counted returns the one reason for a frame sent that has been counted since, or
// "unknown" where there is more than one.
func counted(before, now map[string]uint64) string {
	why := ""
	for name, n := range now {
		if len(name) < 3 || name[:3] != "tx_" || n == before[name] {
			continue
		}
		if why != "" {
			return "unknown"
		}
		why = name
	}
	if why == "" {
		return "unknown"
	}
	return why
}
