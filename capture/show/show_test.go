package show

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/ustack/ustack/internal/netlab"
)

var (
	macA = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}
	macB = net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
	ipA  = net.IP{10, 0, 0, 1}
	ipB  = net.IP{10, 0, 0, 2}
	ip6A = net.ParseIP("2001:db8::1")
	ip6B = net.ParseIP("2001:db8::2")
)

// build makes a frame with all lengths and checksums.
func build(t testing.TB, list ...gopacket.SerializableLayer) []byte {
	t.Helper()
	var network gopacket.NetworkLayer
	for _, l := range list {
		switch l := l.(type) {
		case *layers.IPv4:
			network = l
		case *layers.IPv6:
			network = l
		case *layers.TCP:
			l.SetNetworkLayerForChecksum(network)
		case *layers.UDP:
			l.SetNetworkLayerForChecksum(network)
		case *layers.ICMPv6:
			l.SetNetworkLayerForChecksum(network)
		}
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, list...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

func eth(typ layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: macA, DstMAC: macB, EthernetType: typ}
}

func ip4(proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Id: 7, Flags: layers.IPv4DontFragment, Protocol: proto, SrcIP: ipA, DstIP: ipB}
}

func ip6(proto layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: ip6A, DstIP: ip6B}
}

func opt(kind layers.TCPOptionKind, data ...byte) layers.TCPOption {
	return layers.TCPOption{OptionType: kind, OptionLength: uint8(2 + len(data)), OptionData: data}
}

// frames are those that tcpdump says the same of.
func frames(t testing.TB) [][]byte {
	v4 := func(proto layers.IPProtocol, rest ...gopacket.SerializableLayer) []byte {
		return build(t, append([]gopacket.SerializableLayer{eth(layers.EthernetTypeIPv4), ip4(proto)}, rest...)...)
	}
	v6 := func(proto layers.IPProtocol, rest ...gopacket.SerializableLayer) []byte {
		return build(t, append([]gopacket.SerializableLayer{eth(layers.EthernetTypeIPv6), ip6(proto)}, rest...)...)
	}
	syn := layers.TCP{SrcPort: 40000, DstPort: 9000, Seq: 1000, SYN: true, Window: 64240, Options: []layers.TCPOption{
		opt(layers.TCPOptionKindMSS, 5, 0xb4), opt(layers.TCPOptionKindSACKPermitted), opt(layers.TCPOptionKindTimestamps, 0, 0, 0, 1, 0, 0, 0, 0),
		{OptionType: layers.TCPOptionKindNop}, opt(layers.TCPOptionKindWindowScale, 7),
	}}
	arp := layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: 1, SourceHwAddress: macA, SourceProtAddress: ipA, DstHwAddress: make([]byte, 6), DstProtAddress: ipB,
	}
	reply := arp
	reply.Operation = 2
	question := layers.DNS{ID: 4660, RD: true, QDCount: 1, Questions: []layers.DNSQuestion{{Name: []byte("www.nix.test"), Type: layers.DNSTypeA, Class: layers.DNSClassIN}}}
	answer := question
	answer.QR, answer.RA, answer.ANCount = true, true, 1
	answer.Answers = []layers.DNSResourceRecord{{Name: []byte("www.nix.test"), Type: layers.DNSTypeA, Class: layers.DNSClassIN, TTL: 60, IP: ipB}}
	none := question
	none.QR, none.ResponseCode = true, layers.DNSResponseCodeNXDomain
	cited := v4(layers.IPProtocolUDP, &layers.UDP{SrcPort: 5000, DstPort: 7777}, gopacket.Payload("ping"))[14:]
	fragment := ip4(layers.IPProtocolUDP)
	fragment.Flags, fragment.FragOffset = 0, 185
	first := ip4(layers.IPProtocolUDP)
	first.Flags = layers.IPv4MoreFragments
	icmp4 := func(typ, code uint8, id, seq uint16, payload []byte) []byte {
		return v4(layers.IPProtocolICMPv4, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Id: id, Seq: seq}, gopacket.Payload(payload))
	}
	icmp6 := func(typ, code uint8, payload []byte) []byte {
		return v6(layers.IPProtocolICMPv6, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}, gopacket.Payload(payload))
	}
	hop := ip6(layers.IPProtocolIPv6HopByHop)
	hop.SrcIP, hop.DstIP = net.IPv6zero, net.ParseIP("ff02::16")
	report := append([]byte{58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0}, net.ParseIP("ff02::1:ff00:1")...)
	return [][]byte{
		build(t, eth(layers.EthernetTypeIPv6), hop, gopacket.Payload(report)),
		v4(layers.IPProtocolTCP, &syn),
		v4(layers.IPProtocolTCP, &layers.TCP{SrcPort: 9000, DstPort: 40000, Seq: 5, Ack: 1001, SYN: true, ACK: true, Window: 65535}),
		v4(layers.IPProtocolTCP, &layers.TCP{SrcPort: 40000, DstPort: 9000, Seq: 1001, Ack: 6, PSH: true, ACK: true, Window: 500}, gopacket.Payload("hello")),
		v4(layers.IPProtocolTCP, &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: 1001, Ack: 6, PSH: true, ACK: true, Window: 500}, gopacket.Payload("GET / HTTP/1.1\r\nHost: a\r\n\r\n")),
		v4(layers.IPProtocolTCP, &layers.TCP{SrcPort: 40000, DstPort: 9000, Seq: 1006, Ack: 6, FIN: true, ACK: true, ECE: true, URG: true, Urgent: 3, Window: 500}),
		v4(layers.IPProtocolTCP, &layers.TCP{SrcPort: 40000, DstPort: 9000, Seq: 1006, RST: true}),
		v4(layers.IPProtocolTCP, &layers.TCP{SrcPort: 9000, DstPort: 40000, Seq: 9, Ack: 1, ACK: true, Window: 1, Options: []layers.TCPOption{
			{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop}, opt(layers.TCPOptionKindSACK, 0, 0, 0, 5, 0, 0, 0, 9)}}),
		v6(layers.IPProtocolTCP, &layers.TCP{SrcPort: 1, DstPort: 2, Seq: 1, SYN: true, Window: 9}),
		v4(layers.IPProtocolUDP, &layers.UDP{SrcPort: 5000, DstPort: 7777}, gopacket.Payload("nine byte")),
		v6(layers.IPProtocolUDP, &layers.UDP{SrcPort: 5000, DstPort: 7777}, gopacket.Payload("nine byte")),
		v4(layers.IPProtocolUDP, &layers.UDP{SrcPort: 5000, DstPort: 53}, &question),
		v4(layers.IPProtocolUDP, &layers.UDP{SrcPort: 53, DstPort: 5000}, &answer),
		v4(layers.IPProtocolUDP, &layers.UDP{SrcPort: 53, DstPort: 5000}, &none),
		build(t, eth(layers.EthernetTypeIPv4), fragment, gopacket.Payload(make([]byte, 40))),
		build(t, eth(layers.EthernetTypeARP), &arp),
		build(t, eth(layers.EthernetTypeARP), &reply),
		append(build(t, eth(layers.EthernetTypeARP), &arp), make([]byte, 18)...),
		icmp4(8, 0, 1, 2, make([]byte, 56)), icmp4(0, 0, 1, 2, make([]byte, 56)),
		icmp4(3, 3, 0, 0, cited), icmp4(3, 1, 0, 0, cited), icmp4(3, 0, 0, 0, cited), icmp4(3, 4, 0, 1400, cited), icmp4(3, 13, 0, 0, cited),
		icmp4(11, 0, 0, 0, cited),
		icmp6(128, 0, []byte{0, 1, 0, 2, 9, 9}), icmp6(129, 0, []byte{0, 1, 0, 2, 9, 9}),
		icmp6(135, 0, append(make([]byte, 4), ip6B...)), icmp6(136, 0, append(make([]byte, 4), ip6A...)),
		icmp6(133, 0, make([]byte, 4)), icmp6(2, 0, append([]byte{0, 0, 5, 0}, cited...)),
		build(t, eth(layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeIPv4}, ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 5000, DstPort: 7777}, gopacket.Payload("x")),
	}
}

// dump has tcpdump print frames, one line each.
func dump(t *testing.T, all [][]byte, absolute bool, args ...string) []string {
	t.Helper()
	tcpdump := netlab.Peer(t, "tcpdump")
	var b bytes.Buffer
	for _, v := range []any{uint32(0xa1b2c3d4), uint16(2), uint16(4), uint64(0), uint32(262144), uint32(1)} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	for _, f := range all {
		_ = binary.Write(&b, binary.LittleEndian, []uint32{0, 0, uint32(len(f)), uint32(len(f))})
		b.Write(f)
	}
	name := filepath.Join(t.TempDir(), "a.pcap")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-Z", "root", "-n", "-t", "-r", name}, args...)
	if absolute {
		args = append(args, "-S")
	}
	out, err := exec.Command(tcpdump, args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

// TestLikeTcpdump holds each line to tcpdump's.
func TestLikeTcpdump(t *testing.T) {
	for _, ether := range []bool{false, true} {
		var args []string
		if ether {
			args = []string{"-e"}
		}
		all := frames(t)
		want := dump(t, all, true, args...)
		if len(want) != len(all) {
			t.Fatalf("%d lines for %d frames", len(want), len(all))
		}
		for i, f := range all {
			if got := Line(f, Options{Ether: ether}); got != want[i] {
				t.Errorf("frame %d\n got %s\nwant %s", i, got, want[i])
			}
		}
	}
}

// TestVerbose: of what tcpdump -v says in more lines than one, the fields that are the same.
func TestVerbose(t *testing.T) {
	all := frames(t)
	wrong := bytes.Clone(all[3])
	wrong[54] ^= 1
	header := bytes.Clone(all[1])
	header[14+10] ^= 1
	for i, c := range []struct {
		frame []byte
		o     Options
		want  string
	}{
		{all[1], Options{}, "IP (tos 0x0, ttl 64, id 7, offset 0, flags [DF], proto TCP (6), length 60)\n    10.0.0.1.40000 > 10.0.0.2.9000: Flags [S], cksum 0x"},
		{all[1], Options{}, "(correct), seq 1000, win 64240, options [mss 1460,sackOK,TS val 1 ecr 0,nop,wscale 7], length 0"},
		{wrong, Options{}, "(incorrect -> 0x"},
		{wrong, Options{PartialChecksum: true}, "(partial)"},
		{header, Options{}, "bad cksum"},
		{all[9], Options{}, "[udp sum 0x"},
		{all[8], Options{}, "IP6 (hlim 64, next-header TCP (6) payload length: 20) 2001:db8::1.1 > 2001:db8::2.2: Flags [S], cksum 0x"},
	} {
		c.o.Verbose = true
		if got := Line(c.frame, c.o); !strings.Contains(got, c.want) {
			t.Errorf("%d: %s\nhas no %s", i, got, c.want)
		}
	}
	want := strings.Join(dump(t, [][]byte{all[1], wrong}, true, "-v"), "\n")
	if got := Line(all[1], Options{Verbose: true}) + "\n" + Line(wrong, Options{Verbose: true}); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNames(t *testing.T) {
	all := frames(t)
	o := Options{
		Host: func(a netip.Addr) string {
			if a == netip.MustParseAddr("10.0.0.2") {
				return "www.nix.test"
			}
			return ""
		},
		Port: func(proto string, port uint16) string {
			if proto == "tcp" && port == 9000 {
				return "http-alt"
			}
			return ""
		},
	}
	if got := Line(all[1], o); !strings.HasPrefix(got, "IP 10.0.0.1.40000 > www.nix.test.http-alt: Flags [S]") {
		t.Error(got)
	}
}

// TestStreams: sequence numbers are relative as tcpdump's are.
func TestStreams(t *testing.T) {
	v4 := func(tcp layers.TCP, data string, back bool) []byte {
		ip := ip4(layers.IPProtocolTCP)
		tcp.SrcPort, tcp.DstPort = 40000, 9000
		if back {
			ip.SrcIP, ip.DstIP, tcp.SrcPort, tcp.DstPort = ipB, ipA, 9000, 40000
		}
		return build(t, eth(layers.EthernetTypeIPv4), ip, &tcp, gopacket.Payload(data))
	}
	all := [][]byte{
		v4(layers.TCP{Seq: 1000, SYN: true}, "", false),
		v4(layers.TCP{Seq: 5000, Ack: 1001, SYN: true, ACK: true}, "", true),
		v4(layers.TCP{Seq: 1001, Ack: 5001, ACK: true}, "", false),
		v4(layers.TCP{Seq: 1001, Ack: 5001, ACK: true}, "hello", false),
		v4(layers.TCP{Seq: 5001, Ack: 1006, ACK: true}, "you", true),
		v4(layers.TCP{Seq: 1006, Ack: 5004, ACK: true, FIN: true}, "", false),
	}
	streams := new(Streams)
	for i, want := range dump(t, all, false) {
		if got := Line(all[i], Options{Streams: streams}); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if got := Line(all[5], Options{Streams: streams}); !strings.Contains(got, "seq 6, ack 4,") {
		t.Error(got)
	}
	for i := range 3 * maxStreams {
		streams.relative(netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i)}), 1), netip.AddrPort{}, 1, 1, false)
	}
	if len(streams.bases) > maxStreams {
		t.Errorf("%d streams are kept", len(streams.bases))
	}
}

func TestOthers(t *testing.T) {
	dhcp := build(t, &layers.Ethernet{SrcMAC: macA, DstMAC: net.HardwareAddr{255, 255, 255, 255, 255, 255}, EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{0, 0, 0, 0}, DstIP: net.IP{255, 255, 255, 255}},
		&layers.UDP{SrcPort: 68, DstPort: 67},
		&layers.DHCPv4{Operation: layers.DHCPOpRequest, HardwareType: 1, HardwareLen: 6, ClientHWAddr: macA, Options: layers.DHCPOptions{
			layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{1})}})
	for _, c := range []struct {
		frame []byte
		want  string
	}{
		{nil, "[|ether] 0 bytes: "},
		{[]byte{1, 2, 3}, "[|ether] 3 bytes: 01 02 03"},
		{build(t, eth(0x9999), gopacket.Payload("12345678901234567890")), "02:00:00:00:00:0a > 02:00:00:00:00:0b, ethertype Unknown (0x9999), length 60: length 46"},
		{dhcp, "IP 0.0.0.0.68 > 255.255.255.255.67: BOOTP/DHCP, Request (Discover) from 02:00:00:00:00:0a, length "},
		{append([]byte{1, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 38}, bytes.Repeat([]byte{0x42, 0x42, 3, 0}, 9)...), "02:00:00:00:00:01 > 01:80:c2:00:00:00, 802.3, length 38: STP"},
		// tcpdump has the ports behind HBH.
		{
			build(t, eth(layers.EthernetTypeIPv6), ip6(layers.IPProtocolIPv6HopByHop), gopacket.Payload(append([]byte{6, 0, 5, 2, 0, 0, 1, 0, 0, 5, 0, 9}, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 7, 0, 0, 0, 0))),
			"IP6 2001:db8::1.5 > 2001:db8::2.9: HBH Flags [S], seq 1, win 7, length 0",
		},
		{frames(t)[1][:30], "IP [|ip]"},
		{frames(t)[1][:40], "IP 10.0.0.1.40000 > 10.0.0.2.9000: [|tcp]"},
		{frames(t)[8][:50], "IP6 [|ip6]"},
	} {
		if got := Line(c.frame, Options{}); !strings.HasPrefix(got, c.want) {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	if got, want := Hex([]byte("0123456789abcdef\x00\xff"), true), "\t0x0000:  3031 3233 3435 3637 3839 6162 6364 6566  0123456789abcdef\n\t0x0010:  00ff                                     ..\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzLine(f *testing.F) {
	for _, frame := range frames(f) {
		f.Add(frame, true)
		f.Add(frame[:len(frame)-3], false)
	}
	f.Fuzz(func(t *testing.T, frame []byte, all bool) {
		o := Options{WireLen: len(frame)}
		if all {
			o.Ether, o.Verbose, o.Streams = true, true, new(Streams)
		}
		for _, c := range Line(frame, o) {
			if c < ' ' && c != '\n' || c >= 0x7f {
				t.Fatalf("%q in %q", c, Line(frame, o))
			}
		}
	})
}
