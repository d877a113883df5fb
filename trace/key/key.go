// Package key recognises a packet wherever it is seen: at each device of a path, in the
// kernel and in user space.
//
// A Key is made of what does not change on the way: not of the Ethernet header, VLAN
// tags, the hop limit, checksums that a device may still have to fill in, nor of a
// TCP packet's length and its FIN and PSH, so that a super-frame has the Key of the
// first segment it is cut into or was merged from. Address translation changes
// it. Where senders leave an IPv4 identification of 0, a packet that is sent again has
// the Key of the first; whoever compares Keys compares times as well.
package key

import "encoding/binary"

// A Key stands for a packet. It is the same in every process.
type Key uint64

// EtherTypes (IEEE 802 numbers) and protocols (IANA).
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeVLAN = 0x8100
	typeQinQ = 0x88a8
	typeIPv6 = 0x86dd

	hopByHop = 0
	icmp     = 1
	tcp      = 6
	udp      = 17
	routing  = 43
	fragment = 44
	icmp6    = 58
	dstOpts  = 60
)

const (
	etherLen      = 14
	maxTags       = 2
	maxExtensions = 8
	// enough is what is looked at of an unknown header or a payload.
	enough = 8
)

// Of returns the Key of a frame that begins with an Ethernet header; its end may be
// missing. It is false if too little is there: 128 bytes are always enough for TCP,
// UDP, ICMP and ARP without IPv6 extension headers.
func Of(frame []byte) (Key, bool) {
	if len(frame) < etherLen {
		return 0, false
	}
	etherType, rest := binary.BigEndian.Uint16(frame[12:]), frame[etherLen:]
	for range maxTags {
		if etherType != typeVLAN && etherType != typeQinQ || len(rest) < 4 {
			break
		}
		etherType, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	switch etherType {
	case typeIPv4, typeIPv6, typeARP:
		return OfNetwork(etherType, rest)
	}
	// What is not routed keeps its addresses.
	h := begin(etherType)
	h.bytes(frame[:12])
	h.bytes(rest[:min(len(rest), 4*enough)])
	return h.key(), len(rest) > 0
}

// OfNetwork is Of for what begins with the network header.
func OfNetwork(etherType uint16, b []byte) (Key, bool) {
	h := begin(etherType)
	switch etherType {
	case typeIPv4:
		return h.ipv4(b)
	case typeIPv6:
		return h.ipv6(b)
	case typeARP: // RFC 826: operation, addresses of the sender, the target's protocol address
		if len(b) < 28 {
			return 0, false
		}
		h.bytes(b[6:18])
		h.bytes(b[24:28])
		return h.key(), true
	}
	h.bytes(b[:min(len(b), 4*enough)])
	return h.key(), len(b) > 0
}

// ipv4 is RFC 791, section 3.1.
func (h hash) ipv4(b []byte) (Key, bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return 0, false
	}
	size := int(b[0]&15) * 4
	if size < 20 || len(b) < size {
		return 0, false
	}
	h.bytes(b[4:6]) // identification
	h.bytes(b[9:10])
	h.bytes(b[12:20])
	const moreFragments, offset = 0x2000, 0x1fff
	flags := binary.BigEndian.Uint16(b[6:])
	if flags&(moreFragments|offset) != 0 {
		// The identification says which packet, the offset which of its fragments.
		h.uint16(flags & (moreFragments | offset))
		return h.key(), true
	}
	return h.transport(b[9], b[size:])
}

// ipv6 is RFC 8200, sections 3 and 4.
func (h hash) ipv6(b []byte) (Key, bool) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return 0, false
	}
	h.bytes(b[8:40])
	next, b := b[6], b[40:]
	for range maxExtensions {
		switch next {
		case hopByHop, routing, dstOpts:
			if len(b) < 2 || len(b) < 8*(1+int(b[1])) {
				return 0, false
			}
			next, b = b[0], b[8*(1+int(b[1])):]
		case fragment:
			if len(b) < 8 {
				return 0, false
			}
			h.bytes(b[0:1])
			h.bytes(b[2:8])
			return h.key(), true
		default:
			h.bytes([]byte{next})
			return h.transport(next, b)
		}
	}
	return 0, false
}

func (h hash) transport(proto uint8, b []byte) (Key, bool) {
	switch proto {
	case tcp: // RFC 9293, section 3.1: up to the window
		if len(b) < 16 {
			return 0, false
		}
		const fin, psh = 1, 8
		h.bytes(b[:13])
		h.bytes([]byte{b[13] &^ (fin | psh)})
		h.bytes(b[14:16])
	case udp: // RFC 768; a super-frame has another length
		if len(b) < 8 {
			return 0, false
		}
		h.bytes(b[:4])
		b = b[8:]
		h.bytes(b[:min(len(b), enough)])
	case icmp, icmp6: // RFC 792, RFC 4443: no device computes this checksum
		if len(b) < 8 {
			return 0, false
		}
		h.bytes(b[:8])
	default:
		h.bytes(b[:min(len(b), enough)])
	}
	return h.key(), true
}

// hash is FNV-1a of 64 bits.
type hash uint64

func begin(etherType uint16) hash {
	h := hash(14695981039346656037)
	h.uint16(etherType)
	return h
}

func (h *hash) bytes(b []byte) {
	for _, c := range b {
		*h = (*h ^ hash(c)) * 1099511628211
	}
}

func (h *hash) uint16(v uint16) { h.bytes([]byte{byte(v >> 8), byte(v)}) }

func (h hash) key() Key { return Key(h) }
