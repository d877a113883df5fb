package trace_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// want checks the end of a frame: what is said of its reason must have all of words.
func want(t *testing.T, got trace.Record, end, counter string, words ...string) {
	t.Helper()
	bad := got.End != end || got.Counter != counter
	for _, w := range words {
		bad = bad || !strings.Contains(got.Text, w)
	}
	if bad {
		t.Errorf("%s\nis %q, counted as %q: %s\nwant %q, %q: %q", got.Summary, got.End, got.Counter, got.Text, end, counter, words)
	}
}

// TestEnds gives the stack frames of every fate that needs no connection.
func TestEnds(t *testing.T) {
	l := newLab(t, link.PipeConfig{}, trace.Config{})
	badSum := ipv4{proto: 17}.frame(udp(9, 9, nil))
	badSum[24]++
	badUDP := udp(9, 9, []byte("x"))
	badUDP[8] ^= 1
	badICMP := echo(1, 1)
	badICMP[60] ^= 1
	reply := echo(1, 1)
	reply[0] = 0
	reply[2] += 8
	longer := ipv4{proto: 17}.frame(udp(9, 9, nil))
	longer[17] += 40
	arpMalformed := arpRequest(ourIP)
	arpMalformed[14+4] = 7
	arpOdd := arpRequest(ourIP)
	arpOdd[14+7] = 9
	for _, c := range []struct {
		name         string
		frame        []byte
		end, counter string
		words        []string
	}{
		{"wrong MAC", ether(net.HardwareAddr{2, 7, 7, 7, 7, 7}, 0x0800, make([]byte, 46)), trace.EndDropped, "rx_otherhost", []string{"another station", "02:07:07:07:07:07"}},
		{"unknown EtherType", ether(ourMAC, 0x88cc, make([]byte, 46)), trace.EndDropped, "nic.unknown_l3_protocol_rcvd_packet_counts", []string{"0x88cc"}},
		{"a VLAN tag", ether(ourMAC, 0x8100, append([]byte{0, 5, 0x08, 0}, make([]byte, 46)...)), trace.EndDropped, "nic.unknown_l3_protocol_rcvd_packet_counts", []string{"0x8100", "VLAN 5"}},
		{"two VLAN tags", ether(ourMAC, 0x88a8, append([]byte{0, 7, 0x81, 0, 0, 5, 8, 0}, make([]byte, 46)...)), trace.EndDropped, "nic.unknown_l3_protocol_rcvd_packet_counts", []string{"0x88a8", "VLAN 7"}},
		{"a length for a type", ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, 38, make([]byte, 46)), trace.EndDropped, "nic.unknown_l3_protocol_rcvd_packet_counts", []string{"802.3", "38"}},
		{"an ARP reply not asked for", arpReply(netip.MustParseAddr("10.0.0.66")), trace.EndDropped, "nic.neighbor.dropped_confirmation_for_noninitiated_neighbor", []string{"10.0.0.66"}},
		{"an IGMP query without router alert", ether(net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, 0x0800, ipv4{dst: netip.MustParseAddr("224.0.0.1"), proto: 2, ttl: 1}.packet([]byte{0x11, 0x64, 0xee, 0x9b, 0, 0, 0, 0})), trace.EndDropped, "igmp.packets_received.invalid", nil},
		{"ARP for us", arpRequest(ourIP), trace.EndAnswered, "", []string{"ARP reply"}},
		{"ARP for another", arpRequest(netip.MustParseAddr("10.0.0.77")), trace.EndDropped, "arp.requests_received_unknown_target_address", []string{"10.0.0.77"}},
		{"malformed ARP", arpMalformed, trace.EndDropped, "arp.malformed_packets_received", nil},
		{"odd ARP", arpOdd, trace.EndDropped, "", []string{"operation 9"}},
		{"short ARP", ether(everyMAC, 0x0806, make([]byte, 9)), trace.EndDropped, "arp.malformed_packets_received", nil},
		{"bad IP checksum", badSum, trace.EndDropped, "ip.malformed_packets_received", []string{"checksum"}},
		{"truncated IP header", ether(ourMAC, 0x0800, []byte{0x45, 0, 0, 40, 0, 0}), trace.EndDropped, "ip.malformed_packets_received", []string{"truncated IPv4 header"}},
		{"no IP header", ether(ourMAC, 0x0800, nil), trace.EndDropped, "ip.malformed_packets_received", []string{"truncated"}},
		{"total length too long", longer, trace.EndDropped, "ip.malformed_packets_received", nil},
		{"for another IP", ipv4{dst: netip.MustParseAddr("10.0.0.99"), proto: 17}.frame(udp(9, 9, nil)), trace.EndDropped, "ip.invalid_destination_addresses_received", []string{"10.0.0.99"}},
		{"last hop, and not ours", ipv4{dst: netip.MustParseAddr("192.0.2.1"), proto: 17, ttl: 1}.frame(udp(9, 9, nil)), trace.EndDropped, "ip.invalid_destination_addresses_received", nil},
		{"IP protocol nobody has", ipv4{proto: 253}.frame(make([]byte, 20)), trace.EndAnswered, "nic.unknown_l4_protocol_rcvd_packet_counts", []string{"ICMP protocol unreachable"}},
		{"echo request", ipv4{proto: 1}.frame(echo(7, 1)), trace.EndAnswered, "", []string{"ICMP echo reply"}},
		{"bad ICMP checksum", ipv4{proto: 1}.frame(badICMP), trace.EndDropped, "icmp.v4.packets_received.invalid", nil},
		{"echo reply nobody waits for", ipv4{proto: 1}.frame(reply), trace.EndDropped, "", []string{"no socket"}},
		{"closed UDP port", ipv4{proto: 17}.frame(udp(9, 999, []byte("x"))), trace.EndAnswered, "udp.unknown_port_errors", []string{"ICMP port unreachable", "999"}},
		{"bad UDP checksum", ipv4{proto: 17}.frame(badUDP), trace.EndDropped, "udp.checksum_errors", nil},
		{"truncated UDP", ipv4{proto: 17}.frame([]byte{0, 9, 0}), trace.EndDropped, "nic.malformed_l4_rcvd_packets", nil},
		{"broadcast to a closed UDP port", ether(everyMAC, 0x0800, ipv4{dst: netip.MustParseAddr("10.0.0.255"), proto: 17}.packet(func() []byte { b := udp(9, 999, nil); b[6], b[7] = 0, 0; return b }())), trace.EndDropped, "udp.unknown_port_errors", nil},
		{"closed TCP port", tcpFrame(tcp(999, 81, 5, 0, syn, nil)), trace.EndAnswered, "", []string{"RST", "81"}},
		{"RST for nobody", tcpFrame(tcp(999, 81, 5, 0, rst, nil)), trace.EndDropped, "", []string{"reset"}},
		{"bad TCP checksum, closed port", tcpFrame(flip(tcp(999, 81, 5, 0, syn, nil), 16)), trace.EndDropped, "nic.malformed_l4_rcvd_packets", []string{"checksum"}},
		{"malformed TCP", tcpFrame(set(tcp(999, 81, 5, 0, syn, nil), 12, 1<<4)), trace.EndDropped, "nic.malformed_l4_rcvd_packets", nil},
		{"truncated TCP", tcpFrame([]byte{3, 231, 0, 81, 0}), trace.EndDropped, "nic.malformed_l4_rcvd_packets", nil},
		{"not IPv6", ether(ourMAC, 0x86dd, make([]byte, 60)), trace.EndDropped, "ip.malformed_packets_received", []string{"version 0"}},
		{"truncated IPv6", ether(ourMAC, 0x86dd, []byte{0x60, 0, 0}), trace.EndDropped, "ip.malformed_packets_received", []string{"truncated"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l.t = t
			want(t, l.give(c.frame), c.end, c.counter, c.words...)
		})
	}
}

func arpReply(sender netip.Addr) []byte {
	b := arpRequest(ourIP)
	b[14+7] = 2
	copy(b[14+14:], sender.AsSlice())
	return b
}

// TestAnsweredInFragments: what answers a datagram that came in fragments is known by its first one.
func TestAnsweredInFragments(t *testing.T) {
	l := newLab(t, link.PipeConfig{}, trace.Config{})
	l.give(arpRequest(ourIP)) // the stack knows the peer from now on
	whole := echo(9, 3)
	l.put(ipv4{proto: 1, id: 5, frag: 0x2000}.frame(whole[:32]))
	end := l.give(ipv4{proto: 1, id: 5, frag: 4}.frame(whole[32:]))
	want(t, end, trace.EndAnswered, "", "ICMP echo reply, frame")
}

func flip(b []byte, at int) []byte        { b[at] ^= 0x55; return b }
func set(b []byte, at int, v byte) []byte { b[at] = v; return b }
