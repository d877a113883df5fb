package doctor

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	macA = net.HardwareAddr{2, 0, 0, 0, 0, 4}
	macB = net.HardwareAddr{2, 0, 0, 0, 0, 5}
	macC = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	ipA  = netip.MustParseAddr("10.0.0.4")
	ipB  = netip.MustParseAddr("10.0.0.5")
)

// ipFrame makes a frame with an IPv4 packet from ipA to ipB.
func ipFrame(dst net.HardwareAddr, proto byte, payload []byte) []byte {
	b := append(append([]byte{}, dst...), macA...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0, 10, 0, 0, 4, 10, 0, 0, 5}
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return append(append(b, ip...), payload...)
}

// udp makes a datagram whose checksum is what makes it of the pseudo-header's sum.
func udp(sumOf func(pseudo uint32, b []byte) uint16) []byte {
	b := []byte{0xc0, 0, 0, 9, 0, 12, 0, 0, 'd', 'a', 't', 'a'}
	pseudo := sum(sum(uint32(unix.IPPROTO_UDP+len(b)), ipA.AsSlice()), ipB.AsSlice())
	binary.BigEndian.PutUint16(b[6:], sumOf(pseudo, b))
	return b
}

func goodSum(pseudo uint32, b []byte) uint16    { return ^fold(sum(pseudo, b)) }
func partialSum(pseudo uint32, _ []byte) uint16 { return fold(pseudo) }
func badSum(uint32, []byte) uint16              { return 0x1234 }

func ip6Frame() []byte {
	b := append(append([]byte{}, macB...), macA...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IPV6)
	b = append(b, 0x60, 0, 0, 0, 0, 8, unix.IPPROTO_ICMPV6, 255)
	src, dst := netip.MustParseAddr("fd00::4").As16(), netip.MustParseAddr("fd00::5").As16()
	return append(append(append(b, src[:]...), dst[:]...), 128, 0, 0, 0, 0, 0, 0, 0)
}

func TestShapeOf(t *testing.T) {
	frames := map[string][]byte{
		"ARP":  arpRequest(macA, ipA, ipB),
		"IPv4": ipFrame(macB, unix.IPPROTO_UDP, udp(goodSum)),
		"IPv6": ip6Frame(),
	}
	for name, f := range frames {
		etherType := binary.BigEndian.Uint16(f[12:])
		for shift := -14; shift <= maxShift; shift++ {
			if shift == -13 {
				continue // one byte of the EtherType is too little to tell
			}
			b := append(bytes.Repeat([]byte{0}, max(shift, 0)), f[max(-shift, 0):]...)
			if got, want := shapeOf(b, len(b)), (Shape{shift, etherType}); got != want {
				t.Errorf("%s shifted by %d: %+v, want %+v", name, shift, got, want)
			}
		}
	}
	// What is no packet at all, and what only looks like one, is left alone.
	broken := ipFrame(macB, unix.IPPROTO_UDP, nil)[headerLen:]
	broken[10]++
	tagged := append(append([]byte{}, frames["IPv4"][:12]...), 0x81, 0, 0, 7)
	tagged = append(tagged, frames["IPv4"][12:]...)
	for name, b := range map[string][]byte{
		"nothing": nil, "short": make([]byte, 13), "zeros": make([]byte, 60), "a header checksum that is wrong": broken,
		"a VLAN tag": tagged, "marker": append(append(append([]byte{}, macB...), macA...), 0x88, 0xb5, 1, 2, 3),
	} {
		if got := shapeOf(b, len(b)); got != (Shape{}) {
			t.Errorf("%s: %+v, want nothing", name, got)
		}
	}
}

func TestJudgeChecksum(t *testing.T) {
	for _, c := range []struct {
		sum  func(uint32, []byte) uint16
		want checksumVerdict
	}{
		{goodSum, checksumGood}, {partialSum, checksumPartial}, {badSum, checksumBad},
		{func(uint32, []byte) uint16 { return 0 }, checksumUnknown},
	} {
		b := ipFrame(macB, unix.IPPROTO_UDP, udp(c.sum))
		p, ok := parseIP(b, len(b))
		if !ok || p.judgeChecksum() != c.want {
			t.Errorf("verdict %v, %v; want %v", p.judgeChecksum(), ok, c.want)
		}
		if p.src != ipA || p.dst != ipB {
			t.Errorf("addresses %v, %v", p.src, p.dst)
		}
	}
	// Of a frame that was not kept whole nothing can be said.
	b := ipFrame(macB, unix.IPPROTO_UDP, udp(badSum))
	if p, ok := parseIP(b[:len(b)-1], len(b)); !ok || p.judgeChecksum() != checksumUnknown {
		t.Errorf("cut short: %v, %v", ok, p.judgeChecksum())
	}
}

func TestParseARP(t *testing.T) {
	a, ok := parseARP(arpRequest(macA, ipA, ipB))
	if !ok || a.reply || a.sender != ipA || a.target != ipB || a.senderMAC.String() != macA.String() {
		t.Errorf("%+v, %v", a, ok)
	}
	if probe, ok := parseARP(arpRequest(macA, netip.Addr{}, ipB)); !ok || !probe.sender.IsUnspecified() {
		t.Errorf("a probe: %+v, %v", probe, ok)
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(arpRequest(macA, ipA, ipB))
	f.Add(ipFrame(macB, unix.IPPROTO_UDP, udp(goodSum)))
	f.Add(append(make([]byte, 10), ip6Frame()...))
	f.Add(ipFrame(macB, unix.IPPROTO_TCP, make([]byte, 20))[headerLen:])
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, whole := range []int{len(b), len(b) + 1000} {
			if s := shapeOf(b, whole); s.Shift < -headerLen || s.Shift > maxShift {
				t.Errorf("shape %+v", s)
			}
			if p, ok := parseIP(b, whole); ok {
				p.judgeChecksum()
			}
			parseARP(b)
			describe(&Frame{Data: b, Len: whole})
			hexStart(b)
		}
	})
}
