package filter

import "encoding/binary"

// A packet is what a filter looks at.
type packet struct {
	b []byte
	m Meta
}

// A pred is a condition.
type pred func(k packet) bool

// A header returns where a header begins, if the frame has that header.
type header func(k packet) (at int, ok bool)

// Lengths and offsets in bytes: IEEE 802.3 clause 3, IEEE 802.1Q clause 9, RFC 791
// section 3.1, RFC 8200 section 3, RFC 826.
const (
	ethLen  = 14
	tagLen  = 4
	ip6Len  = 40
	arpSPA  = 14 // sender's protocol address
	arpTPA  = 24
	ip4Src  = 12
	ip4Dst  = 16
	ip6Src  = 8
	ip6Dst  = 24
	ip6Next = 6
)

// EtherTypes and IP protocols (IANA).
const (
	typeIP4, typeARP, typeRARP, typeIP6 = 0x0800, 0x0806, 0x8035, 0x86dd

	protoICMP, protoIGMP, protoTCP, protoUDP   = 1, 2, 6, 17
	protoFragment, protoESP, protoAH           = 44, 50, 51
	protoICMP6, protoPIM, protoVRRP, protoSCTP = 58, 103, 112, 132
)

var etherTypes = map[string]uint16{
	"ip": typeIP4, "ip6": typeIP6, "arp": typeARP, "rarp": typeRARP,
	"loopback": 0x9000, "lldp": 0x88cc,
}

// An ipProto is a protocol on IP, and on which versions its name means.
type ipProto struct {
	number byte
	v4, v6 bool
}

var ipProtos = map[string]ipProto{
	"icmp": {protoICMP, true, false}, "igmp": {protoIGMP, true, false},
	"tcp": {protoTCP, true, true}, "udp": {protoUDP, true, true}, "sctp": {protoSCTP, true, true},
	"icmp6": {protoICMP6, false, true}, "ah": {protoAH, true, true}, "esp": {protoESP, true, true},
	"pim": {protoPIM, true, true}, "vrrp": {protoVRRP, true, false},
}

// loads are the headers whose bytes can be asked for, behind some VLAN tags.
var loads = map[string]func(tags int) header{
	"ether": func(int) header { return func(packet) (int, bool) { return 0, true } },
	"ip":    func(tags int) header { return network(tags, typeIP4) },
	"ip6":   func(tags int) header { return network(tags, typeIP6) },
	"arp":   func(tags int) header { return network(tags, typeARP) },
	"rarp":  func(tags int) header { return network(tags, typeRARP) },
	"tcp":   func(tags int) header { return transport4(tags, protoTCP) },
	"udp":   func(tags int) header { return transport4(tags, protoUDP) },
	"sctp":  func(tags int) header { return transport4(tags, protoSCTP) },
	"icmp":  func(tags int) header { return transport4(tags, protoICMP) },
	"igmp":  func(tags int) header { return transport4(tags, protoIGMP) },
	"icmp6": func(tags int) header {
		is := protocol6(tags, protoICMP6)
		return func(k packet) (int, bool) { return ethLen + tags*tagLen + ip6Len, is(k) }
	},
}

func (k packet) u8(at int) (byte, bool) {
	if at < 0 || at >= len(k.b) {
		return 0, false
	}
	return k.b[at], true
}

func (k packet) u16(at int) (uint16, bool) {
	if at < 0 || at+2 > len(k.b) {
		return 0, false
	}
	return binary.BigEndian.Uint16(k.b[at:]), true
}

// etherType matches frames whose type field, behind tags VLAN tags, is t. Below 1501 it is
// a length, and t is looked for in LLC's destination (IEEE 802.2).
func etherType(tags int, t uint16) pred {
	at := ethLen - 2 + tags*tagLen
	if t <= 1500 {
		return func(k packet) bool {
			length, ok := k.u16(at)
			sap, ok2 := k.u8(at + 2)
			return ok && ok2 && length <= 1500 && uint16(sap) == t
		}
	}
	return func(k packet) bool {
		v, ok := k.u16(at)
		return ok && v == t
	}
}

// network finds the header behind tags VLAN tags of a frame of type t.
func network(tags int, t uint16) header {
	is := etherType(tags, t)
	return func(k packet) (int, bool) { return ethLen + tags*tagLen, is(k) }
}

// protocol4 matches IPv4 with this protocol.
func protocol4(tags int, proto byte) pred {
	is, at := etherType(tags, typeIP4), ethLen+tags*tagLen+9
	return func(k packet) bool {
		v, ok := k.u8(at)
		return ok && v == proto && is(k)
	}
}

// protocol6 matches IPv6 with this protocol, at once or behind a fragment header. As in
// libpcap no other extension header is followed.
func protocol6(tags int, proto byte) pred {
	is, at := etherType(tags, typeIP6), ethLen+tags*tagLen
	return func(k packet) bool {
		v, ok := k.u8(at + ip6Next)
		if !ok || !is(k) {
			return false
		}
		if v == protoFragment && proto != protoFragment {
			v, ok = k.u8(at + ip6Len)
		}
		return ok && v == proto
	}
}

// transport4 finds the header of a protocol on IPv4 in an unfragmented datagram or its
// first fragment.
func transport4(tags int, proto byte) header {
	is, l3 := protocol4(tags, proto), ethLen+tags*tagLen
	return func(k packet) (int, bool) {
		if !is(k) {
			return 0, false
		}
		fragment, ok := k.u16(l3 + 6)
		if !ok || fragment&0x1fff != 0 {
			return 0, false
		}
		return l3 + int(k.b[l3]&0xf)*4, true
	}
}

// transport6 is the same on IPv6 without extension headers.
func transport6(tags int, proto byte) header {
	is, l3 := etherType(tags, typeIP6), ethLen+tags*tagLen
	return func(k packet) (int, bool) {
		v, ok := k.u8(l3 + ip6Next)
		return l3 + ip6Len, ok && v == proto && is(k)
	}
}

// anyOf is true where one of list is.
func anyOf(list ...pred) pred {
	if len(list) == 1 {
		return list[0]
	}
	return func(k packet) bool {
		for _, c := range list {
			if c(k) {
				return true
			}
		}
		return false
	}
}

func oneOf(a, b pred) pred { return func(k packet) bool { return a(k) || b(k) } }

func allOf(a, b pred) pred { return func(k packet) bool { return a(k) && b(k) } }
