package trace

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/ustack/ustack/capture/filter"
	"github.com/ustack/ustack/capture/show"
	"github.com/ustack/ustack/link"
)

// A tracer is the observer of one Run. Nothing of the stack's may be waited for while mu is
// held: the stack's goroutines call Observe with locks of theirs.
type tracer struct {
	cfg   Config
	clock clock
	index map[string][]int // of counters by name; the families of IP share names
	out   chan Record
	full  chan struct{} // closed when Config.Frames frames have ended

	drops map[string]uint64 // the wire's counters when they were last looked at

	mu       sync.Mutex
	stopped  bool
	lost     uint64 // records, since the last that was not
	chosen   int    // frames that were selected
	ended    int    // of those
	flights  map[uint64]*flight
	now      *flight               // the one that the stack has
	held     map[heldKey][]*flight // fragments that wait for others
	numHeld  int
	pending  []*flight // answered by what has not been sent yet, oldest first
	flows    map[flowKey]*flow
	unread   map[place]datagram // that sockets have of frames
	lastSend map[flowKey]sent   // the last datagram of each flow that was handed to a socket
}

// A flight is a frame on its way.
type flight struct {
	id     uint64
	in     bool
	dev    string
	size   int // bytes
	head   []byte
	pkt    packet
	began  time.Time
	chosen bool
	begun  bool     // the first record was made
	kept   []Record // until the filter can tell whether the frame is selected

	// Of one that the stack has, or had.
	before        []uint64
	tcp, listener TCPSocket
	hasTCP        bool
	hasListener   bool
	hits          []hit
	replies       []reply
	completes     bool // a datagram of several fragments
	heldSince     time.Time
}

// A hit is a socket that was given a datagram, or had no room for it.
type hit struct {
	at            time.Time
	network       string
	local, remote netip.AddrPort
	bytes         int
	drop          string
}

// A reply is a frame that was sent while the stack had another, which it answers.
type reply struct {
	id  uint64
	how string
	pkt packet
}

func newTracer(cfg Config) *tracer {
	t := &tracer{
		cfg: cfg, clock: newClock(),
		index:   make(map[string][]int),
		out:     make(chan Record, queueLen),
		full:    make(chan struct{}),
		flights: make(map[uint64]*flight),
		held:    make(map[heldKey][]*flight),
		flows:   make(map[flowKey]*flow), unread: make(map[place]datagram), lastSend: make(map[flowKey]sent),
	}
	for i, name := range cfg.Stack.Counters() {
		t.index[name] = append(t.index[name], i)
	}
	return t
}

// Observe implements link.Observer.
func (t *tracer) Observe(ev *link.Event) {
	switch ev.Step {
	case link.StepUp:
		t.up(ev)
		return
	case link.StepDone:
		t.done(ev)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return
	}
	switch ev.Step {
	case link.StepRead:
		f := t.begin(ev, true)
		t.tell(f, ev.At, Record{Step: "read", Dev: f.dev, Len: f.size, Text: f.readText(ev)})
	case link.StepDropped:
		if f := t.flights[ev.Frame]; f != nil {
			t.finish(f, ev.At, verdict{end: EndDropped, reason: dropReason(f, ev.Drop), counter: ev.Drop})
		}
	case link.StepWrite:
		t.write(ev)
	case link.StepSent:
		if f := t.flights[ev.Frame]; f != nil {
			t.finish(f, ev.At, verdict{end: EndSent, reason: "the wire took it"})
		}
	case link.StepLost:
		if f := t.flights[ev.Frame]; f != nil {
			t.finish(f, ev.At, verdict{end: EndDropped, reason: dropReason(f, ev.Drop), counter: ev.Drop})
		}
	default:
		t.bytes(ev)
	}
}

// begin enters a frame.
func (t *tracer) begin(ev *link.Event, in bool) *flight {
	f := &flight{id: ev.Frame, in: in, dev: ev.Link, size: ev.Len(), began: ev.At}
	f.head = ev.AppendFrame(make([]byte, 0, min(f.size, HeadLen)), HeadLen)
	f.pkt = parse(f.head)
	t.flights[f.id] = f
	if fl := t.cfg.Filter; fl.NeedsVerdict() {
		f.chosen = true // whether it stays so, see finish
	} else {
		f.chosen = fl.Match(filter.Meta{In: in, WireLen: f.size}, f.head) && t.choose()
	}
	return f
}

// choose reports whether one more frame may be traced.
func (t *tracer) choose() bool {
	if t.cfg.Frames > 0 && t.chosen >= t.cfg.Frames {
		return false
	}
	t.chosen++
	return true
}

// up is told before the stack gets a frame. Nobody else's frame comes between this and done.
func (t *tracer) up(ev *link.Event) {
	t.mu.Lock()
	f := t.flights[ev.Frame]
	if f == nil || t.stopped {
		t.mu.Unlock()
		return
	}
	t.tell(f, ev.At, Record{Step: "filter", Dev: f.dev, Text: f.filterText()})
	p := &f.pkt
	isTCP := p.proto == protoTCP && p.ports
	t.mu.Unlock()
	if isTCP {
		f.tcp, f.hasTCP = t.cfg.Stack.TCPSocket(p.destination(), p.source())
		f.listener, f.hasListener = t.cfg.Stack.TCPSocket(p.destination(), netip.AddrPort{})
	}
	f.before = t.cfg.Stack.ReadCounters(nil)
	t.mu.Lock()
	t.now = f
	t.mu.Unlock()
}

// done is told when the stack has returned from a frame.
func (t *tracer) done(ev *link.Event) {
	t.mu.Lock()
	f := t.now
	t.mu.Unlock()
	if f == nil || f.id != ev.Frame {
		return
	}
	p := &f.pkt
	s := &after{}
	if p.proto == protoTCP && p.ports {
		s.drained = t.cfg.Stack.DrainTCP(p.destination(), p.source(), drainLimit)
		s.tcp, s.hasTCP = t.cfg.Stack.TCPSocket(p.destination(), p.source())
		s.listener, s.hasListener = t.cfg.Stack.TCPSocket(p.destination(), netip.AddrPort{})
	}
	if about, ok := p.icmpError(); ok && about.ports {
		s.hasOther = t.cfg.Stack.HasSocket(about.network4(), about.source(), about.destination())
	}
	s.delta = delta{index: t.index, before: f.before, after: t.cfg.Stack.ReadCounters(nil)}
	s.frame = ev.AppendFrame(nil, ev.Len())
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = nil
	if t.stopped {
		return
	}
	t.judge(f, s)
}

// finish ends a frame.
func (t *tracer) finish(f *flight, at time.Time, v verdict) {
	delete(t.flights, f.id)
	if t.cfg.Filter.NeedsVerdict() {
		f.chosen = t.cfg.Filter.Match(filter.Meta{In: f.in, WireLen: f.size, Dropped: v.end == EndDropped}, f.head) && t.choose()
	}
	t.tell(f, at, Record{
		Step: "end", Dev: f.dev, End: v.end, Reason: v.reason, Counter: v.counter, By: v.by, Other: v.other,
		Socket: v.socket, Owner: v.owner, Text: v.String(),
	})
	if !f.chosen {
		return
	}
	for _, r := range f.kept {
		t.queue(r)
	}
	f.kept = nil
	if t.ended++; t.ended == t.cfg.Frames {
		close(t.full)
	}
}

// abandon ends every frame that is under way, and the trace.
func (t *tracer) abandon(why string) {
	t.stopped = true
	now := time.Now()
	for _, f := range t.flights {
		t.finish(f, now, verdict{end: EndUnknown, reason: why})
	}
	t.held, t.pending, t.now = nil, nil, nil
}

// tell makes a record of a frame's step.
func (t *tracer) tell(f *flight, at time.Time, r Record) {
	if !f.chosen {
		return
	}
	r.Time, r.Frame, r.Side, r.Dir = t.clock.of(at), f.id, "user", "out"
	if f.in {
		r.Dir = "in"
	}
	if !f.begun {
		f.begun = true
		r.Head, r.Summary = f.head, show.Line(f.head, show.Options{WireLen: f.size, PartialChecksum: true})
		if len(f.head) >= 14 {
			r.Dst, r.Src = net.HardwareAddr(f.head[:6]).String(), net.HardwareAddr(f.head[6:12]).String()
		}
	}
	if t.cfg.Filter.NeedsVerdict() {
		f.kept = append(f.kept, r)
		return
	}
	t.queue(r)
}

// queue hands a record to the reader, or counts it.
func (t *tracer) queue(r Record) {
	r.Lost = t.lost
	select {
	case t.out <- r:
		t.lost = 0
	default:
		t.lost++
	}
}

// unseen tells of frames that the device has dropped before anybody saw them.
func (t *tracer) unseen(now map[string]uint64) {
	if t.cfg.Filter != nil && t.cfg.Filter.String() != "" && t.cfg.Filter.String() != "dropped" {
		return // whether they would be selected nobody knows
	}
	for _, why := range []link.Drop{link.DropRxShort, link.DropRxOversize, link.DropRxOffload, link.DropRxError, link.DropRxLost, link.DropRxLimit} {
		name := why.String()
		if n := now[name] - t.drops[name]; n > 0 && now[name] > t.drops[name] {
			t.mu.Lock()
			t.queue(Record{
				Time: t.clock.of(time.Now()), Side: "user", Step: "device", Dir: "in", Counter: name,
				Text: fmt.Sprintf("%d frames that nobody has seen were dropped: %s (%s)", n, unseenReasons[why], name),
			})
			t.mu.Unlock()
		}
	}
	t.drops = now
}

var unseenReasons = map[link.Drop]string{
	link.DropRxShort:    "shorter than an Ethernet header",
	link.DropRxOversize: "longer than any frame may be",
	link.DropRxOffload:  "their virtio header says what cannot be; its length may not be the one that the device has",
	link.DropRxError:    "the device could not be read",
	link.DropRxLost:     "lost on the impaired wire",
	link.DropRxLimit:    "the queue of the impaired wire was full",
}

// write begins a frame that is sent.
func (t *tracer) write(ev *link.Event) {
	f := t.begin(ev, false)
	text := fmt.Sprintf("%d bytes", f.size)
	if ev.Offload.GSOSize > 0 && ev.Offload.GSOType != link.GSONone {
		text += fmt.Sprintf(" in segments of %d", ev.Offload.GSOSize)
	}
	r := Record{Step: "write", Dev: f.dev, Len: f.size}
	if in, how := t.answered(f); in != nil {
		text += fmt.Sprintf(", %s to frame %d", how, in.id)
		r.Other = in.id
	}
	r.Text = text
	t.fromSocket(f, &r)
	t.tell(f, ev.At, r)
}

// answered finds the frame that f answers, if one is known.
func (t *tracer) answered(f *flight) (in *flight, how string) {
	if t.now != nil {
		asked := &t.now.pkt
		if asked.offset > 0 {
			if first := t.firstFragment(asked); first != nil {
				asked = &first.pkt // what is answered is the datagram
			}
		}
		if how, ok := answers(asked, &f.pkt); ok {
			t.now.replies = append(t.now.replies, reply{f.id, how, f.pkt})
			return t.now, how
		}
		if t.now.pkt.same(&f.pkt) {
			t.now.replies = append(t.now.replies, reply{f.id, forwardedAs, f.pkt})
			return t.now, forwardedAs
		}
	}
	for i, in := range t.pending {
		if how, ok := answers(&in.pkt, &f.pkt); ok {
			t.pending = append(t.pending[:i], t.pending[i+1:]...)
			return in, how
		}
	}
	return nil, ""
}

// forwardedAs is the how of a reply that is no answer.
const forwardedAs = "forwarded"

// filterText says why a frame is for this station.
func (f *flight) filterText() string {
	switch {
	case f.head[0]&1 == 0:
		return "for this station"
	case string(f.head[:6]) == "\xff\xff\xff\xff\xff\xff":
		return "broadcast"
	}
	return "multicast"
}

// readText says what the device told of a frame.
func (f *flight) readText(ev *link.Event) string {
	text := fmt.Sprintf("%d bytes", f.size)
	o := &ev.Offload
	if o.GSOType != link.GSONone {
		text += fmt.Sprintf(" in segments of %d", o.GSOSize)
	}
	switch {
	case o.NeedsCsum:
		text += ", checksum left to do"
	case o.DataValid:
		text += ", checksum vouched for"
	}
	return text
}

// dropReason says in words what a counter of the link's means.
func dropReason(f *flight, counter string) string {
	switch counter {
	case "rx_otherhost":
		return fmt.Sprintf("for another station: its destination is %v", net.HardwareAddr(f.head[:min(6, len(f.head))]))
	case "rx_detached":
		return "no stack was attached"
	case "rx_short":
		return "shorter than an Ethernet header"
	case "tx_down":
		return "the interface is down on the host (EIO)"
	case "tx_full":
		return "the device's queue is full: nobody reads it, or too slowly"
	case "tx_ended":
		return "the device has ended"
	case "tx_oversize":
		return "longer than the device's MTU"
	case "tx_offload":
		return "its checksum or segmentation could not be finished"
	case "tx_lost", "tx_limit":
		return "lost on the impaired wire"
	case "tx_error":
		return "the device refused it"
	}
	return "the device counted more than one reason, or none"
}
