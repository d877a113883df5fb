package kernel

import (
	"encoding/binary"
	"slices"
	"time"
)

const etherLen = 14 // of an Ethernet header

// maxKnown bounds what is remembered of earlier events; a map that is full begins
// again.
const maxKnown = 4096

// names knows devices by namespace and index, for drops that come without a device.
type names struct{ known map[device]string }

type device struct {
	netns uint64
	index int
}

func (n *names) complete(e *Event) {
	if e.IfIndex == 0 {
		return
	}
	d := device{e.NetNS, e.IfIndex}
	if e.Dev == "" {
		e.Dev = n.known[d]
		return
	}
	if n.known == nil || len(n.known) >= maxKnown && n.known[d] == "" {
		n.known = make(map[device]string)
	}
	n.known[d] = e.Dev
}

// heads gives Xmit what StartXmit told of the same frame. Both come from one CPU
// without another frame of that buffer and device in between.
type heads struct{ started map[transmission]Event }

type transmission struct {
	cpu int
	skb uint64
	dev device
}

func (h *heads) complete(e *Event) {
	if e.Step != StartXmit && e.Step != Xmit {
		return
	}
	t := transmission{e.CPU, e.Skb, device{e.NetNS, e.IfIndex}}
	if e.Step == StartXmit {
		if h.started == nil || len(h.started) >= maxKnown {
			h.started = make(map[transmission]Event)
		}
		h.started[t] = *e
		return
	}
	start, ok := h.started[t]
	if !ok {
		return
	}
	delete(h.started, t)
	start.Step, start.Mono, start.RC = e.Step, e.Mono, e.RC
	*e = start
}

// ready gives Ready the datagram that its CPU received just before, for the tracepoint
// tells the socket only. Datagrams that are received together are queued in their order.
type ready struct{ received map[int][]Event } // by CPU, what is in no socket yet

// maxBatch bounds what a CPU receives together; the kernel's own bound is less.
const maxBatch = 256

func (r *ready) complete(e *Event) bool {
	waiting := r.received[e.CPU]
	switch e.Step {
	case Receive:
		if _, ok := e.udpPort(); !ok {
			return true
		}
		waiting = slices.DeleteFunc(waiting, func(w Event) bool { return w.Skb == e.Skb || e.Mono-w.Mono > atOnce })
		if len(waiting) == maxBatch {
			waiting = waiting[1:]
		}
		if r.received == nil {
			r.received = make(map[int][]Event)
		}
		r.received[e.CPU] = append(waiting, *e)
	case Drop, Consume, Queue: // it ended here, or goes on to another host
		if len(waiting) > 0 {
			r.received[e.CPU] = slices.DeleteFunc(waiting, func(w Event) bool { return w.Skb == e.Skb })
		}
	case Ready:
		i := slices.IndexFunc(waiting, func(w Event) bool {
			port, _ := w.udpPort()
			return port == e.Port && w.NetNS == e.NetNS && e.Mono-w.Mono <= atOnce
		})
		if i < 0 {
			return false
		}
		of := waiting[i]
		r.received[e.CPU] = slices.Delete(waiting, i, i+1)
		of.Step, of.Mono, of.Port = e.Step, e.Mono, e.Port
		*e = of
	}
	return true
}

// udpPort returns the port that a datagram is for.
func (e *Event) udpPort() (uint16, bool) {
	const udp = 17
	b := e.Head
	if !e.NoEth {
		b = b[min(etherLen, len(b)):]
	}
	switch {
	case e.Proto == 0x0800 && len(b) >= 20 && b[9] == udp && binary.BigEndian.Uint16(b[6:])&0x1fff == 0:
		b = b[min(int(b[0]&15)*4, len(b)):]
	case e.Proto == 0x86dd && len(b) >= 40 && b[6] == udp:
		b = b[40:]
	default:
		return 0, false
	}
	if len(b) < 8 {
		return 0, false
	}
	return binary.BigEndian.Uint16(b[2:]), true
}

// buffers knows on which device each buffer was last, for tracepoints that tell the
// buffer only.
type buffers struct{ now, before map[uint64]Event }

// atOnce is how long after a buffer's last step, and on the same CPU, what becomes of
// it there is told. Later its address may be another frame's, for not every way to
// free one can be seen.
const atOnce = time.Millisecond

// complete fills in the device of an event. It returns false if it is of no device as
// far as anybody knows: of another namespace's frame, or of no frame at all.
func (b *buffers) complete(e *Event) bool {
	if e.Dev != "" {
		if b.now == nil || len(b.now) >= maxKnown {
			b.now, b.before = make(map[uint64]Event), b.now
		}
		b.now[e.Skb] = *e
		return true
	}
	last, known := b.now[e.Skb]
	if !known {
		last, known = b.before[e.Skb]
	}
	switch e.Step {
	case Drop, Consume, CopyOut:
		delete(b.now, e.Skb)
		delete(b.before, e.Skb)
	}
	switch {
	case e.Where == "tun_get_user": // a new buffer, which a process writes to a tap
		return e.Step == Drop
	case e.Step == CopyOut: // what a tap's reader gets was transmitted as it is
		if !known || last.Step != StartXmit && last.Step != Xmit || last.Len != e.Len {
			return false
		}
	case !known || last.CPU != e.CPU || e.Mono-last.Mono > atOnce:
		return false
	}
	e.Dev = last.Dev
	if e.Proto == 0 {
		e.Proto = last.Proto
	}
	if e.Len == 0 {
		e.Len = last.Len
	}
	return true
}
