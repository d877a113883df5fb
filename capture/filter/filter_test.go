package filter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ustack/ustack/internal/netlab"
)

var (
	macA = []byte{2, 0, 0, 0, 0, 0xa}
	macB = []byte{2, 0, 0, 0, 0, 0xb}
	ones = bytes.Repeat([]byte{255}, 6)
)

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func be(v ...uint16) (b []byte) {
	for _, x := range v {
		b = binary.BigEndian.AppendUint16(b, x)
	}
	return b
}

func eth(dst, src []byte, typ uint16, payload []byte) []byte { return cat(dst, src, be(typ), payload) }

func ip4(src, dst string, proto byte, fragment uint16, options int, payload []byte) []byte {
	h := make([]byte, 20+options)
	h[0] = 0x45 + byte(options/4)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	binary.BigEndian.PutUint16(h[6:], fragment)
	h[8], h[9] = 64, proto
	copy(h[12:], netip.MustParseAddr(src).AsSlice())
	copy(h[16:], netip.MustParseAddr(dst).AsSlice())
	return append(h, payload...)
}

func ip6(src, dst string, next byte, payload []byte) []byte {
	h := make([]byte, 40)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	h[6], h[7] = next, 64
	copy(h[8:], netip.MustParseAddr(src).AsSlice())
	copy(h[24:], netip.MustParseAddr(dst).AsSlice())
	return append(h, payload...)
}

func tcp(src, dst uint16, flags byte, data int) []byte {
	h := make([]byte, 20+data)
	copy(h, be(src, dst))
	h[12], h[13] = 5<<4, flags
	return h
}

func udp(src, dst uint16, data int) []byte {
	return cat(be(src, dst, uint16(8+data), 0), make([]byte, data))
}

func arp(op uint16, spa, tpa string) []byte {
	return cat(be(1, 0x800, 0x604, op), macA, netip.MustParseAddr(spa).AsSlice(), make([]byte, 6), netip.MustParseAddr(tpa).AsSlice())
}

func tag(id, typ uint16, payload []byte) []byte { return cat(be(id, typ), payload) }

// fixture has frames of every kind that the filters of the tests tell apart. All are padded to
// 64 bytes: libpcap gives up a frame that is shorter than what a filter looks at, this package
// does not.
func fixture() [][]byte {
	all := [][]byte{
		eth(macB, macA, 0x800, ip4("10.0.0.1", "10.0.0.2", 6, 0x4000, 0, tcp(1234, 80, 0x02, 0))),
		eth(macA, macB, 0x800, ip4("10.0.0.2", "10.0.0.1", 6, 0x4000, 0, tcp(80, 1234, 0x12, 0))),
		eth(macB, macA, 0x800, ip4("10.0.0.1", "10.0.0.2", 6, 0x4000, 8, tcp(1234, 80, 0x18, 700))),
		eth(macB, macA, 0x800, ip4("10.0.0.1", "10.1.0.2", 6, 0, 0, tcp(1234, 443, 0x04, 0))),
		eth(macB, macA, 0x800, ip4("10.0.0.1", "192.168.3.4", 17, 0, 0, udp(5000, 53, 30))),
		eth(macA, macB, 0x800, ip4("192.168.3.4", "10.0.0.1", 17, 0x2000, 0, udp(53, 5000, 1400))),
		eth(macA, macB, 0x800, ip4("192.168.3.4", "10.0.0.1", 17, 0x00b9, 0, udp(53, 5000, 10))), // not the first fragment
		eth(macB, macA, 0x800, ip4("10.0.0.1", "10.0.0.2", 1, 0, 0, []byte{8, 0, 0, 0, 0, 1, 0, 1})),
		eth(macB, macA, 0x800, ip4("10.0.0.1", "10.0.0.2", 1, 0, 0, []byte{0, 0, 0, 0, 0, 1, 0, 1})),
		eth(macB, macA, 0x800, ip4("10.0.0.1", "10.0.0.2", 1, 0, 0, []byte{3, 3, 0, 0, 0, 1, 0, 1})),
		eth([]byte{1, 0, 0x5e, 0, 0, 251}, macA, 0x800, ip4("10.0.0.1", "224.0.0.251", 17, 0, 0, udp(5353, 5353, 20))),
		eth(ones, macA, 0x800, ip4("0.0.0.0", "255.255.255.255", 17, 0, 0, udp(68, 67, 250))),
		eth(macB, macA, 0x800, ip4("10.0.0.1", "10.0.0.2", 132, 0, 0, cat(be(80, 90), make([]byte, 20)))),
		eth(macB, macA, 0x800, ip4("10.0.0.1", "10.0.0.2", 2, 0, 0, make([]byte, 20))),
		eth(ones, macA, 0x806, arp(1, "10.0.0.1", "10.0.0.2")),
		eth(macA, macB, 0x806, arp(2, "10.0.0.2", "10.0.0.1")),
		eth(macA, macB, 0x8035, arp(3, "10.0.0.2", "10.0.0.1")),
		eth(macB, macA, 0x86dd, ip6("2001:db8::1", "2001:db8::2", 6, tcp(1234, 80, 0x02, 0))),
		eth(macA, macB, 0x86dd, ip6("2001:db8::2", "2001:db8::1", 17, udp(53, 7777, 9))),
		eth(macB, macA, 0x86dd, ip6("2001:db8::1", "2001:db8:1::9", 44, cat([]byte{17, 0, 0, 1, 0, 0, 0, 1}, udp(1, 2, 4)))),
		eth(macB, macA, 0x86dd, ip6("fe80::1", "fe80::2", 58, []byte{128, 0, 0, 0, 0, 0, 0, 1})),
		eth([]byte{0x33, 0x33, 0xff, 0, 0, 1}, macA, 0x86dd, ip6("fe80::1", "ff02::1:ff00:1", 58, make([]byte, 24))),
		eth([]byte{0x33, 0x33, 0xff, 0, 0, 1}, macA, 0x86dd, ip6("fe80::1", "ff02::1:ff00:1", 58, cat([]byte{135}, make([]byte, 23)))),
		eth(macB, macA, 0x8100, tag(5, 0x800, ip4("10.0.0.1", "10.0.0.2", 6, 0, 0, tcp(1234, 80, 0x02, 0)))),
		eth(macB, macA, 0x8100, tag(0x6007, 0x806, arp(1, "10.0.0.1", "10.0.0.2"))),
		eth(macB, macA, 0x88a8, tag(9, 0x8100, tag(5, 0x86dd, ip6("2001:db8::1", "2001:db8::2", 17, udp(9, 80, 9))))),
		eth([]byte{1, 0x80, 0xc2, 0, 0, 0}, macA, 38, cat([]byte{0x42, 0x42, 3}, make([]byte, 35))),
		eth([]byte{1, 0x80, 0xc2, 0, 0, 14}, macA, 0x88cc, make([]byte, 50)),
		eth(macB, macA, 0x9999, make([]byte, 1500)),
	}
	for i, f := range all {
		if len(f) < 64 {
			all[i] = append(f, make([]byte, 64-len(f))...)
		}
	}
	return all
}

// common are filters that mean the same to libpcap.
var common = strings.Split(strings.TrimSpace(`
ip
ip6
arp
rarp
tcp
udp
icmp
icmp6
sctp
igmp
not ip
! ip and ! arp
tcp or udp
tcp && ip6 || arp
arp or tcp and ip6
arp or (tcp and ip6)
host 10.0.0.1
src host 10.0.0.1
dst host 10.0.0.1
src 10.0.0.1
src or dst host 10.0.0.2
src and dst host 10.0.0.2
host 10.0.0.2 and not host 10.0.0.1
host 10.0.0.2 or 192.168.3.4
host (10.1.0.2 or 192.168.3.4)
ip host 10.0.0.1
arp host 10.0.0.2
arp src host 10.0.0.1
ip src 10.0.0.1
host 2001:db8::1
dst host 2001:db8:1::9
ip6 host fe80::1
net 10.0.0.0/8
net 10
net 10.1
src net 10.1.0.0/16
dst net 10.1.0.0 mask 255.255.0.0
net 192.168.3.0/24
net 0.0.0.0/0
net 2001:db8::/48
net 2001:db8:1::/48
net ::/0
ip net 10.0.0.0/24
port 80
tcp port 80
udp port 80
sctp port 80
src port 80
dst port 80
src or dst port 53
src and dst port 5353
port 53
port domain
port http or https
tcp port 80 or 443
tcp port (80 or 443)
not port 80
port not 80
portrange 50-90
tcp src portrange 1000-2000
udp dst portrange 60-70
proto 6
ip proto 17
ip6 proto 58
ip proto \tcp
ip6 proto 44
ether proto 0x806
ether proto \arp
ether proto 0x88cc
ether proto 0x42
ether host 02:00:00:00:00:0a
ether src 02:00:00:00:00:0b
ether dst 02:00:00:00:00:0b
ether src or dst 2:0:0:0:0:b
broadcast
ether broadcast
multicast
ether multicast
ip multicast
ip6 multicast
less 64
greater 65
greater 1000
len > 100
len = 64
len != 64
vlan
vlan 5
vlan 7
vlan and arp
vlan 5 and tcp
vlan and vlan
vlan 9 and vlan 5 and udp
vlan and host 10.0.0.1
vlan 5 and port 80
ip or vlan
tcp[13] & 2 != 0
tcp[tcpflags] & (tcp-syn|tcp-rst) != 0
tcp[tcpflags] == tcp-syn
tcp[tcpflags] & tcp-push != 0
(tcp[tcpflags] & tcp-ack) != 0
tcp[tcpflags] & (tcp-syn|tcp-ack) = (tcp-syn|tcp-ack)
not tcp[tcpflags] & tcp-syn != 0
icmp[icmptype] == icmp-echo
icmp[icmptype] = icmp-echoreply or icmp[0] = 3
icmp[icmptype] != icmp-echo and icmp[icmptype] != icmp-echoreply
icmp6[icmp6type] = icmp6-echo
icmp6[0] = icmp6-neighborsolicit
ip[8] = 64
ip[0] & 0xf != 5
ip[6:2] & 0x1fff != 0
ip[6:2] & 0x3fff != 0
ip[2:2] > 576
ip[12:4] = 0x0a000001
ip6[6] = 17
ether[0] & 1 = 1
ether[12:2] = 0x806
ether[20:2] = 2
arp[6:2] = 1
arp[7] = 2
udp[4:2] > 100
udp[0:2] = udp[2:2]
tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)
tcp[((tcp[12]&0xf0)>>2)] = 0 and greater 100
len - 14 > 100
1 = 1
0x10 >> 2 = 4
2 + 3 * 4 = 14
(2 + 3) * 4 = 20
10 % 4 = 2
6 ^ 3 = 5
100 / 7 / 2 = 7
0 - 1 > 5
`), "\n")

// writePcap writes frames as a pcap file (draft-ietf-opsawg-pcap): magic, version, times of 0.
func writePcap(t *testing.T, frames [][]byte) string {
	var b bytes.Buffer
	for _, v := range []any{uint32(0xa1b2c3d4), uint16(2), uint16(4), uint64(0), uint32(262144), uint32(1)} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	for i, f := range frames {
		_ = binary.Write(&b, binary.LittleEndian, []uint32{uint32(i), 0, uint32(len(f)), uint32(len(f))})
		b.Write(f)
	}
	name := filepath.Join(t.TempDir(), "fixture.pcap")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestLikeTcpdump holds every filter to the frames that tcpdump selects with it.
func TestLikeTcpdump(t *testing.T) {
	tcpdump := netlab.Peer(t, "tcpdump")
	frames := fixture()
	file := writePcap(t, frames)
	for _, expr := range common {
		f, err := Parse(expr)
		if err != nil {
			t.Error(err)
			continue
		}
		var got []int
		for i, frame := range frames {
			if f.Match(Meta{WireLen: len(frame)}, frame) {
				got = append(got, i)
			}
		}
		cmd := exec.Command(tcpdump, "-Z", "root", "-r", file, "-tt", "-n", "-e", "-q", expr)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("tcpdump %q: %v: %s", expr, err, stderr.String())
			continue
		}
		var want []int
		for line := range strings.Lines(string(out)) {
			var second, fraction int
			if n, _ := fmt.Sscanf(line, "%d.%d ", &second, &fraction); n == 2 {
				want = append(want, second)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: selects %v, tcpdump %v", expr, got, want)
		}
	}
}

func TestOwnPrimitives(t *testing.T) {
	frame := fixture()[0]
	for expr, want := range map[string]Meta{
		"in": {In: true}, "inbound": {In: true}, "out": {}, "outbound and tcp": {},
		"dropped": {Dropped: true}, "not dropped and in": {In: true}, "greater 9000": {WireLen: 9001},
	} {
		f, err := Parse(expr)
		if err != nil {
			t.Error(err)
			continue
		}
		if f.NeedsVerdict() != strings.Contains(expr, "dropped") {
			t.Errorf("%s: needs verdict: %v", expr, f.NeedsVerdict())
		}
		for _, m := range []Meta{{}, {In: true}, {Dropped: true}, {In: true, Dropped: true}, {WireLen: 9001}} {
			match := true
			for _, part := range strings.Split(expr, " and ") {
				switch part {
				case "in", "inbound":
					match = match && m.In
				case "out", "outbound":
					match = match && !m.In
				case "dropped":
					match = match && m.Dropped
				case "not dropped":
					match = match && !m.Dropped
				case "greater 9000":
					match = match && m.WireLen >= 9000
				}
			}
			if got := f.Match(m, frame); got != match {
				t.Errorf("%s with %+v: %v", expr, m, got)
			}
		}
		if !f.Match(want, frame) {
			t.Errorf("%s does not match %+v", expr, want)
		}
	}
	if f, err := Parse("  "); err != nil || !f.Match(Meta{}, nil) || !(*Filter)(nil).Match(Meta{}, nil) {
		t.Errorf("the empty filter: %v", err)
	}
}

// TestTruncated: what looks at bytes that are not there is false, and its negation true.
func TestTruncated(t *testing.T) {
	whole := fixture()[0]
	for _, expr := range common {
		f, err := Parse(expr)
		if err != nil {
			t.Fatal(err)
		}
		for n := range whole {
			f.Match(Meta{WireLen: n}, whole[:n:n])
		}
	}
	f, _ := Parse("port 80")
	g, _ := Parse("not port 80")
	if short := whole[:34]; f.Match(Meta{}, short) || !g.Match(Meta{}, short) {
		t.Error("a frame that ends before its ports")
	}
}

func TestErrors(t *testing.T) {
	for expr, want := range map[string]string{
		"foo":                           `"foo" at column 1`,
		"tcp and":                       "at its end: a condition is missing",
		"port":                          "at its end: a port is missing",
		"port 99999":                    `"99999" at column 6`,
		"host":                          "an address is missing",
		"host 10.0.0.300":               `"10.0.0.300" at column 6: not an IP address`,
		"host 10.0.0.0/8":               "goes with net",
		"net 10.0.0.1/8":                "write 10.0.0.0/8",
		"net 10.0.0.0/33":               "from 0 to 32",
		"net 10.0.0.0 mask 255.0.255.0": "netmask",
		"(tcp":                          `")" is missing to close "(" at column 1`,
		"tcp)":                          `")" at column 4: not expected`,
		"tcp udp":                       `"udp" at column 5`,
		"tcp[13":                        `"]" is missing`,
		"tcp[13]":                       "a number is no condition",
		"tcp[13] & 2":                   "a number is no condition",
		"tcp[0:3] = 1":                  "1, 2 or 4 bytes",
		"len = ":                        "a number is wanted",
		"len / 0 = 1":                   "division by zero",
		"1 + tcp = 2":                   "a number is wanted",
		"tcp host 10.0.0.1":             "no qualifier of an address",
		"icmp port 80":                  "has no ports",
		"ip host fe80::1":               "not an address of ip",
		"ip6 host 10.0.0.1":             "not an address of ip6",
		"ether host 10.0.0.1":           "six bytes",
		"host 02:00:00:00:00:01":        "write ether host",
		"host nix.test":                 "not an IP address",
		"vlan 4096":                     "0 to 4095",
		"ip broadcast":                  "ether broadcast",
		"gateway x":                     "do not have it",
		"tcp $ udp":                     `"$" at column 5`,
		"tcp é":                         `"é" at column 5`,
		`ip proto \`:                    "backslash",
		"less tcp":                      "number of bytes",
		"ether":                         "ether needs",
		"not":                           "a condition is missing",
		"ip proto 256":                  "up to 255",
		"tcp and 5 or 6":                "",
		strings.Repeat("(", 5000) + "tcp" + strings.Repeat(")", 5000): "nested",
		strings.Repeat("-", 5000) + "1 = 1":                           "nested",
		"port " + strings.Repeat("(", 5000):                           "nested",
		strings.Repeat("tcp or ", 9000) + "tcp":                       "too many",
	} {
		_, err := Parse(expr)
		var pe *ParseError
		if !errors.As(err, &pe) {
			t.Errorf("%.40q is taken: %v", expr, err)
		} else if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.40q: %v: want %q", expr, err, want)
		}
	}
}

func TestNames(t *testing.T) {
	lookup := func(name string) ([]netip.Addr, error) {
		if name != "www.nix.test" {
			return nil, errors.New("no such host")
		}
		return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")}, nil
	}
	f, err := ParseNames("src host www.nix.test", lookup)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, frame := range fixture() {
		if f.Match(Meta{}, frame) {
			n++
		}
	}
	if g, _ := Parse("src host 10.0.0.1 or 2001:db8::1"); n == 0 {
		t.Error("no frame of a name")
	} else {
		for _, frame := range fixture() {
			if f.Match(Meta{}, frame) != g.Match(Meta{}, frame) {
				t.Errorf("% x", frame[:34])
			}
		}
	}
	if _, err := ParseNames("host other.test", lookup); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Error(err)
	}
}

func TestNoAllocations(t *testing.T) {
	f, err := Parse("tcp port 80 and (host 10.0.0.1 or net 192.168.0.0/16) and tcp[tcpflags] & tcp-syn != 0")
	if err != nil {
		t.Fatal(err)
	}
	frame := fixture()[0]
	if !f.Match(Meta{}, frame) {
		t.Fatal("no match")
	}
	if n := testing.AllocsPerRun(1000, func() { f.Match(Meta{In: true, WireLen: len(frame)}, frame) }); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

func FuzzFilter(f *testing.F) {
	frame := fixture()[2]
	for _, expr := range common {
		f.Add(expr, frame[:54])
	}
	f.Add("host a.b and \\tcp[(((", []byte{})
	f.Fuzz(func(t *testing.T, expr string, frame []byte) {
		p, err := Parse(expr)
		if err != nil {
			var pe *ParseError
			if !errors.As(err, &pe) || pe.Column < 0 || pe.Column > len(expr)+1 {
				t.Fatalf("%q: %#v", expr, err)
			}
			return
		}
		for _, m := range []Meta{{}, {In: true, Dropped: true, WireLen: len(frame)}} {
			p.Match(m, frame)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	f, err := Parse("tcp port 80 and host 10.0.0.1")
	if err != nil {
		b.Fatal(err)
	}
	frame := fixture()[0]
	for b.Loop() {
		f.Match(Meta{}, frame)
	}
}
