package doctor

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

const headerLen = 14 // of Ethernet

// isPacket reports whether b begins with a whole IPv4, IPv6 or ARP packet of the given
// EtherType: strict enough that other bytes are not taken for one.
func isPacket(etherType uint16, b []byte, whole int) bool {
	switch etherType {
	case unix.ETH_P_IP:
		// RFC 791 section 3.1: version, header length, total length, header checksum.
		if len(b) < 20 || b[0]>>4 != 4 || b[0]&0xf < 5 {
			return false
		}
		ihl := int(b[0]&0xf) * 4
		total := int(binary.BigEndian.Uint16(b[2:]))
		return len(b) >= ihl && total >= ihl && total <= whole && fold(sum(0, b[:ihl])) == 0xffff
	case unix.ETH_P_IPV6:
		// RFC 8200 section 3: version, payload length, hop limit; addresses that can be.
		if len(b) < 40 || b[0]>>4 != 6 || b[7] == 0 {
			return false
		}
		src := netip.AddrFrom16([16]byte(b[8:]))
		return 40+int(binary.BigEndian.Uint16(b[4:])) <= whole && !src.IsMulticast() && [16]byte(b[24:]) != [16]byte{}
	case unix.ETH_P_ARP:
		// RFC 826, for Ethernet and IPv4: request or reply.
		return len(b) >= 28 && [6]byte(b) == [6]byte{0, 1, 8, 0, 6, 4} && b[6] == 0 && (b[7] == 1 || b[7] == 2)
	}
	return false
}

// bareType returns the EtherType that b would have if it were a packet without an
// Ethernet header, 0 if it is none.
func bareType(b []byte, whole int) uint16 {
	for _, t := range []uint16{unix.ETH_P_IP, unix.ETH_P_IPV6, unix.ETH_P_ARP} {
		if isPacket(t, b, whole) {
			return t
		}
	}
	return 0
}

// isFrame reports whether b is a frame with such a packet in it.
func isFrame(b []byte, whole int) bool {
	return len(b) > headerLen && isPacket(binary.BigEndian.Uint16(b[12:]), b[headerLen:], whole-headerLen)
}

// isTag reports whether an EtherType stands before another one, or before a packet:
// VLAN tags (IEEE 802.1Q clause 9), MPLS (RFC 3032), PPPoE (RFC 2516), and PBB.
func isTag(etherType uint16) bool {
	switch etherType {
	case 0x8100, 0x88a8, 0x9100, 0x8847, 0x8848, 0x8863, 0x8864, 0x88e7:
		return true
	}
	return false
}

// maxShift is how many bytes too many or too few are looked for before a frame: the
// longest virtio header that a tap has, rounded up (struct virtio_net_hdr_v1_hash, 20).
const maxShift = 24

// A Shape is what the bytes of a frame look like.
type Shape struct {
	// Shift is how many bytes too many stand before the Ethernet header; negative is how
	// many are missing of it, -14 is all. 0 is a frame as it should be, or one of which
	// nothing can be said.
	Shift int
	// EtherType is that of the packet in it, 0 where nothing can be said.
	EtherType uint16
}

// shapeOf recognises a frame that begins too early or too late, by the packet in it.
func shapeOf(b []byte, whole int) Shape {
	if isFrame(b, whole) {
		return Shape{0, binary.BigEndian.Uint16(b[12:])}
	}
	if t := bareType(b, whole); t != 0 {
		return Shape{-headerLen, t}
	}
	if len(b) >= headerLen && isTag(binary.BigEndian.Uint16(b[12:])) {
		return Shape{} // what is in it begins later for a reason
	}
	for n := 1; n <= maxShift && n < len(b); n++ {
		if isFrame(b[n:], whole-n) {
			return Shape{n, binary.BigEndian.Uint16(b[n+12:])}
		}
	}
	for n := 1; n <= 12 && 14-n < len(b); n++ {
		t := binary.BigEndian.Uint16(b[12-n:])
		if isPacket(t, b[14-n:], whole-14+n) {
			return Shape{-n, t}
		}
	}
	return Shape{}
}

// An arpPacket is what an ARP packet says (RFC 826).
type arpPacket struct {
	reply          bool
	senderMAC      net.HardwareAddr
	sender, target netip.Addr
}

// parseARP reads the ARP packet of a frame.
func parseARP(b []byte) (p arpPacket, ok bool) {
	if len(b) < headerLen+28 || binary.BigEndian.Uint16(b[12:]) != unix.ETH_P_ARP || !isPacket(unix.ETH_P_ARP, b[headerLen:], len(b)-headerLen) {
		return p, false
	}
	b = b[headerLen:]
	p.reply = b[7] == 2
	p.senderMAC = net.HardwareAddr(b[8:14])
	p.sender = netip.AddrFrom4([4]byte(b[14:18]))
	p.target = netip.AddrFrom4([4]byte(b[24:28]))
	return p, true
}

// arpRequest builds a request for target. A probe (RFC 5227) has no sender address.
func arpRequest(from net.HardwareAddr, sender, target netip.Addr) []byte {
	b := make([]byte, 60) // Ethernet's least, so that no driver pads it with something
	for i := range 6 {
		b[i] = 0xff
	}
	copy(b[6:12], from)
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_ARP)
	copy(b[14:], []byte{0, 1, 8, 0, 6, 4, 0, 1})
	copy(b[22:28], from)
	if sender.Is4() {
		s := sender.As4()
		copy(b[28:], s[:])
	}
	t := target.As4()
	copy(b[38:], t[:])
	return b
}

// An ipPacket is what an IP header says.
type ipPacket struct {
	src, dst netip.Addr
	proto    byte
	fragment bool
	payload  []byte // as far as it was kept
	length   int    // of the payload, whole
}

// parseIP reads the IP packet of a frame; extension headers of IPv6 are not looked
// into.
func parseIP(b []byte, whole int) (p ipPacket, ok bool) {
	if !isFrame(b, whole) {
		return p, false
	}
	ip := b[headerLen:]
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_IP:
		ihl, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
		p.src, p.dst = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
		p.proto, p.length = ip[9], total-ihl
		p.fragment = binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 // more fragments, or an offset
		p.payload = ip[ihl:min(len(ip), total)]
	case unix.ETH_P_IPV6:
		n := int(binary.BigEndian.Uint16(ip[4:]))
		p.src, p.dst = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
		p.proto, p.length = ip[6], n
		p.payload = ip[40:min(len(ip), 40+n)]
	default:
		return p, false
	}
	return p, true
}

// A checksumVerdict is what the checksum of a TCP or UDP packet looks like.
type checksumVerdict int

const (
	checksumUnknown checksumVerdict = iota // none, not whole, or not one of ours
	checksumGood
	checksumBad
	checksumPartial // only the pseudo-header's sum, as offloading leaves it
)

// judgeChecksum verifies the checksum of a TCP or UDP packet (RFC 9293 section 3.1, RFC
// 768).
func (p *ipPacket) judgeChecksum() checksumVerdict {
	at := map[byte]int{unix.IPPROTO_TCP: 16, unix.IPPROTO_UDP: 6}[p.proto]
	if at == 0 || p.fragment || len(p.payload) < p.length || p.length < at+2 {
		return checksumUnknown
	}
	if p.proto == unix.IPPROTO_UDP && p.payload[6] == 0 && p.payload[7] == 0 {
		return checksumUnknown // the sender made none
	}
	pseudo := sum(sum(uint32(p.proto)+uint32(p.length), p.src.AsSlice()), p.dst.AsSlice())
	if fold(sum(pseudo, p.payload[:p.length])) == 0xffff {
		return checksumGood
	}
	if binary.BigEndian.Uint16(p.payload[at:]) == fold(pseudo) {
		return checksumPartial
	}
	return checksumBad
}

// describe prints a frame in a few words.
func describe(f *Frame) string {
	b := f.Data
	if len(b) < headerLen {
		return fmt.Sprintf("%d bytes", f.Len)
	}
	head := fmt.Sprintf("%s > %s, ", f.src(), f.dst())
	if a, ok := parseARP(b); ok {
		if a.reply {
			return head + fmt.Sprintf("ARP %s is at %s", a.sender, a.senderMAC)
		}
		return head + fmt.Sprintf("ARP who has %s, tell %s", a.target, a.sender)
	}
	if p, ok := parseIP(b, f.Len); ok {
		name := map[byte]string{unix.IPPROTO_TCP: "TCP", unix.IPPROTO_UDP: "UDP", unix.IPPROTO_ICMP: "ICMP", unix.IPPROTO_ICMPV6: "ICMPv6"}[p.proto]
		if name == "" {
			name = fmt.Sprintf("protocol %d", p.proto)
		}
		return head + fmt.Sprintf("%s > %s %s, %d bytes", p.src, p.dst, name, f.Len)
	}
	return head + fmt.Sprintf("EtherType 0x%04x, %d bytes", f.etherType(), f.Len)
}

// hexStart prints the first bytes of a frame.
func hexStart(b []byte) string { return fmt.Sprintf("% x", b[:min(len(b), 32)]) }
