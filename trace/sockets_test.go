package trace_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/capture/filter"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/trace"
)

// told reports whether a record says so. mu is held.
func (l *lab) told(text string) bool {
	for _, r := range l.records {
		if strings.Contains(r.Text, text) {
			return true
		}
	}
	return false
}

// stepsLocked returns the steps of one frame. mu is held.
func (l *lab) stepsLocked(frame uint64) (names []string) {
	for _, r := range l.records {
		if r.Frame == frame {
			names = append(names, r.Step)
		}
	}
	return names
}

func (l *lab) wantSteps(frame uint64, want string) {
	l.t.Helper()
	l.until(want, func() bool {
		return strings.Join(l.stepsLocked(frame), " ") == want
	})
}

func TestUDPSocket(t *testing.T) {
	owner := func(network string, local, remote netip.AddrPort) string {
		if network == "udp" && local.Port() == 7 {
			return "pid 42 (reader)"
		}
		return ""
	}
	l := newLab(t, link.PipeConfig{}, trace.Config{Owner: owner})
	u, err := l.stack.UDP("udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), 7), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if err := u.SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	got := l.give(ipv4{proto: 17}.frame(udp(9, 7, []byte("hello"))))
	want(t, got, trace.EndDelivered, "", "udp 10.0.0.4:7 > 10.0.0.5:9", "pid 42 (reader)")
	l.wantSteps(got.Frame, "read filter network socket end")
	if _, _, err := u.ReadFromUDPAddrPort(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	l.wantSteps(got.Frame, "read filter network socket end socket_read")

	first := l.give(ipv4{proto: 17}.frame(udp(9, 7, make([]byte, 1400))))
	want(t, first, trace.EndDelivered, "")
	for range 2 {
		l.give(ipv4{proto: 17}.frame(udp(9, 7, make([]byte, 1400))))
	}
	want(t, l.give(ipv4{proto: 17}.frame(udp(9, 7, make([]byte, 1400)))), trace.EndDropped, "udp.receive_buffer_errors", "full", "pid 42 (reader)")

	// The way back: the datagram is told of with its frame.
	if _, err := u.WriteToUDPAddrPort([]byte("back"), netip.AddrPortFrom(peerIP, 9)); err != nil {
		t.Fatal(err)
	}
	var out trace.Record
	l.until("frame out", func() bool {
		for _, r := range l.records {
			if r.Dir == "out" && r.Step == "end" && strings.Contains(strings.Join(l.stepsLocked(r.Frame), " "), "socket_write") {
				out = r
				return true
			}
		}
		return false
	})
	want(t, out, trace.EndSent, "")
	l.wantSteps(out.Frame, "socket_write write end")
}

func TestFragments(t *testing.T) {
	l := newLab(t, link.PipeConfig{}, trace.Config{})
	u, err := l.stack.UDP("udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), 7), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	whole := udp(9, 7, make([]byte, 2000))
	const moreFragments = 0x2000
	l.put(ipv4{proto: 17, id: 5, frag: moreFragments}.frame(whole[:1200]))
	l.until("held fragment", func() bool {
		return l.told("held")
	})
	last := l.give(ipv4{proto: 17, id: 5, frag: 1200 / 8}.frame(whole[1200:]))
	var ends []trace.Record
	l.until("two ends", func() bool {
		ends = nil
		for _, r := range l.records {
			if r.Step == "end" && r.Dir == "in" {
				ends = append(ends, r)
			}
		}
		return len(ends) == 2
	})
	want(t, last, trace.EndDelivered, "", "udp 10.0.0.4:7 > 10.0.0.5:9", "completed its datagram")
	want(t, ends[0], trace.EndDelivered, "", fmt.Sprintf("frame %d has completed its datagram", ends[1].Frame))
	want(t, ends[1], trace.EndDelivered, "", "udp 10.0.0.4:7 > 10.0.0.5:9")
	// A closed port is answered with the datagram's first bytes.
	l.put(ipv4{proto: 17, id: 6, frag: moreFragments}.frame(udp(9, 999, make([]byte, 1200-8))))
	want(t, l.give(ipv4{proto: 17, id: 6, frag: 1200 / 8}.frame(make([]byte, 8))), trace.EndAnswered, "udp.unknown_port_errors", "port 999")
	// Too long for any datagram.
	want(t, l.give(ipv4{proto: 17, id: 7, frag: 0x1fff}.frame(make([]byte, 800))), trace.EndDropped, "ip.malformed_fragments_received", "fragment")
}

// segmentsOf are the TCP segments that the stack sent to a port.
func (l *lab) segmentsOf(port uint16) (all [][]byte) {
	for _, f := range l.sent {
		if len(f) >= 54 && f[12] == 8 && f[13] == 0 && f[23] == 6 && binary.BigEndian.Uint16(f[36:]) == port {
			all = append(all, f[34:])
		}
	}
	return all
}

// TestTCPConnection: a peer by hand, so that its segments can be wrong.
func TestTCPConnection(t *testing.T) {
	l := newLab(t, link.PipeConfig{}, trace.Config{})
	lis, err := l.stack.Listen("tcp", "10.0.0.4:80")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	const port = 4000
	seq := uint32(1000)
	got := l.give(tcpFrame(tcp(port, 80, seq, 0, syn, nil)))
	want(t, got, trace.EndAnswered, "", "SYN-ACK")
	var isn uint32
	l.until("SYN-ACK", func() bool {
		if s := l.segmentsOf(port); len(s) > 0 {
			isn = binary.BigEndian.Uint32(s[0][4:]) + 1
			return true
		}
		return false
	})
	seq++
	want(t, l.give(tcpFrame(tcp(port, 80, seq, isn, ack, nil))), trace.EndDelivered, "", "tcp 10.0.0.4:80 > 10.0.0.5:4000")
	conn, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	data := make([]byte, 100)
	want(t, l.give(tcpFrame(tcp(port, 80, seq, isn, ack, data))), trace.EndDelivered, "", "100 bytes")
	want(t, l.give(tcpFrame(tcp(port, 80, seq, isn, ack, data))), trace.EndDropped, "", "duplicate")
	want(t, l.give(tcpFrame(tcp(port, 80, seq+50, isn, ack, data))), trace.EndDelivered, "", "50 bytes", "the others had come before")
	seq += 150
	want(t, l.give(tcpFrame(tcp(port, 80, seq+100, isn, ack, data))), trace.EndQueued, "", "100 bytes before it are missing")
	want(t, l.give(tcpFrame(tcp(port, 80, seq, isn, ack, data))), trace.EndDelivered, "", "200 bytes with those that waited")
	seq += 200
	want(t, l.give(tcpFrame(flip(tcp(port, 80, seq, isn, ack, data), 16))), trace.EndDropped, "tcp.checksum_errors", "checksum")
	want(t, l.give(tcpFrame(set(tcp(port, 80, seq, isn, ack, data), 12, 2<<4))), trace.EndDropped, "tcp.invalid_segments_received", "malformed")
	want(t, l.give(tcpFrame(tcp(port, 80, seq-1, isn, ack, nil))), trace.EndAnswered, "", "ACK", "keep-alive")
	if r := l.give(tcpFrame(tcp(port, 80, seq+100_000_000, isn, ack, data))); r.End != trace.EndUnknown && r.End != trace.EndDropped {
		t.Errorf("a segment far outside of the window is %s", r.Text)
	}
	want(t, l.give(tcpFrame(tcp(port, 80, seq+1_500_000_000, isn, ack, data))), trace.EndDropped, "", "outside of the window")
	want(t, l.give(tcpFrame(tcp(port, 80, seq+100_000_000, 0, rst, nil))), trace.EndDropped, "", "a reset that is not the next")
	// A reader takes the bytes away while others come.
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := conn.Read(make([]byte, 1000)); n != 350 || err != nil {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	want(t, l.give(tcpFrame(tcp(port, 80, seq, isn, ack|fin, data))), trace.EndDelivered, "", "ESTAB to CLOSE-WAIT", "100 bytes")
	seq += 101
	want(t, l.give(tcpFrame(tcp(port, 80, seq, isn, rst|ack, nil))), trace.EndDelivered, "", "CLOSE-WAIT to CLOSED")
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("the connection lives on after a reset")
	}
	if !strings.Contains(l.dump(), "socket_read") {
		t.Error("the reader's bytes are not told of")
	}
}

func TestInterfaceDown(t *testing.T) {
	l := newLab(t, link.PipeConfig{Depth: 1}, trace.Config{})
	c, err := l.stack.Dial("udp", "10.0.0.5:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The reader of the far end competes with the frames: there are enough of them.
	for range 2000 {
		if _, err := c.Write([]byte("x")); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
	}
	l.until("full wire", func() bool {
		for _, r := range l.records {
			if r.Step == "end" && r.End == trace.EndDropped && r.Counter == "tx_full" {
				return true
			}
		}
		return false
	})
}

func TestFilterAndCount(t *testing.T) {
	f, err := filter.Parse("icmp and in")
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, link.PipeConfig{}, trace.Config{Filter: f, Frames: 2})
	l.put(arpRequest(ourIP))
	for seq := range uint16(3) {
		l.put(ipv4{proto: 1}.frame(echo(1, seq)))
	}
	if err := <-l.result; err != nil {
		t.Fatal(err)
	}
	l.result = nil
	ends := 0
	for _, r := range l.records {
		if r.Dir != "in" || r.Frame == 0 {
			t.Errorf("a record that was not asked for: %+v", r)
		}
		if r.Step == "end" {
			ends++
		}
	}
	if ends != 2 {
		t.Errorf("%d frames ended, want 2:\n%s", ends, l.dump())
	}
}

// TestDroppedOnly: a filter that asks for the verdict gets all steps of what it selects.
func TestDroppedOnly(t *testing.T) {
	f, err := filter.Parse("dropped")
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, link.PipeConfig{}, trace.Config{Filter: f})
	l.put(arpRequest(ourIP))
	got := l.give(arpRequest(netip.MustParseAddr("10.0.0.77")))
	want(t, got, trace.EndDropped, "arp.requests_received_unknown_target_address")
	l.wantSteps(got.Frame, "read filter end")
	for _, r := range l.records {
		if r.Frame != got.Frame {
			t.Errorf("a record of a frame that was not dropped: %+v", r)
		}
	}
}

// TestEndOfTrace: what is under way when a trace ends is said to be so, and nothing stays.
func TestEndOfTrace(t *testing.T) {
	l := newLab(t, link.PipeConfig{}, trace.Config{})
	l.put(ipv4{proto: 17, id: 5, frag: 0x2000}.frame(udp(9, 7, make([]byte, 800))))
	l.until("held fragment", func() bool { return l.told("held") })
	l.cancel()
	if err := <-l.result; err != nil {
		t.Fatal(err)
	}
	l.result = nil
	if text := l.dump(); !strings.Contains(text, "unknown: the trace ended before it did") {
		t.Errorf("the fragment that was held did not end:\n%s", text)
	}
	if l.stack.Observers().Watching() != nil {
		t.Error("an observer is left")
	}
}

// TestTwoTraces: each has all of its frames, whatever the other selects.
func TestTwoTraces(t *testing.T) {
	f, err := filter.Parse("arp")
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, link.PipeConfig{}, trace.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	ends := make(chan trace.Record, 100)
	over := make(chan error, 1)
	go func() {
		over <- trace.Run(ctx, trace.Config{Stack: traced{l.stack, l.stack.Account()}, Filter: f}, func(r *trace.Record, _ bool) error {
			if r.Step == "end" && r.Dir == "in" {
				ends <- *r
			}
			return nil
		})
	}()
	// It has begun once it tells of a frame.
	for begun := false; !begun; {
		l.give(arpRequest(ourIP))
		select {
		case <-ends:
			begun = true
		case <-time.After(time.Millisecond):
		}
	}
	want(t, l.give(ipv4{proto: 1}.frame(echo(1, 1))), trace.EndAnswered, "", "ICMP echo reply")
	mine := l.give(arpRequest(netip.MustParseAddr("10.0.0.78")))
	for {
		if r := <-ends; strings.Contains(r.Text, "10.0.0.78") {
			if r.Frame != mine.Frame || r.Counter != mine.Counter {
				t.Errorf("one says %+v, the other %+v", r, mine)
			}
			break
		} else if strings.Contains(r.Text, "ICMP") {
			t.Errorf("the other's frame: %+v", r)
		}
	}
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// TestUnseen: what the device drops before it is read is told of, by its counter; and what it
// drops of frames that are sent.
func TestUnseen(t *testing.T) {
	l := newLabOn(t, link.PipeConfig{}, link.ImpairConfig{Loss: 1}, trace.Config{})
	for range 3 {
		l.put(arpRequest(ourIP))
	}
	l.until("frames that nobody has seen", func() bool { return l.told("that nobody has seen were dropped: lost on the impaired wire (rx_lost)") })
	c, err := l.stack.Dial("udp", "10.0.0.5:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	l.until("a frame lost", func() bool { return l.told("dropped: lost on the impaired wire (tx_lost)") })
}
