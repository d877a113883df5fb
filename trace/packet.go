package trace

import (
	"encoding/binary"
	"net/netip"
)

// EtherTypes (IEEE 802 numbers) and IP protocols (IANA) that are looked into.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherVLAN = 0x8100
	etherIPv6 = 0x86dd
	etherQinQ = 0x88a8

	protoHopByHop = 0
	protoICMP     = 1
	protoIGMP     = 2
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoICMP6    = 58
	protoNone     = 59
	protoDestOpts = 60
)

// TCP flags (RFC 9293 section 3.1).
const (
	tcpFIN = 1 << iota
	tcpSYN
	tcpRST
	tcpPSH
	tcpACK
)

// maxExtensions bounds the IPv6 extension headers that are looked behind.
const maxExtensions = 8

// A packet is what the headers of a frame say. What is not there, or cut off, is zero.
type packet struct {
	frame []byte // what is known of the frame, of which the slices below are parts

	ether uint16 // the EtherType, behind a VLAN tag
	l3    int    // offset of what follows it

	// ARP (RFC 826), of IPv4 over Ethernet.
	arp                  bool
	arpOp                uint16
	senderMAC, targetMAC []byte
	senderIP, targetIP   netip.Addr

	// IP. src is valid when the addresses are there.
	src, dst netip.Addr
	proto    uint8 // the first that is no IPv6 extension header
	ipID     uint32
	fragment bool // one of several
	offset   int  // of this fragment, in bytes
	more     bool // fragments follow
	l4       int  // offset of the transport header, 0 where there is none
	end      int  // of the IP packet, as its header says; it may be behind the frame

	// Transport, of a first fragment or a whole packet.
	ports            bool
	sport, dport     uint16
	seq, ack         uint32
	flags            uint8
	tcpHead          int // length in bytes, 0 where it is malformed
	window           uint16
	sacked           [2]uint32 // the first block that it acknowledges selectively
	icmp             bool
	icmpType, icmpCd uint8
	icmpID, icmpSeq  uint16
}

// parse looks at the headers of a frame or of its beginning. It keeps the slice.
func parse(frame []byte) packet {
	p := packet{frame: frame}
	if len(frame) < 14 {
		return p
	}
	p.ether, p.l3 = binary.BigEndian.Uint16(frame[12:]), 14
	if p.ether == etherVLAN && len(frame) >= 18 {
		p.ether, p.l3 = binary.BigEndian.Uint16(frame[16:]), 18
	}
	p.network(frame[p.l3:])
	return p
}

// network looks at what follows the EtherType.
func (p *packet) network(b []byte) {
	switch p.ether {
	case etherARP:
		p.parseARP(b)
	case etherIPv4:
		p.parseIPv4(b)
	case etherIPv6:
		p.parseIPv6(b)
	}
}

func (p *packet) parseARP(b []byte) {
	if len(b) < 28 || binary.BigEndian.Uint32(b) != 1<<16|etherIPv4 || b[4] != 6 || b[5] != 4 {
		return
	}
	p.arp, p.arpOp = true, binary.BigEndian.Uint16(b[6:])
	p.senderMAC, p.targetMAC = b[8:14], b[18:24]
	p.senderIP, p.targetIP = netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
}

func (p *packet) parseIPv4(b []byte) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return
	}
	head := int(b[0]&15) * 4
	p.src, p.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	p.proto, p.ipID = b[9], uint32(binary.BigEndian.Uint16(b[4:]))
	frag := binary.BigEndian.Uint16(b[6:])
	p.offset, p.more = int(frag&0x1fff)*8, frag&0x2000 != 0
	p.fragment = p.more || p.offset != 0
	p.end = p.l3 + int(binary.BigEndian.Uint16(b[2:]))
	if head < 20 || head > len(b) {
		return
	}
	p.l4 = p.l3 + head
	p.transport()
}

func (p *packet) parseIPv6(b []byte) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return
	}
	p.src, p.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	p.end = p.l3 + 40 + int(binary.BigEndian.Uint16(b[4:]))
	next, at := b[6], 40
	for range maxExtensions {
		p.proto = next
		switch next {
		case protoHopByHop, protoRouting, protoDestOpts:
			if len(b) < at+8 {
				return
			}
			next, at = b[at], at+8+int(b[at+1])*8
		case protoFragment:
			if len(b) < at+8 {
				return
			}
			frag := binary.BigEndian.Uint16(b[at+2:])
			p.offset, p.more = int(frag&^7), frag&1 != 0
			p.fragment = p.more || p.offset != 0
			p.ipID = binary.BigEndian.Uint32(b[at+4:])
			next, at = b[at], at+8
			if p.proto = next; p.offset != 0 {
				p.l4 = p.l3 + at
				return
			}
		default:
			if at <= len(b) {
				p.l4 = p.l3 + at
				p.transport()
			}
			return
		}
	}
}

func (p *packet) transport() {
	if p.offset != 0 {
		return
	}
	b := p.frame[p.l4:]
	switch p.proto {
	case protoTCP, protoUDP:
		if len(b) < 4 {
			return
		}
		p.ports = true
		p.sport, p.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		if p.proto != protoTCP || len(b) < 20 {
			return
		}
		p.seq, p.ack, p.flags = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]), b[13]
		if head := int(b[12]>>4) * 4; head >= 20 && p.l4+head <= p.end {
			p.tcpHead, p.window = head, binary.BigEndian.Uint16(b[14:])
			p.sacked = firstSACK(b[20:min(head, len(b))])
		}
	case protoICMP, protoICMP6:
		if len(b) < 8 {
			return
		}
		p.icmp, p.icmpType, p.icmpCd = true, b[0], b[1]
		p.icmpID, p.icmpSeq = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	}
}

// firstSACK returns the first block of a SACK option among those of a TCP header, which has the
// segment that came last (RFC 2018 sections 3 and 4).
func firstSACK(opts []byte) (block [2]uint32) {
	for len(opts) > 0 && opts[0] != 0 {
		if opts[0] == 1 {
			opts = opts[1:]
			continue
		}
		if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
			return block
		}
		if opts[0] == 5 && opts[1] >= 10 {
			return [2]uint32{binary.BigEndian.Uint32(opts[2:]), binary.BigEndian.Uint32(opts[6:])}
		}
		opts = opts[opts[1]:]
	}
	return block
}

// payload returns how many bytes follow the transport header of a whole packet.
func (p *packet) payload() int {
	switch {
	case p.l4 == 0 || p.fragment:
		return 0
	case p.proto == protoTCP && p.tcpHead > 0:
		return max(p.end-p.l4-p.tcpHead, 0)
	case p.proto == protoUDP && p.ports:
		return max(p.end-p.l4-8, 0)
	}
	return 0
}

// network4 names the transport of a packet that has ports.
func (p *packet) network4() string {
	if p.proto == protoTCP {
		return "tcp"
	}
	return "udp"
}

func (p *packet) source() netip.AddrPort      { return netip.AddrPortFrom(p.src, p.sport) }
func (p *packet) destination() netip.AddrPort { return netip.AddrPortFrom(p.dst, p.dport) }

// icmpError reports whether an ICMP message tells of another packet, and returns what is
// known of that (RFC 792, RFC 4443 section 2.1).
func (p *packet) icmpError() (about packet, ok bool) {
	if !p.icmp {
		return packet{}, false
	}
	about = packet{l3: p.l4 + 8, frame: p.frame, ether: p.ether}
	switch {
	case len(p.frame) <= about.l3:
		return packet{}, false
	case p.proto == protoICMP && (p.icmpType == 3 || p.icmpType == 4 || p.icmpType == 5 || p.icmpType == 11 || p.icmpType == 12):
		about.ether = etherIPv4
	case p.proto == protoICMP6 && p.icmpType < 128:
		about.ether = etherIPv6
	default:
		return packet{}, false
	}
	about.network(p.frame[about.l3:])
	return about, about.src.IsValid()
}

// same reports whether two packets are the same datagram, or fragments of one.
func (p *packet) same(q *packet) bool {
	return p.src.IsValid() && p.src == q.src && p.dst == q.dst && p.proto == q.proto && p.ipID == q.ipID &&
		(p.ipID != 0 || p.ports == q.ports && p.sport == q.sport && p.dport == q.dport && p.seq == q.seq &&
			p.icmpID == q.icmpID && p.icmpSeq == q.icmpSeq)
}

// ICMP types that are answered, and their answers (RFC 792, RFC 4443, RFC 4861).
const (
	icmpEchoReply     = 0
	icmpUnreachable   = 3
	icmpEcho          = 8
	icmp6Echo         = 128
	icmp6EchoReply    = 129
	icmp6RouterSol    = 133
	icmp6RouterAdv    = 134
	icmp6NeighbourSol = 135
	icmp6NeighbourAdv = 136
)

// answers returns by what kind of answer, if at all, out answers in. What it says of a
// frame does not depend on when the two came.
func answers(in, out *packet) (how string, ok bool) {
	switch {
	case in.arp && out.arp:
		ok = in.arpOp == 1 && out.arpOp == 2 && out.senderIP == in.targetIP && out.targetIP == in.senderIP &&
			string(out.targetMAC) == string(in.senderMAC)
		return "ARP reply", ok
	case !in.src.IsValid() || !out.src.IsValid():
		return "", false
	}
	if about, is := out.icmpError(); is {
		return icmpName(out), about.same(in)
	}
	if in.icmp && out.icmp && in.proto == out.proto {
		switch {
		case in.icmpType == icmpEcho && out.icmpType == icmpEchoReply, in.icmpType == icmp6Echo && out.icmpType == icmp6EchoReply:
			return "ICMP echo reply", out.dst == in.src && out.icmpID == in.icmpID && out.icmpSeq == in.icmpSeq
		case in.proto == protoICMP6 && in.icmpType == icmp6NeighbourSol && out.icmpType == icmp6NeighbourAdv:
			return "neighbour advertisement", target6(in) != "" && target6(in) == target6(out)
		}
		return "", false
	}
	if in.proto != protoTCP || out.proto != protoTCP || !in.ports || !out.ports ||
		in.source() != out.destination() || in.destination() != out.source() || out.payloadOrFIN() {
		return "", false
	}
	end := in.seq + uint32(in.payload())
	if in.flags&(tcpSYN|tcpFIN) != 0 {
		end++
	}
	switch {
	case out.flags&tcpRST != 0:
		return "RST", out.flags&tcpACK != 0 && out.ack == end || in.flags&tcpACK != 0 && out.seq == in.ack
	case out.flags&tcpSYN != 0:
		return "SYN-ACK", out.flags&tcpACK != 0 && out.ack == end && in.flags&tcpSYN != 0
	case out.flags&tcpACK != 0:
		return "ACK", true
	}
	return "", false
}

// payloadOrFIN reports whether a TCP segment has something to say of its own.
func (p *packet) payloadOrFIN() bool { return p.payload() > 0 || p.flags&tcpFIN != 0 }

// target6 returns the target of a neighbour solicitation or advertisement (RFC 4861
// section 4.3).
func target6(p *packet) string {
	at := p.l4 + 8
	if len(p.frame) < at+16 {
		return ""
	}
	return string(p.frame[at : at+16])
}

// icmpName names an ICMP error.
func icmpName(p *packet) string {
	names := map[[2]uint8]string{
		{3, 0}: "net unreachable", {3, 1}: "host unreachable", {3, 2}: "protocol unreachable", {3, 3}: "port unreachable",
		{3, 4}: "fragmentation needed", {11, 0}: "time exceeded", {11, 1}: "fragment reassembly time exceeded", {12, 0}: "parameter problem",
	}
	if p.proto == protoICMP6 {
		names = map[[2]uint8]string{
			{1, 0}: "no route to destination", {1, 3}: "address unreachable", {1, 4}: "port unreachable", {2, 0}: "packet too big",
			{3, 0}: "time exceeded", {3, 1}: "fragment reassembly time exceeded",
			{4, 0}: "parameter problem", {4, 1}: "unrecognised next header", {4, 2}: "unrecognised option",
		}
	}
	if name, ok := names[[2]uint8{p.icmpType, p.icmpCd}]; ok {
		return "ICMP " + name
	}
	return "ICMP error"
}
