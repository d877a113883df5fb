package link

import "encoding/binary"

// FindPartial recognises a frame of TCP or UDP whose checksum field holds only the sum of the
// pseudo-header, as a kernel leaves it when it hands the frame to an interface that finishes
// checksums, and returns the Offload that says so. A wire that carries frames inside of others
// meets such frames where the outer ones cross no real interface: the kernel's metadata is lost
// with the outer headers. A frame whose finished checksum is that sum by chance is the same
// either way: to finish it again changes nothing. A padded frame is none: no kernel pads it before.
func FindPartial(frame []byte) (o Offload, ok bool) {
	if len(frame) < HeaderLen {
		return o, false
	}
	etherType, l3 := networkHeader(frame)
	var proto byte
	var l4 int
	var pseudo summer
	switch ip := frame[l3:]; {
	case etherType == etherIPv4 && len(ip) >= 20:
		const moreOrOffset = 0x3fff
		hdr, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
		if hdr < 20 || total != len(ip) || total < hdr || binary.BigEndian.Uint16(ip[6:])&moreOrOffset != 0 {
			return o, false
		}
		proto, l4 = ip[9], l3+hdr
		pseudo.add(ip[12:20])
		pseudo.word(uint16(total - hdr))
	case etherType == etherIPv6 && len(ip) >= 40:
		total := int(binary.BigEndian.Uint16(ip[4:]))
		if 40+total != len(ip) {
			return o, false
		}
		proto, l4 = ip[6], l3+40
		pseudo.add(ip[8:40])
		pseudo.word(uint16(total))
	default:
		return o, false
	}
	at := 0
	switch {
	case proto == protoTCP && l4+20 <= len(frame):
		at = tcpCsumOffset
	case proto == protoUDP && l4+8 <= len(frame):
		at = udpCsumOffset
	default:
		return o, false
	}
	pseudo.word(uint16(proto))
	if binary.BigEndian.Uint16(frame[l4+at:]) != fold(pseudo.s) {
		return o, false
	}
	return Offload{NeedsCsum: true, CsumStart: uint16(l4), CsumOffset: uint16(at)}, true
}

const (
	protoUDP      = 17
	udpCsumOffset = 6 // RFC 768
)
