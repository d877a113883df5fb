package ping

import (
	"encoding/binary"
	"net/netip"
)

// ICMP types, RFC 792.
const (
	typeEchoReply    = 0
	typeUnreachable  = 3
	typeSourceQuench = 4
	typeRedirect     = 5
	typeEcho         = 8
	typeTimeExceeded = 11
	typeParameter    = 12
)

// ICMPv6 types, RFC 4443.
const (
	type6Unreachable  = 1
	type6TooBig       = 2
	type6TimeExceeded = 3
	type6Parameter    = 4
	type6Echo         = 128
	type6EchoReply    = 129
)

// IP protocol numbers and IPv6 extension headers (RFC 8200 section 4).
const (
	protoICMP        = 1
	protoHopByHop    = 0
	protoRouting     = 43
	protoFragment    = 44
	protoICMPv6      = 58
	protoDestOptions = 60
)

// icmpHeader is the length of the ICMP header of every message that ping reads.
const icmpHeader = 8

// A kind is what a message means to ping.
type kind int

const (
	kindOther  kind = iota // nothing about an echo request
	kindReply              // an echo reply
	kindError              // an echo request was not delivered
	kindNotice             // an echo request was delivered, and somebody has advice
)

// A message is a decoded ICMP message.
type message struct {
	kind      kind
	typ, code uint8
	// id and seq are those of the reply, or of the echo request that an error quotes.
	id, seq uint16
	// info is the 32-bit word after the checksum: MTU, pointer or gateway.
	info uint32
	// dst is where the quoted request went.
	dst netip.Addr
	// data is what follows the header of an echo reply.
	data []byte
}

// decode reads an ICMP message, or an ICMPv6 message when v6 is set. It reports false
// for a message that is cut short or quotes something other than an echo request;
// then only typ and code are set, if b has them.
func decode(b []byte, v6 bool) (m message, ok bool) {
	if len(b) >= 2 {
		m.typ, m.code = b[0], b[1]
	}
	if len(b) < icmpHeader {
		return m, false
	}
	m.info = binary.BigEndian.Uint32(b[4:8])
	k := kindOther
	if v6 {
		switch m.typ {
		case type6EchoReply:
			k = kindReply
		case type6Unreachable, type6TooBig, type6TimeExceeded, type6Parameter:
			k = kindError
		}
	} else {
		switch m.typ {
		case typeEchoReply:
			k = kindReply
		case typeUnreachable, typeTimeExceeded, typeParameter:
			k = kindError
		case typeSourceQuench, typeRedirect:
			k = kindNotice
		}
	}
	switch k {
	case kindReply:
		m.id = binary.BigEndian.Uint16(b[4:6])
		m.seq = binary.BigEndian.Uint16(b[6:8])
		m.data = b[icmpHeader:]
	case kindError, kindNotice:
		var echo []byte
		if v6 {
			m.dst, echo = quoted6(b[icmpHeader:])
		} else {
			m.dst, echo = quoted4(b[icmpHeader:])
		}
		if echo == nil {
			return m, false
		}
		m.id = binary.BigEndian.Uint16(echo[4:6])
		m.seq = binary.BigEndian.Uint16(echo[6:8])
	}
	m.kind = k
	return m, true
}

// quoted4 returns the destination and the ICMP header of the IPv4 echo request that an
// error quotes, or nil. RFC 792 promises the IP header and 8 bytes.
func quoted4(b []byte) (dst netip.Addr, echo []byte) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return dst, nil
	}
	n := int(b[0]&0x0f) * 4
	if n < 20 || len(b) < n+icmpHeader {
		return dst, nil
	}
	// Only the first fragment has the ICMP header.
	if b[9] != protoICMP || binary.BigEndian.Uint16(b[6:8])&0x1fff != 0 || b[n] != typeEcho {
		return dst, nil
	}
	return netip.AddrFrom4([4]byte(b[16:20])), b[n : n+icmpHeader]
}

// quoted6 is quoted4 for IPv6, past any extension headers.
func quoted6(b []byte) (dst netip.Addr, echo []byte) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return dst, nil
	}
	dst = netip.AddrFrom16([16]byte(b[24:40]))
	next, b := b[6], b[40:]
	for next != protoICMPv6 {
		if len(b) < 8 {
			return dst, nil
		}
		n := 8
		switch next {
		case protoHopByHop, protoRouting, protoDestOptions:
			n = (int(b[1]) + 1) * 8
		case protoFragment:
			if binary.BigEndian.Uint16(b[2:4])&0xfff8 != 0 {
				return dst, nil
			}
		default:
			return dst, nil
		}
		if len(b) < n {
			return dst, nil
		}
		next, b = b[0], b[n:]
	}
	if len(b) < icmpHeader || b[0] != type6Echo {
		return dst, nil
	}
	return dst, b[:icmpHeader]
}

// putEcho writes the header of an echo request; the stack fills in the checksum.
func putEcho(b []byte, v6 bool, id, seq uint16) {
	b[0], b[1], b[2], b[3] = typeEcho, 0, 0, 0
	if v6 {
		b[0] = type6Echo
	}
	binary.BigEndian.PutUint16(b[4:6], id)
	binary.BigEndian.PutUint16(b[6:8], seq)
}
