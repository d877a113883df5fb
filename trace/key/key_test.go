package key

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"testing"
)

func raw(t testing.TB, parts ...string) []byte {
	t.Helper()
	var b []byte
	for _, p := range parts {
		part, err := hex.DecodeString(p)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, part...)
	}
	return b
}

const (
	ether4 = "020000000077" + "020000000011" + "0800"
	ether6 = "020000000077" + "020000000011" + "86dd"
	ip4    = "450000541234400040" // up to the time to live
	sums   = "0000"
	addrs4 = "0a0000010a000002"
	ip6    = "600000000028" // up to the payload length
	addrs6 = "fe800000000000000000000000000001fe800000000000000000000000000002"
)

func tcpFrame(t testing.TB) []byte {
	return raw(t, ether4, ip4, "06", sums, addrs4, "1f90c3500000000100000002501800fff00d0000", "68656c6c6f")
}

func udpFrame(t testing.TB) []byte {
	return raw(t, ether4, ip4, "11", sums, addrs4, "0035c35000100000", "abcd010000010000")
}

func icmpFrame(t testing.TB) []byte {
	return raw(t, ether4, ip4, "01", sums, addrs4, "0800f00d00010002", "70696e67")
}

func icmp6Frame(t testing.TB) []byte {
	return raw(t, ether6, ip6, "3a40", addrs6, "8000f00d00010002", "70696e67")
}

func arpFrame(t testing.TB) []byte {
	return raw(t, "ffffffffffff020000000011", "0806", "0001080006040001", "0200000000110a000001", "0000000000000a000002")
}

func must(t *testing.T, frame []byte) Key {
	t.Helper()
	k, ok := Of(frame)
	if !ok {
		t.Fatalf("no key: %x", frame)
	}
	return k
}

// Frames of different packets have different keys, and all have one.
func TestDifferent(t *testing.T) {
	change := func(b []byte, at int) []byte {
		b = slices.Clone(b)
		b[at] ^= 0x40
		return b
	}
	frames := map[string][]byte{
		"tcp": tcpFrame(t), "udp": udpFrame(t), "icmp": icmpFrame(t), "icmp6": icmp6Frame(t), "arp": arpFrame(t),
		"tcp port":     change(tcpFrame(t), 34),
		"tcp sequence": change(tcpFrame(t), 38),
		"tcp ack":      change(tcpFrame(t), 42),
		"tcp window":   change(tcpFrame(t), 48),
		"tcp id":       change(tcpFrame(t), 18),
		"udp port":     change(udpFrame(t), 34),
		"udp payload":  change(udpFrame(t), 42),
		"udp source":   change(udpFrame(t), 26),
		"echo number":  change(icmpFrame(t), 40),
		"echo type":    change(icmpFrame(t), 34),
		"echo6 number": change(icmp6Frame(t), 60),
		"arp op":       change(arpFrame(t), 21),
		"arp sender":   change(arpFrame(t), 31),
		"arp target":   change(arpFrame(t), 41),
		"fragment":     raw(t, ether4, "450000541234200040", "11", sums, addrs4, "0035c35000100000"),
		"fragment 2":   raw(t, ether4, "450000541234200140", "11", sums, addrs4, "0035c35000100000"),
		"lldp":         raw(t, "0180c200000e02000000001188cc", "0207040200000000"),
		"lldp other":   raw(t, "0180c200000e02000000001288cc", "0207040200000000"),
		"other ip":     raw(t, ether4, ip4, "2f", sums, addrs4, "00000800"),
	}
	seen := make(map[Key]string)
	for name, f := range frames {
		k := must(t, f)
		if seen[k] != "" {
			t.Errorf("%s has the key of %s", name, seen[k])
		}
		seen[k] = name
	}
}

// What happens to a packet on its way does not change its key.
func TestSame(t *testing.T) {
	for _, frame := range [][]byte{tcpFrame(t), udpFrame(t), icmpFrame(t), icmp6Frame(t), arpFrame(t)} {
		k := must(t, frame)
		check := func(what string, b []byte) {
			t.Helper()
			if got := must(t, b); got != k {
				t.Errorf("%s: another key for %x", what, b)
			}
		}
		check("other MACs", append([]byte{2, 9, 9, 9, 9, 9, 2, 8, 8, 8, 8, 8}, frame[12:]...))
		tagged := append(slices.Clone(frame[:12]), 0x81, 0, 0, 42)
		check("a tag", append(tagged, frame[12:]...))
		tagged = append(slices.Clone(frame[:12]), 0x88, 0xa8, 0, 1, 0x81, 0, 0, 42)
		check("two tags", append(tagged, frame[12:]...))
		check("padding", append(slices.Clone(frame), make([]byte, 18)...))
		n, ok := OfNetwork(binary.BigEndian.Uint16(frame[12:]), frame[14:])
		if !ok || n != k {
			t.Errorf("without its Ethernet header: another key for %x", frame)
		}
	}
	k := must(t, tcpFrame(t))
	routed := tcpFrame(t)
	routed[22], routed[24], routed[25] = 3, 0xab, 0xcd // hop limit, checksum of the header
	routed[50], routed[51] = 1, 2                      // checksum of the segment
	segment := tcpFrame(t)
	segment[17], segment[47] = 0xff, segment[47]&^8 // the first of several: other length, no PSH
	for what, b := range map[string][]byte{"routed": routed, "segment": segment, "no payload here": tcpFrame(t)[:54]} {
		if got := must(t, b); got != k {
			t.Errorf("%s: another key", what)
		}
	}
	u := udpFrame(t)
	u[40], u[41] = 0xbe, 0xef
	if must(t, u) != must(t, udpFrame(t)) {
		t.Error("an UDP checksum changes the key")
	}
}

// Extension headers are passed over; a fragment is known by its identification.
func TestExtensions(t *testing.T) {
	with := func(next string, ext ...string) []byte {
		return raw(t, append([]string{ether6, ip6, next, "40", addrs6}, ext...)...)
	}
	echo := "8000f00d00010002"
	if must(t, with("3a", echo)) != must(t, with("00", "3a00000000000000", echo)) {
		t.Error("a hop-by-hop header changes the key")
	}
	first, second := with("2c", "3a000001"+"00000009"), with("2c", "3a0005a9"+"00000009")
	if must(t, first) == must(t, second) {
		t.Error("two fragments have one key")
	}
	var endless []string
	for range 20 {
		endless = append(endless, "3c00000000000000")
	}
	if _, ok := Of(with("3c", endless...)); ok {
		t.Error("endless extension headers have a key")
	}
}

// Too little is no key.
func TestShort(t *testing.T) {
	for name, test := range map[string]struct {
		frame []byte
		need  int
	}{
		"tcp": {tcpFrame(t), 14 + 20 + 16}, "udp": {udpFrame(t), 14 + 20 + 8}, "icmp": {icmpFrame(t), 14 + 20 + 8},
		"icmp6": {icmp6Frame(t), 14 + 40 + 8}, "arp": {arpFrame(t), 14 + 28},
	} {
		for n := range len(test.frame) {
			if _, ok := Of(test.frame[:n]); ok != (n >= test.need) {
				t.Errorf("%s: %d bytes: %v", name, n, ok)
			}
		}
	}
}

func TestNoAllocation(t *testing.T) {
	b := tcpFrame(t)
	if n := testing.AllocsPerRun(100, func() { Of(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzOf(f *testing.F) {
	for _, b := range [][]byte{tcpFrame(f), udpFrame(f), icmpFrame(f), icmp6Frame(f), arpFrame(f)} {
		f.Add(b)
	}
	f.Add(raw(f, ether6, ip6, "00", "40", addrs6, "3aff000000000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, ok := Of(b)
		if again, same := Of(slices.Clone(b)); again != k || same != ok {
			t.Error("not the same each time")
		}
		if len(b) < etherLen || !ok {
			return
		}
		if n, found := OfNetwork(binary.BigEndian.Uint16(b[12:]), b[14:]); found && n == 0 {
			t.Error("a key of 0")
		}
	})
}
