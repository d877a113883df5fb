package trace_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/trace"
)

// ipv6 makes a frame from the peer.
func ipv6(dst netip.Addr, next byte, payload []byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, next, 255
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], peerIP6.AsSlice())
	copy(b[24:], dst.AsSlice())
	return ether(ourMAC, 0x86dd, append(b, payload...))
}

// withSum puts the checksum of an upper layer over IPv6 in place.
func withSum(b []byte, at int, dst netip.Addr, next byte) []byte {
	b[at], b[at+1] = 0, 0
	binary.BigEndian.PutUint16(b[at:], checksum(b, pseudo(peerIP6, dst, next, len(b))))
	return b
}

func icmp6(typ byte, body []byte) []byte {
	return withSum(append([]byte{typ, 0, 0, 0}, body...), 2, ourIP6, 58)
}

func udp6(sport, dport uint16, payload []byte) []byte {
	return withSum(udp(sport, dport, payload), 6, ourIP6, 17)
}

func TestEnds6(t *testing.T) {
	l := newLab(t, link.PipeConfig{}, trace.Config{})
	const fragment, destOpts = 44, 60
	solicit := append(make([]byte, 4), ourIP6.AsSlice()...)
	solicit = append(append(solicit, 1, 1), peerMAC...)
	other := netip.MustParseAddr("fd00::77")
	for _, c := range []struct {
		name         string
		frame        []byte
		end, counter string
		words        []string
	}{
		{"echo request", ipv6(ourIP6, 58, icmp6(128, make([]byte, 20))), trace.EndAnswered, "", []string{"ICMP echo reply"}},
		{"bad checksum", ipv6(ourIP6, 58, flip(icmp6(128, make([]byte, 20)), 12)), trace.EndDropped, "icmp.v6.packets_received.invalid", nil},
		{"neighbour solicitation", ipv6(ourIP6, 58, icmp6(135, solicit)), trace.EndAnswered, "", []string{"neighbour advertisement"}},
		{"echo reply nobody waits for", ipv6(ourIP6, 58, icmp6(129, make([]byte, 20))), trace.EndDropped, "", []string{"no socket"}},
		{"router solicitation to a host", ipv6(ourIP6, 58, icmp6(133, make([]byte, 4))), trace.EndDropped, "icmp.v6.packets_received.router_only_packets_dropped_by_host", nil},
		{"closed UDP port", ipv6(ourIP6, 17, udp6(9, 999, []byte("x"))), trace.EndAnswered, "udp.unknown_port_errors", []string{"ICMP port unreachable"}},
		{"closed TCP port", ipv6(ourIP6, 6, withSum(tcp(9, 81, 1, 0, syn, nil), 16, ourIP6, 6)), trace.EndAnswered, "", []string{"RST"}},
		{"next header nobody has", ipv6(ourIP6, 253, make([]byte, 20)), trace.EndAnswered, "", []string{"ICMP unrecognised next header"}},
		{"for another", ipv6(other, 17, udp6(9, 9, nil)), trace.EndDropped, "ip.invalid_destination_addresses_received", []string{"fd00::77"}},
		{"payload length too long", set(ipv6(ourIP6, 17, udp6(9, 9, nil)), 19, 200), trace.EndDropped, "ip.malformed_packets_received", []string{"the header says"}},
		{"cut extension header", ipv6(ourIP6, destOpts, []byte{17, 9, 0, 0}), trace.EndDropped, "ip.malformed_packets_received", nil},
		{"behind options", ipv6(ourIP6, destOpts, append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, udp6(9, 999, nil)...)), trace.EndAnswered, "udp.unknown_port_errors", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			l.t = t
			want(t, l.give(c.frame), c.end, c.counter, c.words...)
		})
	}
	l.t = t

	u, err := l.stack.UDP("udp6", netip.AddrPortFrom(ourIP6, 7), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	want(t, l.give(ipv6(ourIP6, 17, udp6(9, 7, []byte("hello")))), trace.EndDelivered, "", "udp [fd00::4]:7 > [fd00::5]:9")
	whole := udp6(9, 7, make([]byte, 1800))
	part := func(from, to int, more byte) []byte {
		h := []byte{17, 0, 0, 0, 0, 0, 0, 9}
		binary.BigEndian.PutUint16(h[2:], uint16(from)|uint16(more))
		return ipv6(ourIP6, fragment, append(h, whole[from:to]...))
	}
	l.put(part(0, 1200, 1))
	l.until("held fragment", func() bool { return l.told("held for the rest") })
	l.put(part(1200, len(whole), 0))
	l.until("end of both", func() bool { return l.told("has completed its datagram") })
	var last uint64
	l.until("the datagram", func() bool {
		for _, r := range l.records {
			if r.Step == "socket" && r.Len == 1800 {
				last = r.Frame
			}
		}
		return last != 0
	})
	if !l.locked(func() bool { return l.told(fmt.Sprintf("frame %d has completed its datagram", last)) }) {
		t.Errorf("the fragments do not end with frame %d:\n%s", last, l.dump())
	}
}
