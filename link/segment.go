package link

import "encoding/binary"

// maxHeaders bounds, in bytes, the headers of a super-frame that is segmented here,
// from Ethernet to TCP with all options and extensions. The longest without extension
// headers has 14 + 2 VLAN tags + 60 + 60.
const maxHeaders = 1024

// The values that tell headers from each other.
const (
	etherIPv4, etherIPv6 = 0x0800, 0x86dd
	etherVLAN, etherQinQ = 0x8100, 0x88a8 // IEEE 802.1Q, clause 9.6

	protoHopByHop, protoRouting, protoDestination = 0, 43, 60 // RFC 8200 section 4
	protoTCP                                      = 6

	tcpFIN, tcpPSH, tcpCWR = 0x01, 0x08, 0x80 // RFC 9293 section 3.1
	tcpCsumOffset          = 16
)

// A segmenter cuts one TCP super-frame into the frames that it stands for, as a
// kernel does for an interface without TSO. Payload is never copied; each segment has
// headers of its own.
//
// Nothing that the frame or its Offload claims is believed before it is checked.
// HdrLen is not looked at: TCP's header is where CsumStart says, and that must be
// where the IP header with its options or extensions ends.
type segmenter struct {
	headers [maxHeaders]byte // as they came
	l3, l4  int              // offsets of the IP and the TCP header
	hdr     int              // length of all headers
	v6      bool
	size    int    // payload of a segment
	sent    int    // payload that is in the segments so far
	left    int    // payload that is not
	pseudo  uint16 // sum of the pseudo-header without its length
	data    cursor // at the payload
	active  bool   // there is another segment
}

// start prepares the segmentation of f, n bytes long, for which Validate passes. It
// reports whether f is a super-frame that can be cut: a checksum is to be done, as
// virtio 1.2, section 5.1.6.2 asks of every super-frame; it is TCP over the IP version
// of its type, unfragmented; and its IP header gives the length that it has.
func (s *segmenter) start(f *OutFrame, n int) bool {
	o := &f.Offload
	s.active = false
	s.data = cursor{pieces: f.Pieces}
	h := s.headers[:s.data.copyTo(s.headers[:min(n, maxHeaders)])]
	s.l4 = int(o.CsumStart)
	if !o.NeedsCsum || o.CsumOffset != tcpCsumOffset || o.GSOSize == 0 || s.l4+20 > len(h) {
		return false
	}
	s.hdr = s.l4 + int(h[s.l4+12]>>4)*4
	if s.hdr < s.l4+20 || s.hdr > len(h) {
		return false
	}
	var etherType uint16
	etherType, s.l3 = networkHeader(h)
	switch {
	case o.GSOType == GSOTCPv4 && etherType == etherIPv4:
		s.v6 = false
		if !ipv4Leads(h, s.l3, s.l4, n) {
			return false
		}
	case o.GSOType == GSOTCPv6 && etherType == etherIPv6:
		s.v6 = true
		if !ipv6Leads(h, s.l3, s.l4, n) {
			return false
		}
	default:
		return false
	}
	// What the field holds so far is the sum of a pseudo-header with the length of
	// the whole; it is the one way to know the final destination behind a routing
	// header.
	p := summer{s: uint64(binary.BigEndian.Uint16(h[s.l4+tcpCsumOffset:]))}
	p.word(^uint16(n - s.l4))
	s.pseudo = fold(p.s)

	s.data = cursor{pieces: f.Pieces}
	for skip := s.hdr; skip > 0; {
		skip -= len(s.data.take(skip))
	}
	s.size, s.sent, s.left = int(o.GSOSize), 0, n-s.hdr
	s.active = true
	return true
}

// networkHeader returns the EtherType behind up to two VLAN tags, and where the
// network header begins. h holds HeaderLen bytes.
func networkHeader(h []byte) (etherType uint16, at int) {
	at = HeaderLen
	etherType = binary.BigEndian.Uint16(h[at-2:])
	for range 2 {
		if etherType != etherVLAN && etherType != etherQinQ || at+vlanLen > len(h) {
			break
		}
		at += vlanLen
		etherType = binary.BigEndian.Uint16(h[at-2:])
	}
	return etherType, at
}

// ipv4Leads reports whether an IPv4 header at l3 in h, of a frame of n bytes, leads to
// TCP at l4, which is within h (RFC 791 section 3.1).
func ipv4Leads(h []byte, l3, l4, n int) bool {
	const moreOrOffset = 0x3fff
	if l3+20 > l4 {
		return false
	}
	ip := h[l3:l4]
	return ip[0]>>4 == 4 && int(ip[0]&0xf)*4 == len(ip) && ip[9] == protoTCP &&
		binary.BigEndian.Uint16(ip[6:])&moreOrOffset == 0 &&
		int(binary.BigEndian.Uint16(ip[2:])) == n-l3
}

// ipv6Leads is the same for an IPv6 header and the extension headers that may stand in
// every segment: hop-by-hop options, destination options, routing.
func ipv6Leads(h []byte, l3, l4, n int) bool {
	at := l3 + 40
	if at > l4 || h[l3]>>4 != 6 || int(binary.BigEndian.Uint16(h[l3+4:])) != n-at {
		return false
	}
	next := h[l3+6]
	for at < l4 {
		if next != protoHopByHop && next != protoRouting && next != protoDestination {
			return false
		}
		next, at = h[at], at+8+int(h[at+1])*8 // l4+20 is within h
	}
	return at == l4 && next == protoTCP
}

// more reports whether there is another segment.
func (s *segmenter) more() bool { return s.active }

// stop forgets the frame.
func (s *segmenter) stop() {
	s.active = false
	s.data = cursor{}
}

// next writes the headers of the next segment to hdr, of s.hdr bytes, with all
// checksums in place, and appends hdr and the pieces of its payload to dst. more has
// returned true.
func (s *segmenter) next(hdr []byte, dst [][]byte) [][]byte {
	hdr = hdr[:s.hdr]
	size := min(s.size, s.left)
	copy(hdr, s.headers[:s.hdr])
	dst = append(dst, hdr)
	at := len(dst)
	dst = s.data.appendTo(dst, size)

	first, last := s.sent == 0, size == s.left
	tcp := hdr[s.l4:]
	binary.BigEndian.PutUint32(tcp[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(s.sent))
	if !last {
		tcp[13] &^= tcpFIN | tcpPSH
	}
	if !first {
		tcp[13] &^= tcpCWR // RFC 3168 section 6.1.2
	}
	if ip := hdr[s.l3:s.l4]; s.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(hdr)-s.l3-40+size))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(hdr)-s.l3+size))
		binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(s.sent/s.size))
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum(0, ip)))
	}
	tcp[tcpCsumOffset], tcp[tcpCsumOffset+1] = 0, 0
	c := summer{s: uint64(s.pseudo)}
	c.word(uint16(len(tcp) + size))
	c.add(tcp)
	for _, p := range dst[at:] {
		c.add(p)
	}
	binary.BigEndian.PutUint16(tcp[tcpCsumOffset:], c.checksum())

	s.sent, s.left, s.active = s.sent+size, s.left-size, !last
	return dst
}
