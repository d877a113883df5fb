package trace

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// A verdict is what became of a frame; its fields are those of a Record.
type verdict struct {
	end, reason, counter, by, socket, owner string
	other                                   uint64
}

// String says it in words.
func (v verdict) String() string {
	s := v.end
	switch v.end {
	case EndDelivered, EndQueued:
		s += " to " + v.socket
		if v.owner != "" {
			s += ", " + v.owner
		}
	case EndAnswered:
		s += " by " + v.by
	}
	if v.other != 0 {
		s += fmt.Sprintf(", frame %d", v.other)
	}
	if v.reason != "" {
		s += ": " + v.reason
	}
	if v.counter != "" {
		s += " (" + v.counter + ")"
	}
	return s
}

func dropped(counter, format string, args ...any) verdict {
	return verdict{end: EndDropped, counter: counter, reason: fmt.Sprintf(format, args...)}
}

// A delta is what the stack has counted while it had a frame.
type delta struct {
	index         map[string][]int
	before, after []uint64
}

// of returns by how much a counter grew.
func (d *delta) of(name string) (n uint64) {
	for _, i := range d.index[name] {
		if i < len(d.before) && i < len(d.after) {
			n += d.after[i] - d.before[i]
		}
	}
	return n
}

// first returns the first of the counters that grew, or "".
func (d *delta) first(names ...string) string {
	for _, name := range names {
		if d.of(name) > 0 {
			return name
		}
	}
	return ""
}

// An after is what is known once the stack has returned from a frame.
type after struct {
	delta         delta
	frame         []byte // all of it
	drained       bool
	tcp, listener TCPSocket
	hasTCP        bool
	hasListener   bool
	// hasOther says that there is the socket that an ICMP error is about.
	hasOther bool
}

// judge tells what became of the frame that the stack had.
func (t *tracer) judge(f *flight, s *after) {
	p, d := &f.pkt, &s.delta
	var v verdict
	switch {
	case d.of("nic.disabled_rx.packets") > 0:
		v = dropped("nic.disabled_rx.packets", "the stack's interface is disabled")
	case d.of("nic.unknown_l3_protocol_rcvd_packet_counts") > 0:
		v = dropped("nic.unknown_l3_protocol_rcvd_packet_counts", "%s", unknownType(s.frame, p.ether))
	case p.ether == etherARP:
		v = f.judgeARP(d)
	case p.ether == etherIPv4 || p.ether == etherIPv6:
		if !t.judgeIP(f, s, &v) {
			t.hold(f)
			return
		}
	default:
		v = verdict{end: EndUnknown, reason: "the stack took it and counted nothing"}
	}
	t.complete(f, v)
}

// complete ends a frame whose verdict is known, and the fragments that waited for it.
func (t *tracer) complete(f *flight, v verdict) {
	now := time.Now()
	if v.end == EndAnswered && v.other == 0 {
		if len(t.pending) >= maxPending {
			t.pending = t.pending[1:]
		}
		t.pending = append(t.pending, f)
	}
	if f.completes {
		key := heldKeyOf(&f.pkt)
		for _, part := range t.held[key] {
			w := v
			if w.reason != "" {
				w.reason += "; "
			}
			w.reason += fmt.Sprintf("frame %d has completed its datagram", f.id)
			t.finish(part, now, w)
			t.numHeld--
		}
		delete(t.held, key)
	}
	t.finish(f, now, v)
}

// unknownType says what a frame is for whose type the stack has no protocol (IEEE 802.3 section
// 3.2.6: below 0x600 it is a length; IEEE 802.1Q section 9).
func unknownType(frame []byte, ether uint16) string {
	if len(frame) >= 14 {
		ether = binary.BigEndian.Uint16(frame[12:])
	}
	switch {
	case ether < 0x600:
		return fmt.Sprintf("no protocol for 802.3 frames: it has a length, %d, where an EtherType is", ether)
	case (ether == etherVLAN || ether == etherQinQ) && len(frame) >= 16:
		return fmt.Sprintf("no protocol for EtherType 0x%04x: it has a tag of VLAN %d", ether, binary.BigEndian.Uint16(frame[14:])&0xfff)
	}
	return fmt.Sprintf("no protocol for EtherType 0x%04x", ether)
}

// unasked counts answers about neighbours that nobody had asked for.
const unasked = "nic.neighbor.dropped_confirmation_for_noninitiated_neighbor"

func (f *flight) judgeARP(d *delta) verdict {
	p := &f.pkt
	switch {
	case d.of("arp.disabled_packets_received") > 0:
		return dropped("arp.disabled_packets_received", "ARP is disabled")
	case d.of("arp.malformed_packets_received") > 0:
		return dropped("arp.malformed_packets_received", "malformed ARP packet")
	case d.of("arp.requests_received_unknown_target_address") > 0:
		return dropped("arp.requests_received_unknown_target_address", "ignored: %v is not an address of this stack", p.targetIP)
	case d.of("arp.outgoing_replies_dropped") > 0:
		return dropped("arp.outgoing_replies_dropped", "the reply could not be sent")
	}
	if v, ok := f.replied(); ok {
		return v
	}
	switch {
	case d.of("arp.outgoing_replies_sent") > 0:
		return verdict{end: EndAnswered, by: "ARP reply"}
	case d.of("arp.replies_received") > 0 && d.of(unasked) > 0:
		return dropped(unasked, "the stack had not asked for %v", p.senderIP)
	case d.of("arp.replies_received") > 0:
		return verdict{end: EndDelivered, socket: "the neighbour table", reason: fmt.Sprintf("%v is at %v", p.senderIP, net.HardwareAddr(p.senderMAC))}
	case d.of("arp.packets_received") > 0 && p.arp:
		return dropped("", "nothing handles ARP operation %d", p.arpOp)
	}
	return verdict{end: EndUnknown, reason: "ARP took it and counted nothing"}
}

// replied returns the verdict that the frames sent meanwhile give.
func (f *flight) replied() (verdict, bool) {
	for _, r := range f.replies {
		if r.how == forwardedAs {
			return verdict{end: EndForwarded, other: r.id}, true
		}
	}
	if len(f.replies) == 0 {
		return verdict{}, false
	}
	r := f.replies[0]
	return verdict{end: EndAnswered, by: r.how, other: r.id}, true
}

// Counters of IP, in the order in which they are asked.
var ipDrops = []struct{ counter, reason string }{
	{"ip.disabled_packets_received", "the protocol is disabled"},
	{"ip.ip_tables_prerouting_dropped", "a rule of the stack's tables"},
	{"ip.ip_tables_input_dropped", "a rule of the stack's tables"},
	{"ip.forwarding.unrouteable", "forwarding: no route"},
	{"ip.forwarding.exhausted_ttl", "forwarding: its time to live is over"},
	{"ip.forwarding.link_local_source", "forwarding: a link-local source"},
	{"ip.forwarding.link_local_destination", "forwarding: a link-local destination"},
	{"ip.forwarding.packet_too_big", "forwarding: larger than the next link's MTU"},
	{"ip.forwarding.host_unreachable", "forwarding: the next hop does not answer"},
	{"ip.forwarding.errors", "it could not be forwarded"},
}

// judgeIP finds what became of an IP packet. It returns false for a fragment that waits for others.
func (t *tracer) judgeIP(f *flight, s *after, v *verdict) bool {
	p, d := &f.pkt, &s.delta
	switch {
	case d.of("ip.malformed_fragments_received") > 0:
		*v = dropped("ip.malformed_fragments_received", "a fragment that fits no datagram")
	case d.of("ip.malformed_packets_received") > 0:
		*v = dropped("ip.malformed_packets_received", "%s", malformedIP(s.frame, p))
	case d.of("ip.invalid_source_addresses_received") > 0:
		*v = dropped("ip.invalid_source_addresses_received", "%v cannot be a source here", p.src)
	case d.of("ip.invalid_destination_addresses_received") > 0:
		*v = dropped("ip.invalid_destination_addresses_received", "%v is not an address of this stack", p.dst)
	default:
		for _, c := range ipDrops {
			if d.of(c.counter) > 0 {
				*v = dropped(c.counter, "%s", c.reason)
				break
			}
		}
	}
	if v.end != "" {
		// Some of what is dropped is answered by an ICMP error.
		if a, ok := f.replied(); ok {
			a.reason, a.counter = v.reason, v.counter
			*v = a
		}
		return true
	}
	if d.of("ip.packets_delivered") == 0 {
		if a, ok := f.replied(); ok {
			*v = a
			return true
		}
		if p.fragment && d.of("ip.valid_packets_received") > 0 {
			return false
		}
		if p.ether == etherIPv6 && p.proto == protoNone && d.of("ip.valid_packets_received") > 0 {
			*v = dropped("", "it has no next header (59), and so nothing for anybody")
			return true
		}
		*v = verdict{end: EndUnknown, reason: "IP took it and counted nothing"}
		return true
	}
	t.tell(f, time.Now(), Record{Step: "network", Text: fmt.Sprintf("%s: valid, for %v", ipName(p), p.dst)})
	if f.completes = p.fragment; f.completes {
		// What is judged now is the datagram, whose ports are in its first fragment.
		if first := t.firstFragment(p); first != nil {
			own := f.pkt
			defer func() { f.pkt = own }()
			f.pkt = first.pkt
		}
	}
	*v = t.judgeTransport(f, s)
	return true
}

func ipName(p *packet) string {
	if p.ether == etherIPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// malformedIP says what is wrong with an IP header (RFC 791 section 3.1, RFC 8200 section 3).
func malformedIP(frame []byte, p *packet) string {
	b := frame[min(p.l3, len(frame)):]
	if p.ether == etherIPv6 {
		switch {
		case len(b) < 40:
			return "truncated IPv6 header"
		case b[0]>>4 != 6:
			return fmt.Sprintf("IP version %d in an IPv6 frame", b[0]>>4)
		case p.end > len(frame):
			return fmt.Sprintf("the header says %d bytes, and there are %d", p.end-p.l3, len(b))
		}
		return "malformed IPv6 packet or extension header"
	}
	if len(b) < 20 {
		return "truncated IPv4 header"
	}
	head := int(b[0]&15) * 4
	switch {
	case b[0]>>4 != 4:
		return fmt.Sprintf("IP version %d in an IPv4 frame", b[0]>>4)
	case head < 20 || head > len(b):
		return fmt.Sprintf("a header of %d bytes", head)
	case p.end > len(frame):
		return fmt.Sprintf("the header says %d bytes, and there are %d", p.end-p.l3, len(b))
	case p.end < p.l3+head:
		return "a total length less than the header's"
	case sum(b[:head], 0) != 0xffff:
		return "wrong IPv4 header checksum"
	}
	return "malformed IPv4 packet or options"
}

// sum is the Internet checksum's sum (RFC 1071) over b, added to start.
func sum(b []byte, start uint32) uint16 {
	n := uint64(start)
	for ; len(b) >= 2; b = b[2:] {
		n += uint64(b[0])<<8 | uint64(b[1])
	}
	if len(b) == 1 {
		n += uint64(b[0]) << 8
	}
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return uint16(n)
}

// transportSum reports whether the checksum of a whole TCP or UDP packet is right.
func transportSum(frame []byte, p *packet) bool {
	if p.l4 == 0 || p.end > len(frame) || p.end < p.l4 {
		return false
	}
	src, dst := p.src.AsSlice(), p.dst.AsSlice()
	start := uint32(sum(src, 0)) + uint32(sum(dst, 0)) + uint32(p.proto) + uint32(p.end-p.l4)
	return sum(frame[p.l4:p.end], start) == 0xffff
}

// A heldKey is a datagram that comes in fragments.
type heldKey struct {
	src, dst netip.Addr
	proto    uint8
	id       uint32
}

func heldKeyOf(p *packet) heldKey { return heldKey{p.src, p.dst, p.proto, p.ipID} }

// fragmentTime is how long the stack waits for the rest of a datagram (RFC 1122 section 3.3.2,
// RFC 8200 section 4.5), and a little more.
const fragmentTime = 61 * time.Second

// hold keeps a fragment until its datagram is complete.
func (t *tracer) hold(f *flight) {
	t.tell(f, time.Now(), Record{Step: "network", Text: fmt.Sprintf("%s: a fragment, from byte %d, held for the rest of its datagram", ipName(&f.pkt), f.pkt.offset)})
	if t.numHeld >= maxHeld {
		t.finish(f, time.Now(), verdict{end: EndUnknown, reason: "held for reassembly, of which there is too much to follow"})
		return
	}
	f.heldSince = time.Now()
	key := heldKeyOf(&f.pkt)
	t.held[key] = append(t.held[key], f)
	t.numHeld++
}

func (t *tracer) firstFragment(p *packet) *flight {
	for _, f := range t.held[heldKeyOf(p)] {
		if f.pkt.offset == 0 {
			return f
		}
	}
	return nil
}

// expire ends the fragments whose datagrams were not completed in time.
func (t *tracer) expire(now time.Time) {
	for key, list := range t.held {
		keep := list[:0]
		for _, f := range list {
			if now.Sub(f.heldSince) < fragmentTime {
				keep = append(keep, f)
				continue
			}
			t.numHeld--
			t.finish(f, now, dropped("", "the rest of its datagram did not come within %v", fragmentTime.Truncate(time.Minute)))
		}
		if t.held[key] = keep; len(keep) == 0 {
			delete(t.held, key)
		}
	}
}
