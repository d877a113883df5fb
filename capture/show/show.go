// Package show says in one line what a frame is, as tcpdump does.
//
// It decodes Ethernet with VLAN tags, ARP, IPv4, IPv6, TCP, UDP, ICMP, ICMPv6 with neighbour
// discovery, DNS and DHCP. Whatever the bytes are it makes a line of them: what is cut off
// is marked as tcpdump does, [|tcp].
package show

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Options say what a line has. The zero value gives what "tcpdump -n -t -S" prints.
type Options struct {
	// Ether begins the line with the Ethernet header.
	Ether bool
	// Verbose adds the fields of the IP header, and says which checksums are wrong. The result
	// may have more than one line.
	Verbose bool
	// WireLen is the length of the whole frame in bytes; 0 stands for that of the bytes given.
	WireLen int
	// PartialChecksum says that the transport checksum is not complete yet, so that it is
	// not called wrong.
	PartialChecksum bool
	// Host and Port name addresses and ports; nil, or an answer of "", leaves the number.
	// proto is "tcp" or "udp".
	Host func(netip.Addr) string
	Port func(proto string, port uint16) string
	// Streams makes TCP sequence numbers relative; nil leaves them.
	Streams *Streams
}

// Line says what a frame is; frame begins with its Ethernet header.
func Line(frame []byte, o Options) string {
	if o.WireLen < len(frame) {
		o.WireLen = len(frame)
	}
	l := line{o: o}
	l.ethernet(frame)
	return string(l.out)
}

// A line is what has been said of a frame so far.
type line struct {
	o   Options
	out []byte
	// words are of IPv6 extension headers, for behind the addresses.
	words string
}

func (l *line) say(format string, args ...any) { l.out = fmt.Appendf(l.out, format, args...) }

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }

// EtherTypes (IANA).
const (
	typeIP4, typeARP, typeRARP, typeVLAN, typeIP6, typeQinQ = 0x0800, 0x0806, 0x8035, 0x8100, 0x86dd, 0x88a8
)

var etherNames = map[uint16]string{
	typeIP4: "IPv4", typeARP: "ARP", typeRARP: "Reverse ARP", typeVLAN: "802.1Q", typeIP6: "IPv6", typeQinQ: "802.1Q-QinQ",
	0x88cc: "LLDP", 0x8809: "Slow Protocols", 0x888e: "EAPOL", 0x8847: "MPLS unicast", 0x9000: "Loopback",
}

func etherName(t uint16) string {
	if name := etherNames[t]; name != "" {
		return name
	}
	return "Unknown"
}

func mac(b []byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
}

func (l *line) ethernet(b []byte) {
	if len(b) < 14 {
		l.say("[|ether] %d bytes: % x", len(b), b)
		return
	}
	typ, rest, left := be16(b[12:]), b[14:], l.o.WireLen-14
	known := typ == typeIP4 || typ == typeIP6 || typ == typeARP || typ == typeRARP || typ == typeVLAN || typ == typeQinQ
	switch {
	case typ <= 1500:
		l.say("%s > %s, 802.3, length %d: ", mac(b[6:]), mac(b), typ)
		l.llc(rest)
		return
	case l.o.Ether, !known:
		l.say("%s > %s, ethertype %s (0x%04x), length %d: ", mac(b[6:]), mac(b), etherName(typ), typ, l.o.WireLen)
	}
	for range 2 {
		if typ != typeVLAN && typ != typeQinQ {
			break
		}
		if len(rest) < 4 {
			l.say("[|vlan]")
			return
		}
		tci := be16(rest)
		typ = be16(rest[2:])
		if l.o.Ether {
			l.say("vlan %d, p %d, ", tci&0xfff, tci>>13)
			if tci&0x1000 != 0 {
				l.say("DEI, ")
			}
			l.say("ethertype %s (0x%04x), ", etherName(typ), typ)
		}
		rest, left = rest[4:], left-4
	}
	l.network(typ, rest, left)
}

func (l *line) llc(b []byte) {
	switch {
	case len(b) < 3:
		l.say("[|llc]")
	case b[0] == 0x42 && b[1] == 0x42:
		l.say("STP")
	default:
		l.say("LLC, dsap 0x%02x, ssap 0x%02x, ctrl 0x%02x", b[0], b[1], b[2])
	}
}

// network says what is in the payload of a frame, which has left bytes on the wire.
func (l *line) network(typ uint16, b []byte, left int) {
	prefix := func(name string) {
		if !l.o.Ether {
			l.say("%s", name)
		}
	}
	switch typ {
	case typeIP4:
		prefix("IP ")
		l.ip4(b)
	case typeIP6:
		prefix("IP6 ")
		l.ip6(b)
	case typeARP, typeRARP:
		if typ == typeARP {
			prefix("ARP, ")
		} else {
			prefix("Reverse ARP, ")
		}
		l.arp(b, left)
	default:
		l.say("length %d", max(left, 0))
	}
}

// host names an address.
func (l *line) host(a netip.Addr) string {
	if l.o.Host != nil {
		if name := l.o.Host(a); name != "" {
			return name
		}
	}
	return a.String()
}

// port names a port.
func (l *line) port(proto string, p uint16) string {
	if l.o.Port != nil {
		if name := l.o.Port(proto, p); name != "" {
			return name
		}
	}
	return fmt.Sprint(p)
}

func addr4(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }
func addr6(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)) }

// arp is RFC 826.
func (l *line) arp(b []byte, left int) {
	if len(b) < 8 {
		l.say("[|arp]")
		return
	}
	if be16(b) != 1 || be16(b[2:]) != typeIP4 || b[4] != 6 || b[5] != 4 {
		l.say("hardware type %d, protocol 0x%04x, operation %d, length %d", be16(b), be16(b[2:]), be16(b[6:]), left)
		return
	}
	if len(b) < 28 {
		l.say("[|arp]")
		return
	}
	sha, spa, tha, tpa := b[8:14], addr4(b[14:18]), b[18:24], addr4(b[24:28])
	switch op := be16(b[6:]); op {
	case 1:
		l.say("Request ")
		l.say("who-has %s", l.host(tpa))
		if zero := [6]byte{}; [6]byte(tha) != zero {
			l.say(" (%s)", mac(tha))
		}
		l.say(" tell %s", l.host(spa))
	case 2:
		l.say("Reply %s is-at %s", l.host(spa), mac(sha))
	case 3:
		l.say("Request who-is %s tell %s", mac(tha), mac(sha))
	case 4:
		l.say("Reply %s at %s", mac(tha), l.host(tpa))
	default:
		l.say("operation %d", op)
	}
	l.say(", length %d", left)
}
