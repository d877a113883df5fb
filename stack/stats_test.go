package stack

import (
	"slices"
	"testing"

	"github.com/ustack/ustack/link"
)

// Counters has those that are zero, and no more names after anything the wire sends.
func TestCounters(t *testing.T) {
	wire, far := link.Pipe(link.PipeConfig{})
	s := newStack(t, Config{Device: wire, Addrs: prefixes("10.0.0.1/24")})
	defer far.Close()
	before := s.Counters()
	for _, name := range []string{
		"ip.packets_received", "ip.forwarding.unrouteable", "arp.malformed_packets_received",
		"icmp.v4.packets_sent.echo_request", "icmp.v6.packets_received.neighbor_solicit", "igmp.packets_sent.v2_membership_report",
		"tcp.retransmits", "udp.unknown_port_errors", "dropped_packets",
		"nic.unknown_l3_protocol_rcvd_packet_counts", "nic.neighbor.unreachable_entry_lookups",
	} {
		if _, ok := before[name]; !ok {
			t.Errorf("no counter %s", name)
		}
	}
	frame := slices.Concat(s.HardwareAddr(), []byte{2, 0, 0, 0, 0, 9, 0, 0}, make([]byte, 46))
	q := far.Queues()[0]
	const kinds = 100
	for i := range kinds { // as many protocols that nobody knows
		frame[12], frame[13] = 0x99, byte(i)
		if _, err := q.Write([]link.OutFrame{{Pieces: [][]byte{frame}}}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the frames to arrive", func() bool {
		return s.Counters()["nic.unknown_l3_protocol_rcvd_packet_counts"] == kinds
	})
	after := s.Counters()
	if len(after) != len(before) {
		t.Errorf("%d names, were %d", len(after), len(before))
	}
	for name, n := range s.Stats() {
		if n == 0 {
			t.Errorf("Stats has %s, which is zero", name)
		}
	}
}

func TestDropReasons(t *testing.T) {
	all := DropReasons()
	if !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Errorf("not a set in order: %v", all)
	}
	for _, reason := range []string{link.DropTxDown.String(), link.DropRxShort.String(), "rx_otherhost", "tx_ended"} {
		if !slices.Contains(all, reason) {
			t.Errorf("%s is missing in %v", reason, all)
		}
	}
}
