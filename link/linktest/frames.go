package linktest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ustack/ustack/link"
)

// source is how the source address of every frame of the suite begins: a locally
// administered one. What else is on the wire, such as a kernel's own neighbour
// discovery, is passed over.
var source = [...]byte{0x02, 0x75, 0x73, 0x74}

// ours reports whether a frame is one of the suite's.
func ours(frame []byte) bool {
	return len(frame) >= link.HeaderLen && bytes.HasPrefix(frame[6:], source[:])
}

// etherType is for local experiments (IEEE 802, clause 9.2.4): no kernel answers.
const etherType = 0x88b5

// frame returns a frame of n bytes, at least 14. Its content depends on seq; from 18
// bytes on it holds seq.
func frame(seq uint32, n int) []byte {
	f := make([]byte, n)
	copy(f, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	copy(f[6:], source[:])
	binary.BigEndian.PutUint16(f[12:], etherType)
	for i := link.HeaderLen; i < n; i++ {
		f[i] = byte(seq) + byte(i*7)
	}
	if n >= 18 {
		binary.BigEndian.PutUint32(f[14:], seq)
	}
	return f
}

// seqOf is the number in a frame that has one.
func seqOf(f []byte) uint32 { return binary.BigEndian.Uint32(f[14:]) }

// series returns frames numbered from first on, of several lengths.
func series(first, count int) [][]byte {
	var all [][]byte
	for i := range count {
		all = append(all, frame(uint32(first+i), 60+(first+i)*37%1400))
	}
	return all
}

// segment returns a TCP segment with payload bytes of data in an Ethernet frame
// (RFC 791, RFC 8200, RFC 9293), its checksum left partial, and the metadata that
// says so. With a segment size it is a super-frame. flow is the source port and the
// end of the source address.
func segment(v6 bool, flow uint16, payload int, gsoSize uint16, ecn bool) ([]byte, link.Offload) {
	ipLen := 20
	if v6 {
		ipLen = 40
	}
	tcpAt := link.HeaderLen + ipLen
	f := make([]byte, tcpAt+20+payload)
	copy(f, []byte{0x02, 0, 0, 0, 0, 0x99})
	copy(f[6:], source[:])
	binary.BigEndian.PutUint16(f[10:], flow)
	ip, tcp := f[link.HeaderLen:tcpAt], f[tcpAt:]
	var pseudo uint32
	o := link.Offload{NeedsCsum: true, CsumStart: uint16(tcpAt), CsumOffset: 16}
	if v6 {
		binary.BigEndian.PutUint16(f[12:], 0x86dd)
		ip[0] = 6 << 4
		binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
		ip[6], ip[7] = 6, 64
		copy(ip[8:], []byte{0x20, 0x01, 0x0d, 0xb8, 15: 1})
		copy(ip[24:], []byte{0x20, 0x01, 0x0d, 0xb8, 15: 2})
		pseudo = sum(ip[8:40])
		o.GSOType = link.GSOTCPv6
	} else {
		binary.BigEndian.PutUint16(f[12:], 0x0800)
		ip[0] = 4<<4 | 5
		binary.BigEndian.PutUint16(ip[2:], uint16(ipLen+len(tcp)))
		ip[6], ip[8], ip[9] = 0x40, 64, 6 // don't fragment
		copy(ip[12:], []byte{192, 0, 2, 1})
		copy(ip[16:], []byte{192, 0, 2, 2})
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip)))
		pseudo = sum(ip[12:20])
		o.GSOType = link.GSOTCPv4
	}
	binary.BigEndian.PutUint16(tcp, flow)
	binary.BigEndian.PutUint16(tcp[2:], 80)
	tcp[12], tcp[13] = 5<<4, 0x10 // ACK
	if ecn {
		tcp[13] |= 0x80 // CWR
	}
	binary.BigEndian.PutUint16(tcp[14:], 65535)
	binary.BigEndian.PutUint16(tcp[16:], fold(pseudo+6+uint32(len(tcp))))
	for i := range payload {
		tcp[20+i] = byte(i * 11)
	}
	if gsoSize == 0 {
		o.GSOType = link.GSONone
	} else {
		o.GSOSize, o.ECN, o.HdrLen = gsoSize, ecn, uint16(tcpAt+20)
	}
	return f, o
}

// sum and fold are the Internet checksum's (RFC 1071).
func sum(b []byte) uint32 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// same compares frames.
func (s *suite) same(what string, i int, got, want []byte) {
	s.Helper()
	if bytes.Equal(got, want) {
		return
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	s.Fatalf("%s %d: %s, want %s; they differ from byte %d on", what, i, brief(got), brief(want), at)
}

func brief(f []byte) string {
	if len(f) >= 18 && binary.BigEndian.Uint16(f[12:]) == etherType {
		return fmt.Sprintf("number %d of %d bytes", seqOf(f), len(f))
	}
	return fmt.Sprintf("%d bytes %x", len(f), f[:min(len(f), 64)])
}

// drops lists a Device's drop counters.
func drops(dev link.Device) string {
	d := dev.Stats().Drops
	if len(d) == 0 {
		return "nothing dropped"
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(d)) {
		parts = append(parts, fmt.Sprintf("%s=%d", name, d[name]))
	}
	return "dropped " + strings.Join(parts, " ")
}
