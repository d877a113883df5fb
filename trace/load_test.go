package trace_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/trace"
)

// TestThousandsOfFrames: of frames that come without a pause none is lost, and each ends
// once. bench has it with a rate.
func TestThousandsOfFrames(t *testing.T) {
	const frames = 5000
	l := newLab(t, link.PipeConfig{Depth: 64}, trace.Config{})
	u, err := l.stack.UDP("udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), 7), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			if _, _, err := u.ReadFromUDPAddrPort(buf); err != nil {
				return
			}
		}
	}()
	for i := range frames {
		frame := ipv4{proto: 17}.frame(udp(9, uint16(7+i%2), []byte("datagram")))
		if i%5 == 0 {
			frame = ipv4{proto: 1}.frame(echo(1, uint16(i)))
		}
		for { // the wire is short, so that nothing but the trace could lose one
			if n, err := l.far.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame}}}); err != nil {
				t.Fatal(err)
			} else if n == 1 {
				break
			}
			time.Sleep(50 * time.Microsecond)
		}
	}
	ends := map[uint64]int{}
	kinds := map[string]int{}
	var seen int
	l.until("end of every frame", func() bool {
		for ; seen < len(l.records); seen++ {
			r := &l.records[seen]
			if r.Lost > 0 {
				t.Fatalf("%d records were lost", r.Lost)
			}
			if r.Dir == "in" && r.Step == "end" {
				ends[r.Frame]++
				kinds[r.End]++
			}
		}
		return len(ends) == frames
	})
	for id, n := range ends {
		if n != 1 {
			t.Errorf("frame %d ended %d times", id, n)
		}
	}
	// ICMP errors are limited in their number, so that not all of them answer.
	if kinds[trace.EndDelivered] != frames*2/5 || kinds[trace.EndAnswered]+kinds[trace.EndDropped] != frames*3/5 {
		t.Errorf("the frames ended as %v", kinds)
	}
}

// TestSlowReader: who does not read loses records, and knows how many; frames wait for nobody.
func TestSlowReader(t *testing.T) {
	l := newLab(t, link.PipeConfig{}, trace.Config{})
	l.gate.Lock()
	const frames = 6000
	begin := time.Now()
	request := []link.OutFrame{{Pieces: [][]byte{arpRequest(netip.MustParseAddr("10.0.0.77"))}}}
	for sent := 0; sent < frames; {
		n, err := l.far.Queues()[0].Write(request)
		if err != nil {
			t.Fatal(err)
		}
		if sent += n; n == 0 {
			time.Sleep(50 * time.Microsecond)
		}
	}
	// Each of them has been worked on while nobody reads.
	for l.stack.Stats()["arp.requests_received_unknown_target_address"] < frames {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("the stack has had %d frames", l.stack.Stats()["arp.requests_received_unknown_target_address"])
		}
		time.Sleep(time.Millisecond)
	}
	l.gate.Unlock()
	l.until("reader that has caught up", func() bool { return len(l.records) > 10000 })
	l.put(arpRequest(ourIP))
	l.until("end of the last frame", func() bool { return l.told("answered by ARP reply") })
	l.mu.Lock()
	defer l.mu.Unlock()
	var told, lost uint64
	for _, r := range l.records {
		if r.Dir == "in" {
			told++
		}
		lost += r.Lost
	}
	if lost == 0 || told+lost < 3*frames {
		t.Errorf("%d steps were told and %d lost, of %d", told, lost, 3*frames)
	}
}

// FuzzFrames: whatever a frame holds, it ends exactly once, and nothing panics.
func FuzzFrames(f *testing.F) {
	for _, frame := range [][]byte{
		arpRequest(ourIP), ipv4{proto: 1}.frame(echo(1, 1)), ipv4{proto: 17}.frame(udp(9, 7, []byte("x"))),
		tcpFrame(tcp(9, 80, 1, 0, syn, nil)), tcpFrame(tcp(9, 80, 1, 1, ack|psh, []byte("x"))), ether(ourMAC, 0x86dd, make([]byte, 60)),
		ipv4{proto: 17, id: 1, frag: 0x2000}.frame(make([]byte, 64)), ether(everyMAC, 0x8100, make([]byte, 60)),
		ether(ourMAC, 0x86dd, append([]byte{0x60, 0, 0, 0, 0, 16, 44, 64}, make([]byte, 48)...)),
		ipv4{proto: 1}.frame(append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, ipv4{proto: 17}.packet(udp(7, 9, nil))...)),
	} {
		f.Add(frame)
	}
	l := newLab(f, link.PipeConfig{}, trace.Config{})
	lis, err := l.stack.Listen("tcp", "10.0.0.4:80")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { lis.Close() })
	u, err := l.stack.UDP("udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), 7), netip.AddrPort{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { u.Close() })
	mark := uint16(0)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < 14 || len(frame) > 1514 {
			return // the device drops those
		}
		l.t = t
		l.mu.Lock()
		l.records = l.records[:0]
		l.mu.Unlock()
		l.put(frame)
		// What comes behind it has ended when this has: frames are worked on one by one.
		mark++
		last := ipv4{proto: 1}.frame(echo(0xfeed, mark))
		binary.BigEndian.PutUint16(last[18:], 0) // not the datagram of any fragment
		got := l.give(last)
		for !l.isMark(got.Frame, mark) {
			l.until("the mark", func() bool {
				for _, r := range l.records {
					if r.Step == "end" && r.Dir == "in" && r.Frame > got.Frame {
						got = r
						return true
					}
				}
				return false
			})
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		begun, ended := map[uint64]int{}, map[uint64]int{}
		for _, r := range l.records {
			if r.Dir != "in" || r.Frame > got.Frame {
				continue
			}
			switch r.Step {
			case "read":
				begun[r.Frame]++
			case "end":
				ended[r.Frame]++
			}
		}
		for id := range begun {
			if n := ended[id]; n != 1 && !l.isHeld(id) {
				t.Fatalf("frame %d ended %d times: %x", id, n, frame)
			}
		}
	})
}

// isMark reports whether a frame is the echo request of that number.
func (l *lab) isMark(frame uint64, seq uint16) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.records {
		if r.Frame == frame && r.Step == "read" {
			return len(r.Head) >= 42 && r.Head[23] == 1 && binary.BigEndian.Uint16(r.Head[38:]) == 0xfeed && binary.BigEndian.Uint16(r.Head[40:]) == seq
		}
	}
	return false
}

// isHeld reports whether a frame waits for the rest of its datagram. mu is held.
func (l *lab) isHeld(frame uint64) bool {
	for _, r := range l.records {
		if r.Frame == frame && r.Step == "network" {
			return true
		}
	}
	return false
}
