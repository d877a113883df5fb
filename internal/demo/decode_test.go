package demo

import (
	"encoding/hex"
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	const ether4 = "020000000004 020000000005 0800"
	for _, tt := range []struct{ name, hex, want string }{
		{"empty", "", "? 0 bytes: too short for an Ethernet header"},
		{"ARP request", "ffffffffffff 020000000004 0806 0001 0800 06 04 0001 020000000004 0a000004 000000000000 0a000005",
			"ARP who has 10.0.0.5? tell 10.0.0.4 at 02:00:00:00:00:04"},
		{"ARP reply", "020000000004 020000000005 0806 0001 0800 06 04 0002 020000000005 0a000005 020000000004 0a000004",
			"ARP 10.0.0.5 is at 02:00:00:00:00:05"},
		{"ARP probe", "ffffffffffff 020000000004 0806 0001 0800 06 04 0001 020000000004 00000000 000000000000 0a000004",
			"ARP does anybody have 10.0.0.4?"},
		{"ARP announcement", "ffffffffffff 020000000004 0806 0001 0800 06 04 0001 020000000004 0a000004 000000000000 0a000004",
			"ARP 10.0.0.4 is at 02:00:00:00:00:04, for everybody to know"},
		{"short ARP", "ffffffffffff 020000000004 0806 0001 0800 06 04", "ARP not for IPv4 over Ethernet"},
		{"echo reply", ether4 + "4500001c 00000000 4001 0000 0a000005 0a000004 0000 0000 0007 0001",
			"ICMP 10.0.0.5 > 10.0.0.4 echo reply, id 7 seq 1, ttl 64"},
		{"unreachable", ether4 + "4500001c 00000000 4001 0000 0a000005 0a000004 0301 0000 0000 0000",
			"ICMP 10.0.0.5 > 10.0.0.4 type 3 code 1"},
		{"short ICMP", ether4 + "45000018 00000000 4001 0000 0a000005 0a000004 0000 0000", "ICMP 10.0.0.5 > 10.0.0.4 too short"},
		{"SYN", ether4 + "45000028 00004000 4006 0000 0a000005 0a000004 c000 0050 00000001 00000000 5002 ffff 0000 0000",
			"TCP 10.0.0.5:49152 > 10.0.0.4:80 SYN"},
		{"padding is no payload", ether4 + "45000028 00004000 4006 0000 0a000005 0a000004 c000 0050 00000001 00000000 5010 ffff 0000 0000 000000000000",
			"TCP 10.0.0.5:49152 > 10.0.0.4:80 ACK"},
		{"data", ether4 + "4500002c 00004000 4006 0000 0a000005 0a000004 c000 0050 00000001 00000000 5018 ffff 0000 0000 68690d0a",
			"TCP 10.0.0.5:49152 > 10.0.0.4:80 PSH ACK, 4 bytes: hi"},
		{"binary data", ether4 + "45000029 00004000 4006 0000 0a000005 0a000004 c000 0050 00000001 00000000 5018 ffff 0000 0000 00",
			"TCP 10.0.0.5:49152 > 10.0.0.4:80 PSH ACK, 1 bytes: not text"},
		{"TCP header too long", ether4 + "45000028 00004000 4006 0000 0a000005 0a000004 c000 0050 00000001 00000000 f002 ffff 0000 0000",
			"TCP 10.0.0.5 > 10.0.0.4 damaged header"},
		{"UDP", ether4 + "4500001d 00000000 4011 0000 0a000005 0a000004 c000 0007 0009 0000 00", "UDP 10.0.0.5:49152 > 10.0.0.4:7 1 bytes"},
		{"short UDP", ether4 + "45000016 00000000 4011 0000 0a000005 0a000004 c000", "UDP 10.0.0.5 > 10.0.0.4 too short"},
		{"DNS", ether4 + "4500002d 00000000 4011 0000 0a000004 0a000005 c000 0035 0019 0000 0001 0100 0001 0000 0000 0000 00 0001 0001",
			"DNS 10.0.0.4:49152 > 10.0.0.5:53 A ?"},
		{"fragment", ether4 + "4500001c 00002001 4001 0000 0a000005 0a000004 0000 0000 0007 0001", "IPv4 10.0.0.5 > 10.0.0.4 fragment"},
		{"IPv4 options beyond the end", ether4 + "4f00001c 00000000 4001 0000 0a000005 0a000004", "IPv4 damaged header"},
		{"another protocol", ether4 + "45000014 00000000 4059 0000 0a000005 0a000004", "IPv4 10.0.0.5 > 10.0.0.4 protocol 89"},
		{"IPv6", "333300000001 020000000005 86dd", "IPv6 "},
		{"another EtherType", "020000000004 020000000005 88cc 00", "0x88cc 15 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := hex.DecodeString(strings.ReplaceAll(tt.hex, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			if f := decode(b); f.proto+" "+f.text != tt.want {
				t.Errorf("got  %s %s\nwant %s", f.proto, f.text, tt.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"ffffffffffff02000000000408060001080006040001020000000004 0a0000040000000000000a000005",
		"020000000004 020000000005 0800 4500002c 00004000 4006 0000 0a000005 0a000004 c000 0050 00000001 00000000 5018 ffff 0000 0000 68690d0a",
		"020000000004 020000000005 0800 4500002d 00000000 4011 0000 0a000004 0a000005 c000 0035 0019 0000 0001 0100 0001 0000 0000 0000 00 0001 0001",
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(seed, " ", ""))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := decode(b)
		if got.proto == "" || strings.ContainsAny(got.text, "\n\x1b") {
			t.Errorf("not a line: %+v", got)
		}
	})
}
