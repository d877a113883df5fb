package kernel

import "slices"

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
// buffer only. It learns from drops and from consume_skb which ones are free.
type buffers struct{ now, before map[uint64]Event }

// complete fills in the device of an event. It returns false for one that is not of
// a frame: another kind of message, or a socket's read.
func (b *buffers) complete(e *Event) bool {
	if e.Dev != "" {
		if b.now == nil || len(b.now) >= maxKnown {
			b.now, b.before = make(map[uint64]Event), b.now
		}
		b.now[e.Skb] = *e
		return true
	}
	last, ok := b.now[e.Skb]
	if !ok {
		last, ok = b.before[e.Skb]
	}
	if e.Step == Drop || e.Step == Consume {
		delete(b.now, e.Skb)
		delete(b.before, e.Skb)
	}
	// Not every way to free a buffer can be seen, but here it is new for certain.
	if e.Where == "tun_get_user" {
		return e.Step == Drop
	}
	e.Dev = last.Dev
	if e.Proto == 0 {
		e.Proto = last.Proto
	}
	if e.Len == 0 {
		e.Len = last.Len
	}
	switch e.Step {
	case Drop:
		return true
	case Consume:
		return ok && slices.Contains(consumers(), e.Where)
	case CopyOut: // what a tap's reader gets has been transmitted
		return ok && (last.Step == StartXmit || last.Step == Xmit)
	}
	return ok
}
