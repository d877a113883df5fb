package trace

import (
	"net/netip"
	"time"

	"github.com/ustack/ustack/link"
)

// A flowKey is a socket's port and its peer: what a frame and the bytes of a socket have
// in common, whatever address the socket is bound to.
type flowKey struct {
	network string
	port    uint16
	remote  netip.AddrPort
}

// A flow is what is under way between the stack and a program.
type flow struct {
	// untold are the datagrams that a reader has taken and that were not handed to a program
	// yet, oldest first.
	untold []datagram
	stream stream
	// traced says that a frame of it was selected.
	traced bool
}

// A datagram is one that came in a frame.
type datagram struct {
	flight *flight
	socket any
}

// A place is where in a socket's queue a datagram is.
type place struct {
	socket any
	number uint64
}

// A sent is a datagram that was handed to a socket.
type sent struct {
	at     time.Time
	bytes  int
	client time.Time // when its program wrote it, zero if no program did
	owner  string
}

func keyOf(network string, local, remote netip.AddrPort) flowKey {
	if network == "icmp" {
		return flowKey{network, 0, netip.AddrPortFrom(remote.Addr().Unmap(), 0)}
	}
	return flowKey{network, local.Port(), netip.AddrPortFrom(remote.Addr().Unmap().WithZone(""), remote.Port())}
}

// key returns the flow of a frame, if it has one.
func (f *flight) key() (k flowKey, ok bool) {
	p := &f.pkt
	local, remote := p.source(), p.destination()
	if f.in {
		local, remote = remote, local
	}
	switch {
	case !p.ports && p.icmp:
		return keyOf("icmp", local, remote), true
	case !p.ports:
		return k, false
	case p.proto == protoTCP:
		return keyOf("tcp", local, remote), true
	}
	return keyOf("udp", local, remote), true
}

// flow returns what is known of a flow, from now on.
func (t *tracer) flow(k flowKey) *flow {
	fl := t.flows[k]
	if fl == nil {
		if len(t.flows) >= maxFlows {
			for old := range t.flows { // any: there is no bound to what the wire can begin
				delete(t.flows, old)
				break
			}
		}
		fl = new(flow)
		t.flows[k] = fl
	}
	return fl
}

// bytes is told of the bytes of sockets and programs.
func (t *tracer) bytes(ev *link.Event) {
	k := keyOf(ev.Network, ev.Local, ev.Remote)
	switch ev.Step {
	case link.StepSocketIn:
		t.arrive(ev)
	case link.StepClientOut, link.StepSocketWrite:
		t.depart(k, ev)
	case link.StepSocketRead:
		t.taken(k, ev, "read by its owner", false)
	case link.StepClientIn:
		t.taken(k, ev, "handed to "+orWord(ev.Owner, "a program"), true)
	}
}

// arrive is told of a datagram that reached a socket.
func (t *tracer) arrive(ev *link.Event) {
	f := t.now
	if f == nil || !f.pkt.src.IsValid() || ev.Remote.Addr().Unmap() != f.pkt.src {
		return // not from the wire
	}
	f.hits = append(f.hits, hit{ev.At, ev.Network, ev.Local, ev.Remote, ev.Bytes, ev.Drop})
	if ev.Number == 0 {
		return
	}
	if len(t.unread) >= maxQueued {
		clear(t.unread) // their readers are not told of
	}
	t.unread[place{ev.Socket, ev.Number}] = datagram{f, ev.Socket}
}

// taken is told that a reader or a program got bytes. Of a datagram it is known in which frame
// it came; bytes of a stream are told of by themselves.
func (t *tracer) taken(k flowKey, ev *link.Event, text string, last bool) {
	r := Record{
		Time: t.clock.of(ev.At), Side: "user", Step: ev.Step.String(), Len: ev.Bytes, Text: text,
		Socket: socketName(ev.Network, ev.Local, ev.Remote), Owner: ev.Owner,
	}
	if r.Owner == "" {
		r.Owner = t.owner(ev.Network, ev.Local, ev.Remote)
	}
	var d datagram
	switch {
	case ev.Network == "tcp":
		if fl := t.flows[k]; fl != nil && fl.traced {
			t.queue(r)
		}
		return
	case last:
		fl := t.flows[k]
		if fl == nil || len(fl.untold) == 0 {
			return // it came before the trace began
		}
		// Who passes datagrams on has one of a socket in its hand at a time.
		d = fl.untold[len(fl.untold)-1]
		all := fl.untold
		fl.untold = nil
		for _, other := range all {
			if other.socket != d.socket && other.flight != d.flight { // it may be any
				return
			}
		}
	default:
		at := place{ev.Socket, ev.Number}
		var ok bool
		if d, ok = t.unread[at]; !ok {
			return
		}
		delete(t.unread, at)
		fl := t.flow(k)
		if len(fl.untold) >= maxUntold {
			fl.untold = fl.untold[1:]
		}
		fl.untold = append(fl.untold, d)
	}
	if d.flight.chosen {
		r.Frame, r.Dir = d.flight.id, "in"
		t.queue(r)
	}
}

// depart is told that bytes were handed to a socket. They are told of with the frame that they
// leave in, if that can be known.
func (t *tracer) depart(k flowKey, ev *link.Event) {
	client := ev.Step == link.StepClientOut
	if ev.Network == "tcp" {
		fl := t.flows[k]
		if fl != nil && fl.stream.depart(ev) {
			return // it is told of with its frames
		}
		if fl != nil && fl.traced {
			text := "written to the socket"
			if client {
				text = "written by " + orWord(ev.Owner, "a program")
			}
			t.queue(Record{
				Time: t.clock.of(ev.At), Side: "user", Step: ev.Step.String(), Len: ev.Bytes, Text: text,
				Socket: socketName(ev.Network, ev.Local, ev.Remote), Owner: ev.Owner,
			})
		}
		return
	}
	if len(t.lastSend) >= maxFlows {
		clear(t.lastSend)
	}
	s := t.lastSend[k]
	if client {
		s = sent{client: ev.At, bytes: ev.Bytes, owner: ev.Owner}
	} else {
		if s.bytes != ev.Bytes || !s.at.IsZero() {
			s = sent{bytes: ev.Bytes}
		}
		s.at = ev.At
	}
	t.lastSend[k] = s
}

// fromSocket tells from which socket a frame is, and when its datagram was handed to it.
func (t *tracer) fromSocket(f *flight, r *Record) {
	k, ok := f.key()
	if !ok {
		return
	}
	network, local, remote := k.network, f.pkt.source(), f.pkt.destination()
	if network == "tcp" {
		t.fromStream(t.flow(k), f, r)
	}
	if network != "icmp" {
		r.Owner = t.owner(network, local, remote)
		r.Socket = socketName(network, local, remote)
	}
	s, ok := t.lastSend[k]
	bytes := f.pkt.payload()
	if network == "icmp" {
		bytes = f.pkt.end - f.pkt.l4
	}
	if network == "tcp" || !ok || s.at.IsZero() || !f.pkt.fragment && s.bytes != bytes || r.Other != 0 {
		return
	}
	delete(t.lastSend, k)
	if r.Owner == "" {
		r.Owner = s.owner
	}
	name := socketName(network, local, remote)
	if !s.client.IsZero() {
		t.tell(f, s.client, Record{
			Step: link.StepClientOut.String(), Len: s.bytes, Text: "written by " + orWord(s.owner, "a program"), Socket: name, Owner: s.owner,
		})
	}
	t.tell(f, s.at, Record{Step: link.StepSocketWrite.String(), Len: s.bytes, Text: "handed to the socket", Socket: name, Owner: r.Owner})
}

func (t *tracer) owner(network string, local, remote netip.AddrPort) string {
	if t.cfg.Owner == nil {
		return ""
	}
	return t.cfg.Owner(network, local, remote)
}

// socketName names a socket by its addresses.
func socketName(network string, local, remote netip.AddrPort) string {
	show := func(ap netip.AddrPort) string {
		if network == "icmp" {
			return ap.Addr().String()
		}
		return ap.String()
	}
	if !remote.IsValid() {
		return network + " " + show(local)
	}
	return network + " " + show(local) + " > " + show(remote)
}

func orWord(s, or string) string {
	if s == "" {
		return or
	}
	return s
}
