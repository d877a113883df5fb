package kernel

import "time"

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
