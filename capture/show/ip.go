package show

import (
	"fmt"
	"net/netip"
)

// IP protocols (IANA).
const (
	protoHopByHop, protoICMP, protoIGMP, protoTCP, protoUDP = 0, 1, 2, 6, 17
	protoRouting, protoFragment, protoICMP6, protoNone      = 43, 44, 58, 59
	protoDestination                                        = 60
)

var protoNames = map[byte]string{
	protoHopByHop: "Options", protoICMP: "ICMP", protoIGMP: "IGMP", protoTCP: "TCP", protoUDP: "UDP", 47: "GRE",
	50: "ESP", 51: "AH", protoICMP6: "ICMPv6", protoNone: "no next header", 89: "OSPF", 103: "PIM", 112: "VRRP", 132: "SCTP",
}

func protoName(p byte) string {
	if name := protoNames[p]; name != "" {
		return name
	}
	return "unknown"
}

// A datagram is what an IP header says of its payload.
type datagram struct {
	src, dst netip.Addr
	proto    byte
	// length of the payload in bytes, of which fewer may be there.
	length int
	// whole says that it is no fragment, so that its checksum can be verified.
	whole bool
}

// ip4 is RFC 791 section 3.1.
func (l *line) ip4(b []byte) {
	if len(b) < 20 {
		l.say("[|ip]")
		return
	}
	total, header := int(be16(b[2:])), int(b[0]&0xf)*4
	switch {
	case b[0]>>4 != 4:
		l.say("version error: %d", b[0]>>4)
		return
	case header < 20:
		l.say("bad header length %d", header)
		return
	case total == 0: // a super-frame that has none
		total = len(b)
	}
	if total < header {
		l.say("bad length %d < %d", total, header)
		return
	}
	fragment := be16(b[6:])
	if l.o.Verbose {
		l.header4(b, header, total)
	}
	if header > len(b) {
		l.say("[|ip]")
		return
	}
	d := datagram{addr4(b[12:16]), addr4(b[16:20]), b[9], total - header, fragment&0x3fff == 0}
	payload := b[header:min(len(b), total)]
	if fragment&0x1fff != 0 {
		l.say("%s > %s: ip-proto-%d", l.host(d.src), l.host(d.dst), d.proto)
		return
	}
	l.transport(d, payload)
}

// header4 says what else is in an IPv4 header.
func (l *line) header4(b []byte, header, total int) {
	fragment, flags := be16(b[6:]), "none"
	switch fragment >> 13 {
	case 1:
		flags = "+"
	case 2:
		flags = "DF"
	case 3:
		flags = "+, DF"
	}
	l.say("(tos 0x%x", b[1])
	switch b[1] & 3 {
	case 1:
		l.say(",ECT(1)")
	case 2:
		l.say(",ECT(0)")
	case 3:
		l.say(",CE")
	}
	l.say(", ttl %d, id %d, offset %d, flags [%s], proto %s (%d), length %d", b[8], be16(b[4:]), int(fragment&0x1fff)*8, flags, protoName(b[9]), b[9], total)
	if header > 20 {
		l.say(", options of %d bytes", header-20)
	}
	if header <= len(b) && fold(sum(0, b[:header])) != 0xffff {
		l.say(", bad cksum %x!", be16(b[10:]))
	}
	l.say(")\n    ")
}

// ip6 is RFC 8200 section 3.
func (l *line) ip6(b []byte) {
	if len(b) < 40 {
		l.say("[|ip6]")
		return
	}
	if b[0]>>4 != 6 {
		l.say("version error: %d", b[0]>>4)
		return
	}
	d := datagram{src: addr6(b[8:24]), dst: addr6(b[24:40]), proto: b[6], length: int(be16(b[4:])), whole: true}
	if d.length == 0 {
		d.length = len(b) - 40
	}
	if l.o.Verbose {
		l.say("(")
		if class := be16(b) >> 4 & 0xff; class != 0 {
			l.say("class 0x%02x, ", class)
		}
		if label := be32(b) & 0xfffff; label != 0 {
			l.say("flowlabel 0x%05x, ", label)
		}
		l.say("hlim %d, next-header %s (%d) payload length: %d) ", b[7], protoName(b[6]), b[6], d.length)
	}
	payload := b[40:min(len(b), 40+d.length)]
	var words []byte
	for range 8 {
		if d.proto != protoHopByHop && d.proto != protoRouting && d.proto != protoDestination && d.proto != protoFragment {
			break
		}
		if len(payload) < 8 {
			l.say("%s > %s: %s[|ip6]", l.host(d.src), l.host(d.dst), words)
			return
		}
		n := 8 + int(payload[1])*8
		switch d.proto {
		case protoHopByHop:
			words = append(words, "HBH "...)
		case protoDestination:
			words = append(words, "DSTOPT "...)
		case protoRouting:
			words = append(words, "srcrt "...)
			d.whole = false // the checksum is of the final destination
		case protoFragment:
			n = 8
			at := be16(payload[2:])
			words = fmt.Appendf(words, "frag (%d|%d) ", at&^7, d.length-8)
			d.whole = false
			if at&^7 != 0 {
				l.say("%s > %s: %s", l.host(d.src), l.host(d.dst), words[:len(words)-1])
				return
			}
		}
		d.proto = payload[0]
		if n > len(payload) {
			l.say("%s > %s: %s[|ip6]", l.host(d.src), l.host(d.dst), words)
			return
		}
		payload, d.length = payload[n:], d.length-n
	}
	l.words = string(words)
	l.transport(d, payload)
}

// transport says what is in a datagram.
func (l *line) transport(d datagram, b []byte) {
	switch {
	case d.proto == protoTCP:
		l.tcp(d, b)
	case d.proto == protoUDP:
		l.udp(d, b)
	case d.proto == protoICMP && d.src.Is4():
		l.say("%s > %s: %s", l.host(d.src), l.host(d.dst), l.words)
		l.icmp4(d, b)
	case d.proto == protoICMP6 && d.src.Is6():
		l.say("%s > %s: %s", l.host(d.src), l.host(d.dst), l.words)
		l.icmp6(d, b)
	default:
		l.say("%s > %s: %s", l.host(d.src), l.host(d.dst), l.words)
		switch d.proto {
		case protoIGMP:
			l.igmp(b)
		case protoNone:
			l.say("no next header")
		default:
			l.say("ip-proto-%d %d", d.proto, d.length)
		}
	}
}

func (l *line) igmp(b []byte) {
	if len(b) < 8 {
		l.say("[|igmp]")
		return
	}
	switch b[0] {
	case 0x11:
		l.say("igmp query v2")
	case 0x12, 0x16:
		l.say("igmp v%d report %s", 1+b[0]>>2&1, addr4(b[4:8]))
	case 0x17:
		l.say("igmp leave %s", addr4(b[4:8]))
	case 0x22:
		l.say("igmp v3 report, %d group record(s)", be16(b[6:]))
	default:
		l.say("igmp type %d", b[0])
	}
}

// sum and fold are the Internet checksum (RFC 1071).
func sum(s uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
		if s >= 1<<31 {
			s = s&0xffff + s>>16
		}
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// checksum says whether the checksum at b[at:] of a transport is right, where that is known.
func (l *line) checksum(d datagram, b []byte, at int, pseudo bool) string {
	field := be16(b[at:])
	if !d.whole || len(b) < d.length {
		return fmt.Sprintf("cksum 0x%04x", field)
	}
	s := sum(0, b[:d.length])
	if pseudo {
		s = sum(s, d.src.AsSlice())
		s = sum(s, d.dst.AsSlice())
		s += uint32(d.proto) + uint32(fold(uint32(d.length)))
	}
	got := fold(s)
	switch {
	case got == 0xffff:
		return fmt.Sprintf("cksum 0x%04x (correct)", field)
	case l.o.PartialChecksum:
		return fmt.Sprintf("cksum 0x%04x (partial)", field)
	}
	// What the field ought to hold makes the sum all ones.
	want := fold(uint32(^got) + uint32(field))
	return fmt.Sprintf("cksum 0x%04x (incorrect -> 0x%04x)", field, want)
}
