package tapendpoint

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Where things are in a frame whose IP header has no options, in bytes from the
// first of the Ethernet header (RFC 791 section 3.1, RFC 8200 section 3).
const (
	atEtherType = 12
	atIP        = header.EthernetMinimumSize

	atIPv4TOS   = atIP + 1
	atIPv4Len   = atIP + 2
	atIPv4Frag  = atIP + 6
	atIPv4TTL   = atIP + 8
	atIPv4Proto = atIP + 9
	atIPv4Sum   = atIP + 10
	atIPv4Addrs = atIP + 12
	endIPv4     = atIP + header.IPv4MinimumSize

	atIPv6Len   = atIP + 4
	atIPv6Next  = atIP + 6
	atIPv6Hops  = atIP + 7
	atIPv6Addrs = atIP + 8
	endIPv6     = atIP + header.IPv6MinimumSize
)

// A kind is what a frame means to flows of TCP.
type kind uint8

const (
	kindOdd   kind = iota // it may be of any flow: a fragment, options, malformed
	kindOther             // it is of none
	kindTCP               // a TCP segment with plain headers
)

// A packet says where the parts of a frame are. Only end is set, to the end of the
// frame, if it is not IP, and for kindOdd.
type packet struct {
	kind kind
	v4   bool
	prot uint8 // IP protocol, 0 if it is not IP
	l4   int   // offset of what follows the IP header
	data int   // offset of TCP's payload
	end  int   // of the IP packet; behind it is padding
}

// parse looks at a frame, of an Ethernet header at least. Nothing that it claims is
// believed before it is checked.
func parse(frame []byte) packet {
	p := packet{end: len(frame)}
	switch binary.BigEndian.Uint16(frame[atEtherType:]) {
	case uint16(header.IPv4ProtocolNumber):
		const dontFragment = 0x4000
		if len(frame) < endIPv4 || frame[atIP] != 4<<4|header.IPv4MinimumSize/4 ||
			binary.BigEndian.Uint16(frame[atIPv4Frag:])&^dontFragment != 0 {
			return p
		}
		p.v4, p.prot, p.l4 = true, frame[atIPv4Proto], endIPv4
		p.end = atIP + int(binary.BigEndian.Uint16(frame[atIPv4Len:]))
	case uint16(header.IPv6ProtocolNumber):
		if len(frame) < endIPv6 || frame[atIP]>>4 != 6 {
			return p
		}
		p.prot, p.l4 = frame[atIPv6Next], endIPv6
		p.end = endIPv6 + int(binary.BigEndian.Uint16(frame[atIPv6Len:]))
	default:
		p.kind = kindOther
		return p
	}
	if p.end < p.l4 || p.end > len(frame) {
		return packet{end: len(frame)}
	}
	switch p.prot {
	case uint8(header.TCPProtocolNumber):
		if p.end-p.l4 < header.TCPMinimumSize {
			return packet{end: len(frame)}
		}
		p.data = p.l4 + int(frame[p.l4+header.TCPDataOffset]>>4)*4
		if p.data < p.l4+header.TCPMinimumSize || p.data > p.end {
			return packet{end: len(frame)}
		}
		p.kind = kindTCP
	case uint8(header.UDPProtocolNumber), uint8(header.ICMPv4ProtocolNumber), uint8(header.ICMPv6ProtocolNumber):
		p.kind = kindOther
	}
	if p.kind == kindOdd {
		return packet{end: len(frame)}
	}
	return p
}

// verified reports whether all checksums of a frame are right that netstack leaves
// out when they are vouched for: IPv4's, TCP's and UDP's. False also means that it
// cannot be told here.
func verified(frame []byte, p *packet) bool {
	if p.kind == kindOdd {
		return false
	}
	if p.prot == 0 {
		return true
	}
	at := atIPv6Addrs
	if p.v4 {
		at = atIPv4Addrs
		if checksum.Checksum(frame[atIP:endIPv4], 0) != 0xffff {
			return false
		}
	}
	switch p.prot {
	case uint8(header.TCPProtocolNumber):
	case uint8(header.UDPProtocolNumber):
		if p.end-p.l4 < header.UDPMinimumSize {
			return false
		}
		udp := header.UDP(frame[p.l4:p.end])
		if int(udp.Length()) != len(udp) || udp.Checksum() == 0 && !p.v4 {
			return false
		}
		if udp.Checksum() == 0 { // RFC 768: none
			return true
		}
	default: // ICMP, which netstack always verifies
		return true
	}
	sum := checksum.Checksum(frame[at:p.l4], uint16(p.prot)) // RFC 9293 section 3.1
	sum = checksum.Combine(sum, uint16(p.end-p.l4))
	return checksum.Checksum(frame[p.l4:p.end], sum) == 0xffff
}
