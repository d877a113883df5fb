package trace

import (
	"fmt"
	"strings"
	"time"
)

// judgeTransport finds what became of a packet that IP passed on.
func (t *tracer) judgeTransport(f *flight, s *after) verdict {
	p, d := &f.pkt, &s.delta
	if c := d.first("nic.unknown_l4_protocol_rcvd_packet_counts"); c != "" {
		return f.answeredOr(dropped(c, "no protocol %d", p.proto), d)
	}
	switch p.proto {
	case protoUDP:
		return t.judgeUDP(f, s)
	case protoTCP:
		return t.judgeTCP(f, s)
	case protoICMP:
		return t.judgeICMP(f, s)
	case protoICMP6:
		return t.judgeICMP6(f, s)
	case protoIGMP:
		if c := d.first("igmp.packets_received.checksum_errors", "igmp.packets_received.invalid", "igmp.packets_received.unrecognized"); c != "" {
			return dropped(c, "invalid, or without the options and the time to live that IGMP has")
		}
		return verdict{end: EndDelivered, socket: "the stack's IGMP"}
	}
	if v, ok := f.replied(); ok {
		return v
	}
	if c := d.first("nic.malformed_l4_rcvd_packets"); c != "" {
		return dropped(c, "malformed")
	}
	return verdict{end: EndUnknown, reason: fmt.Sprintf("protocol %d was passed on, and counted nothing", p.proto)}
}

// answeredOr returns v, unless the frame was answered, for the same reason; or why it was not.
func (f *flight) answeredOr(v verdict, d *delta) verdict {
	if a, ok := f.replied(); ok {
		a.reason, a.counter = v.reason, v.counter
		return a
	}
	for _, family := range []string{"icmp.v4", "icmp.v6"} {
		if d.of(family+".packets_sent.rate_limited") > 0 {
			v.reason += "; the ICMP error was left out, there have been too many (" + family + ".packets_sent.rate_limited)"
		}
		if d.of(family+".packets_sent.dst_unreachable") > 0 {
			return verdict{end: EndAnswered, by: "ICMP unreachable", reason: v.reason + "; the answer waits for a link address", counter: v.counter}
		}
	}
	return v
}

// sockets returns the sockets that took a frame's datagram, and those that had no room.
func (f *flight) sockets(network string) (took []hit, full []hit) {
	for _, h := range f.hits {
		switch {
		case h.network != network:
		case h.drop == "":
			took = append(took, h)
		default:
			full = append(full, h)
		}
	}
	return took, full
}

// delivery is the verdict for a datagram that sockets took.
func (t *tracer) delivery(took []hit) verdict {
	v := verdict{end: EndDelivered}
	var names, owners []string
	for i := range took {
		h := &took[i]
		names = append(names, socketName(h.network, h.local, h.remote))
		if o := t.owner(h.network, h.local, h.remote); o != "" {
			owners = append(owners, o)
		}
	}
	v.socket, v.owner = strings.Join(names, " and "), strings.Join(owners, " and ")
	return v
}

func (t *tracer) judgeUDP(f *flight, s *after) verdict {
	p, d := &f.pkt, &s.delta
	took, full := f.sockets("udp")
	for i := range f.hits {
		h := &f.hits[i]
		text := fmt.Sprintf("%d bytes queued", h.bytes)
		if h.drop != "" {
			text = fmt.Sprintf("%d bytes, and no room for them", h.bytes)
		}
		t.tell(f, h.at, Record{Step: "socket", Len: h.bytes, Text: text, Socket: socketName(h.network, h.local, h.remote),
			Owner: t.owner(h.network, h.local, h.remote)})
	}
	switch {
	case len(took) > 0:
		return t.delivery(took)
	case len(full) > 0:
		h := &full[0]
		v := dropped(h.drop, "the receive buffer is full: %s", orWord(t.owner(h.network, h.local, h.remote), "its owner")+" reads too slowly")
		v.socket = socketName(h.network, h.local, h.remote)
		return v
	case d.of("udp.checksum_errors") > 0:
		return dropped("udp.checksum_errors", "wrong UDP checksum")
	case d.of("udp.malformed_packets_received") > 0:
		return dropped("udp.malformed_packets_received", "the UDP length is not that of the packet")
	case d.of("udp.unknown_port_errors") > 0:
		return f.answeredOr(dropped("udp.unknown_port_errors", "no socket on UDP port %d", p.dport), d)
	case d.of("nic.malformed_l4_rcvd_packets") > 0:
		return dropped("nic.malformed_l4_rcvd_packets", "truncated UDP header")
	case d.of("udp.receive_buffer_errors") > 0:
		return dropped("udp.receive_buffer_errors", "the receive buffer is full, or the socket closed for reading")
	case d.of("udp.packets_received") > 0:
		return verdict{end: EndQueued, socket: socketName("udp", p.destination(), p.source())}
	}
	if v, ok := f.replied(); ok {
		return v
	}
	return verdict{end: EndUnknown, reason: "UDP counted nothing"}
}

// judgeICMP and judgeICMP6 are about messages to the stack's own addresses.
func (t *tracer) judgeICMP(f *flight, s *after) verdict {
	d := &s.delta
	const received, sent = "icmp.v4.packets_received.", "icmp.v4.packets_sent."
	took, full := f.sockets("icmp")
	switch {
	case d.of(received+"invalid") > 0:
		return dropped(received+"invalid", "%s", f.malformedICMP())
	case d.of(received+"echo_request") > 0:
		if v, ok := f.replied(); ok {
			return v
		}
		switch {
		case d.of(sent+"rate_limited") > 0:
			return dropped(sent+"rate_limited", "there have been too many to answer")
		case d.of(sent+"dropped") > 0:
			return dropped(sent+"dropped", "the reply could not be sent")
		case d.of(sent+"echo_reply") > 0:
			return verdict{end: EndAnswered, by: "ICMP echo reply", reason: "it waits for a link address"}
		}
		return dropped("", "the stack does not answer an echo request to %v", f.pkt.dst)
	}
	return t.judgeMessage(f, s, took, full)
}

func (t *tracer) judgeICMP6(f *flight, s *after) verdict {
	d := &s.delta
	const received, sent = "icmp.v6.packets_received.", "icmp.v6.packets_sent."
	took, full := f.sockets("icmp")
	if c := d.first(received+"invalid", received+"router_only_packets_dropped_by_host", received+"unrecognized"); c != "" {
		return dropped(c, "%s", f.malformedICMP())
	}
	switch {
	case d.of(received+"echo_request") > 0, d.of(received+"neighbor_solicit") > 0:
		if v, ok := f.replied(); ok {
			return v
		}
		switch {
		case d.of(sent+"rate_limited") > 0:
			return dropped(sent+"rate_limited", "there have been too many to answer")
		case d.of(sent+"dropped") > 0:
			return dropped(sent+"dropped", "the answer could not be sent")
		case d.of(sent+"echo_reply") > 0:
			return verdict{end: EndAnswered, by: "ICMP echo reply", reason: "it waits for a link address"}
		case d.of(sent+"neighbor_advert") > 0:
			return verdict{end: EndAnswered, by: "neighbour advertisement"}
		}
		return dropped("", "the stack has no answer: not for an address of its own")
	case d.of(received+"neighbor_advert") > 0 && d.of(unasked) > 0:
		return dropped(unasked, "the stack had not asked for it")
	case d.first(received+"neighbor_advert", received+"router_advert", received+"redirect_msg") != "":
		return verdict{end: EndDelivered, socket: "the stack's neighbour discovery"}
	case d.first(received+"multicast_listener_query", received+"multicast_listener_report",
		received+"multicast_listener_report_v2", received+"multicast_listener_done") != "":
		return verdict{end: EndDelivered, socket: "the stack's multicast listener discovery"}
	}
	return t.judgeMessage(f, s, took, full)
}

// judgeMessage is about replies and errors, which are for sockets.
func (t *tracer) judgeMessage(f *flight, s *after, took, full []hit) verdict {
	for _, h := range took {
		t.tell(f, h.at, Record{Step: "socket", Len: h.bytes, Text: fmt.Sprintf("%d bytes queued", h.bytes), Socket: socketName(h.network, h.local, h.remote)})
	}
	if about, ok := f.pkt.icmpError(); ok && s.hasOther {
		network := about.network4()
		v := verdict{end: EndDelivered, socket: socketName(network, about.source(), about.destination()), reason: "an error about what it had sent"}
		v.owner = t.owner(network, about.source(), about.destination())
		return v
	}
	switch {
	case len(took) > 0:
		return t.delivery(took)
	case len(full) > 0:
		return dropped(full[0].drop, "the receive buffer of the ICMP socket is full")
	}
	return dropped("", "no socket waits for it")
}

func (f *flight) malformedICMP() string {
	p := &f.pkt
	if !p.icmp {
		return "truncated ICMP header"
	}
	return fmt.Sprintf("invalid: a wrong checksum, or type %d as nobody sends it here", p.icmpType)
}

// judgeTCP is about a segment that was worked on, if s.drained.
func (t *tracer) judgeTCP(f *flight, s *after) verdict {
	p, d := &f.pkt, &s.delta
	if k, ok := f.key(); ok && f.chosen {
		t.flow(k).traced = true
	}
	name := socketName("tcp", p.destination(), p.source())
	if !p.ports || p.tcpHead == 0 && !f.hasTCP {
		return dropped(d.first("nic.malformed_l4_rcvd_packets", "tcp.invalid_segments_received"), "malformed TCP header")
	}
	if !f.hasTCP {
		return f.noSocket(s)
	}
	was, now := f.tcp, s.tcp
	isListener := !was.Remote.IsValid() || was.Remote.Port() == 0
	if isListener {
		was, now = f.listener, s.listener
		name = socketName("tcp", was.Local, was.Remote) + " (listener)"
	} else if s.tcp.Remote != was.Remote {
		s.hasTCP = false // the connection has gone, and a listener has its place
	}
	if s.hasTCP && !isListener || isListener && s.hasListener {
		switch {
		case now.Malformed > was.Malformed:
			return dropped("tcp.invalid_segments_received", "malformed TCP header")
		case now.Checksum > was.Checksum:
			return dropped("tcp.checksum_errors", "wrong TCP checksum")
		case now.QueueFull > was.QueueFull:
			return dropped("dropped_packets", "the socket's queue is full: %s", name)
		case now.SynOverflow > was.SynOverflow:
			return dropped("tcp.listen_overflow_syn_drop", "the backlog of %s is full", name)
		case now.AckOverflow > was.AckOverflow:
			return dropped("tcp.listen_overflow_ack_drop", "the backlog of %s is full", name)
		}
	}
	if !s.drained {
		return verdict{end: EndQueued, socket: name, reason: "it has not been worked on yet"}
	}
	if isListener {
		return t.toListener(f, s, name)
	}
	t.tell(f, time.Now(), Record{Step: "socket", Text: "worked on in state " + was.State, Socket: name})
	return t.toConnection(f, s, name)
}

// noSocket is about a segment for a port that nobody has.
func (f *flight) noSocket(s *after) verdict {
	p, d := &f.pkt, &s.delta
	if v, ok := f.replied(); ok {
		v.reason = fmt.Sprintf("no socket on TCP port %d", p.dport)
		return v
	}
	c := d.first("nic.malformed_l4_rcvd_packets", "tcp.invalid_segments_received")
	switch {
	case c != "" && p.tcpHead > 0 && !p.fragment && !transportSum(s.frame, p):
		return dropped(c, "wrong TCP checksum, and no socket on TCP port %d", p.dport)
	case c != "":
		return dropped(c, "malformed, or not between two single stations")
	case p.flags&tcpRST != 0:
		return dropped("", "a reset of a connection that is not there")
	case d.of("tcp.resets_sent") > 0:
		return verdict{end: EndAnswered, by: "RST", reason: fmt.Sprintf("no socket on TCP port %d; it waits for a link address", p.dport)}
	}
	return verdict{end: EndUnknown, reason: "TCP counted nothing"}
}

// toListener is about a segment that a listener has worked on.
func (t *tracer) toListener(f *flight, s *after, name string) verdict {
	if v, ok := f.replied(); ok {
		return v
	}
	p, d := &f.pkt, &s.delta
	if s.hasTCP && s.tcp.Remote == p.source() {
		if p.flags&tcpSYN != 0 {
			// The SYN-ACK is written by another goroutine.
			return verdict{end: EndAnswered, by: "SYN-ACK", reason: "which has not been sent yet", socket: name}
		}
		return verdict{end: EndDelivered, socket: name, owner: t.owner("tcp", s.tcp.Local, s.tcp.Remote), reason: "a new connection"}
	}
	if d.of("dropped_packets") > 0 {
		return dropped("dropped_packets", "%s has no use for it", name)
	}
	if p.flags&tcpRST != 0 {
		return dropped("", "a reset of a connection that %s does not know", name)
	}
	return verdict{end: EndUnknown, socket: name, reason: "the listener neither answered nor counted it"}
}

// closedHere reports whether a change of state is the stack's own closing, which no segment
// brings about (RFC 9293 section 3.6).
func closedHere(was, now string) bool {
	return was == "ESTAB" && now == "FIN-WAIT-1" || was == "CLOSE-WAIT" && now == "LAST-ACK"
}

// mostScale is the largest scale of a window (RFC 7323 section 2.3).
const mostScale = 14

// keeps tells what became of a segment for which others are missing, by the acknowledgement that
// answered it. The scale of its window is not known.
func (p *packet) keeps(seg *packet, payload int, missing string) (end, reason string) {
	ahead := uint64(seg.seq - p.ack)
	switch {
	case int32(seg.seq-p.sacked[0]) >= 0 && int32(seg.seq-p.sacked[1]) < 0, ahead+uint64(payload) <= uint64(p.window):
		return EndQueued, missing
	case ahead >= uint64(p.window)<<mostScale:
		return EndDropped, "outside of the window: " + missing
	}
	return EndUnknown, missing + "; it was not acknowledged selectively, and may be outside of the window"
}

// toConnection is about a segment that a connection has worked on. netstack does not count
// segments that it refuses; that bytes came in order is seen at the socket.
func (t *tracer) toConnection(f *flight, s *after, name string) verdict {
	p := &f.pkt
	v := verdict{end: EndDelivered, socket: name, owner: t.owner("tcp", p.destination(), p.source())}
	payload := p.payload()
	state := "CLOSED"
	if s.hasTCP {
		state = s.tcp.State
	}
	var words []string
	if state != f.tcp.State && !closedHere(f.tcp.State, state) {
		words = append(words, "state "+f.tcp.State+" to "+state)
	}
	arrived := s.hasTCP && s.tcp.Arrived > f.tcp.Arrived
	switch {
	case arrived:
		n := s.tcp.Arrived - f.tcp.Arrived
		word := fmt.Sprintf("%d bytes", n)
		if n < uint64(payload) {
			word += ", the others had come before"
		} else if n > uint64(payload) {
			word += " with those that waited for it"
		}
		v.reason = strings.Join(append(words, word), ", ")
		return v
	case p.flags&tcpRST != 0 && s.hasTCP && state == f.tcp.State:
		return verdict{end: EndDropped, socket: name, reason: "a reset that is not the next of its connection, which goes on"}
	case payload == 0 || len(words) > 0:
		if a, ok := f.replied(); ok && len(words) == 0 && p.flags&tcpRST == 0 {
			// A segment without data that moves nothing and is answered was not acceptable
			// (RFC 9293 section 3.10.7.4), or is a keep-alive.
			a.socket, a.owner = v.socket, v.owner
			a.reason = "not the next of its connection, or a keep-alive"
			return a
		}
		v.reason = strings.Join(words, ", ")
		return v
	}
	for _, r := range f.replies {
		switch {
		case r.how == "RST":
			return verdict{end: EndAnswered, by: r.how, other: r.id, socket: name, reason: "the connection is closed for reading"}
		case r.how != "ACK":
		case int32(p.seq+uint32(payload)-r.pkt.ack) <= 0:
			return verdict{end: EndDropped, socket: name, other: r.id, reason: "a duplicate: all of it had come before"}
		case int32(p.seq-r.pkt.ack) > 0:
			w := verdict{end: EndQueued, socket: name, other: r.id, reason: fmt.Sprintf("%d bytes before it are missing", p.seq-r.pkt.ack)}
			w.end, w.reason = r.pkt.keeps(p, payload, w.reason)
			return w
		}
	}
	return verdict{end: EndUnknown, socket: name, reason: "the connection took none of it, and did not say why"}
}
