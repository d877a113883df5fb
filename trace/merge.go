package trace

import (
	"container/heap"
	"net"
	"time"

	"github.com/ustack/ustack/capture/filter"
	"github.com/ustack/ustack/capture/show"
	"github.com/ustack/ustack/trace/kernel"
	"github.com/ustack/ustack/trace/key"
)

// How long a step waits for those before it, which may come later from the other side;
// and then for the frame that it is a step of to be told of.
const (
	orderWindow = 30 * time.Millisecond
	frameWindow = 100 * time.Millisecond
)

// A Merge puts the steps of a stack and those of the kernel into one order of time, and
// finds of which frame the kernel's are. It is for one goroutine.
type Merge struct {
	// Link is the device of the stack, and MACs are the stack's. Packets that no stack
	// tells of are left out unless they pass there, or are to or from these, and the kernel has
	// dropped them.
	Link string
	MACs []net.HardwareAddr
	// Filter selects the packets that only the kernel has seen; nil selects all.
	Filter *filter.Filter

	follower kernel.Follower
	early    stepHeap
	ordered  []mergeStep
	packets  map[uint64]*packetSeen
	numbers  []uint64 // of packets, oldest first
	arrivals uint64
}

// A mergeStep is one step on its way through a Merge.
type mergeStep struct {
	rec    Record
	event  *kernel.Event // of the kernel's
	number uint64        // of the packet; 0 for the bytes of a socket
	order  uint64        // of arrival, where times are equal
}

// A packetSeen is what is known of a packet.
type packetSeen struct {
	frame   uint64 // the stack's number of it, 0 unless it told
	dir     string
	what    string // in one line, until a step has told it
	ours    bool   // about the stack
	dropped bool   // by the kernel
	blind   bool   // there was nothing to recognise it by
}

// maxSeen is how many packets are remembered.
const maxSeen = 16 << 10

// User takes a step of the stack's.
func (m *Merge) User(r Record) { m.take(mergeStep{rec: r}) }

// Kernel takes a step of the kernel's.
func (m *Merge) Kernel(e kernel.Event) {
	r := Record{
		Time: int64(e.Mono), Side: "kernel", Step: e.Step, Dev: e.Dev, Len: e.Len, Text: e.Text(),
		Reason: e.Reason, Where: e.Where, NetNS: e.NetNS,
	}
	if !e.NoEth && len(e.Head) >= 14 {
		r.Dst, r.Src = net.HardwareAddr(e.Head[:6]).String(), net.HardwareAddr(e.Head[6:12]).String()
	}
	m.take(mergeStep{rec: r, event: &e})
}

func (m *Merge) take(s mergeStep) {
	m.arrivals++
	s.order = m.arrivals
	heap.Push(&m.early, s)
}

// Next returns the next step that is old enough at a time of CLOCK_MONOTONIC. A step of the
// kernel has the number and direction of its frame, or Packet if no frame is known.
func (m *Merge) Next(now time.Duration) (Record, bool) {
	for len(m.early) > 0 && time.Duration(m.early[0].rec.Time)+orderWindow <= now {
		m.identify(heap.Pop(&m.early).(mergeStep))
	}
	for len(m.ordered) > 0 {
		s := m.ordered[0]
		if time.Duration(s.rec.Time)+orderWindow+frameWindow > now {
			break
		}
		m.ordered = m.ordered[1:]
		if m.attach(&s) {
			return s.rec, true
		}
	}
	return Record{}, false
}

// identify finds out which packet a step is of.
func (m *Merge) identify(s mergeStep) {
	if s.event != nil {
		s.number = m.follower.Packet(*s.event)
		p := m.packet(s.number)
		p.dropped = p.dropped || s.event.Step == kernel.Drop
		p.blind = p.blind || len(s.event.Head) == 0
		p.ours = p.ours || m.isOurs(s.event)
	} else if s.rec.Head != nil && s.rec.Frame != 0 {
		if k, ok := key.Of(s.rec.Head); ok {
			s.number = m.follower.Packets.See(time.Duration(s.rec.Time), k, "stack "+s.rec.Dir)
			p := m.packet(s.number)
			p.frame, p.dir, p.what = s.rec.Frame, s.rec.Dir, s.rec.Summary
		}
	}
	m.ordered = append(m.ordered, s)
}

func (m *Merge) packet(number uint64) *packetSeen {
	if p := m.packets[number]; p != nil {
		return p
	}
	if m.packets == nil {
		m.packets = make(map[uint64]*packetSeen)
	}
	if len(m.numbers) >= maxSeen {
		delete(m.packets, m.numbers[0])
		m.numbers = m.numbers[1:]
	}
	p := new(packetSeen)
	m.packets[number] = p
	m.numbers = append(m.numbers, number)
	return p
}

// isOurs reports whether a step is about the stack, as far as it shows.
func (m *Merge) isOurs(e *kernel.Event) bool {
	if len(e.Head) > 0 && m.Filter != nil {
		meta := filter.Meta{In: !m.isMAC(e.Head, 6), WireLen: e.Len, Dropped: e.Step == kernel.Drop}
		if e.NoEth || !m.Filter.Match(meta, e.Head) {
			return false
		}
	}
	if e.Dev == m.Link {
		return m.Filter == nil || len(e.Head) > 0
	}
	return !e.NoEth && (m.isMAC(e.Head, 0) || m.isMAC(e.Head, 6))
}

// isMAC reports whether one of the stack's addresses is at an offset of a frame.
func (m *Merge) isMAC(frame []byte, at int) bool {
	if len(frame) < 14 {
		return false
	}
	for _, mac := range m.MACs {
		if string(frame[at:at+6]) == string(mac) {
			return true
		}
	}
	return false
}

// attach gives a step its frame, and reports whether it is to be shown.
func (m *Merge) attach(s *mergeStep) bool {
	if s.event == nil {
		return true
	}
	p := m.packets[s.number]
	switch {
	case p == nil:
		return false
	case p.frame != 0:
		s.rec.Frame, s.rec.Dir, s.rec.Summary = p.frame, p.dir, p.what
		p.what = ""
		return true
	case p.ours && (p.dropped || p.blind):
		s.rec.Packet = s.number
		s.rec.Head = s.event.Head
		if !s.event.NoEth && len(s.event.Head) > 0 {
			s.rec.Summary = show.Line(s.event.Head, show.Options{WireLen: s.event.Len, PartialChecksum: true})
		}
		return true
	}
	return false
}

// A stepHeap has the earliest step first.
type stepHeap []mergeStep

func (h stepHeap) Len() int { return len(h) }
func (h stepHeap) Less(i, j int) bool {
	if h[i].rec.Time != h[j].rec.Time {
		return h[i].rec.Time < h[j].rec.Time
	}
	return h[i].order < h[j].order
}
func (h stepHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *stepHeap) Push(x any) { *h = append(*h, x.(mergeStep)) }

// Pop implements heap.Interface.
func (h *stepHeap) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	(*h)[last] = mergeStep{}
	*h = (*h)[:last]
	return s
}
