package trace_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/stack"
	"github.com/ustack/ustack/trace"
)

var (
	ourMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 4}
	peerMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 5}
	everyMAC = net.HardwareAddr{255, 255, 255, 255, 255, 255}
	ourIP    = netip.MustParseAddr("10.0.0.4")
	peerIP   = netip.MustParseAddr("10.0.0.5")
	ourIP6   = netip.MustParseAddr("fd00::4")
	peerIP6  = netip.MustParseAddr("fd00::5")
)

// traced is a stack as trace asks for it.
type traced struct {
	*stack.Stack
	acc *stack.Account
}

func (s traced) Counters() []string                 { return s.acc.Names() }
func (s traced) ReadCounters(dst []uint64) []uint64 { return s.acc.Read(dst) }
func (s traced) Drops() map[string]uint64           { return s.Links()[0].Stats.Drops }
func (s traced) TCPSocket(local, remote netip.AddrPort) (trace.TCPSocket, bool) {
	v, ok := s.Stack.TCPSocket(local, remote)
	return trace.TCPSocket(v), ok
}

// A lab is a stack at one end of a wire, and the test at the other.
type lab struct {
	t     testing.TB
	stack *stack.Stack
	far   link.Device

	mu      sync.Mutex
	records []trace.Record
	sent    [][]byte // by the stack
	changed chan struct{}
	gate    sync.RWMutex // held by tests that read no records meanwhile
	cancel  context.CancelFunc
	result  chan error
}

func newLab(t testing.TB, pipe link.PipeConfig, cfg trace.Config) *lab {
	t.Helper()
	return newLabOn(t, pipe, link.ImpairConfig{}, cfg)
}

// newLabOn is newLab with an impaired wire.
func newLabOn(t testing.TB, pipe link.PipeConfig, impair link.ImpairConfig, cfg trace.Config) *lab {
	t.Helper()
	pipe.Names = [2]string{"wire", "far"}
	wire, far := link.Pipe(pipe)
	wire, err := link.Impair(wire, impair)
	if err != nil {
		t.Fatal(err)
	}
	s, err := stack.New(stack.Config{
		Device: wire, HardwareAddr: ourMAC, Observers: new(link.Observers),
		Addrs: []netip.Prefix{netip.PrefixFrom(ourIP, 24), netip.PrefixFrom(ourIP6, 64)},
	})
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, stack: s, far: far, changed: make(chan struct{}, 1), result: make(chan error, 1)}
	for _, ip := range []netip.Addr{peerIP, peerIP6} {
		if err := s.AddNeighbour(context.Background(), ip, peerMAC); err != nil {
			t.Fatal(err)
		}
	}
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(context.Background())
	cfg.Stack = traced{s, s.Account()}
	go func() {
		l.result <- trace.Run(ctx, cfg, func(r *trace.Record, _ bool) error {
			l.gate.RLock()
			defer l.gate.RUnlock()
			l.mu.Lock()
			l.records = append(l.records, *r)
			l.mu.Unlock()
			l.kick()
			return nil
		})
	}()
	for s.Observers().Watching() == nil {
		time.Sleep(100 * time.Microsecond)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		frames := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
		for {
			n, err := far.Queues()[0].Read(frames)
			if err != nil {
				return
			}
			if n > 0 {
				l.mu.Lock()
				l.sent = append(l.sent, append([]byte(nil), frames[0].Buf[:frames[0].N]...))
				l.mu.Unlock()
				l.kick()
			}
		}
	}()
	t.Cleanup(func() {
		l.cancel()
		if l.result != nil {
			if err := <-l.result; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
		s.Close()
		far.Close()
		<-drained
	})
	return l
}

func (l *lab) kick() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// until waits for ok, which is called with mu held.
func (l *lab) until(what string, ok func() bool) {
	l.t.Helper()
	late := time.After(10 * time.Second)
	for {
		if l.locked(ok) {
			return
		}
		select {
		case <-l.changed:
		case <-late:
			l.t.Fatalf("no %s; the records are\n%s", what, l.dump())
		}
	}
}

func (l *lab) locked(ok func() bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return ok()
}

func (l *lab) dump() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, r := range l.records {
		fmt.Fprintf(&b, "%d %s %s %s %s | %s\n", r.Frame, r.Dir, r.Step, r.Summary, r.Socket, r.Text)
	}
	return b.String()
}

// put writes a frame to the stack.
func (l *lab) put(frame []byte) {
	l.t.Helper()
	if n, err := l.far.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame}}}); n != 1 || err != nil {
		l.t.Fatalf("write to the wire: %d, %v", n, err)
	}
}

// give writes a frame to the stack and returns the record of its end.
func (l *lab) give(frame []byte) trace.Record {
	l.t.Helper()
	l.mu.Lock()
	have := len(l.records)
	l.mu.Unlock()
	l.put(frame)
	var end trace.Record
	l.until("end of a frame", func() bool {
		for _, r := range l.records[have:] {
			if r.Step == "end" && r.Dir == "in" {
				end = r
				return true
			}
		}
		return false
	})
	return end
}

// Frames, from the peer to the stack unless said otherwise.

func ether(dst net.HardwareAddr, proto uint16, payload []byte) []byte {
	f := append(append(append([]byte(nil), dst...), peerMAC...), byte(proto>>8), byte(proto))
	return append(f, payload...)
}

func arpRequest(target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(append(b, peerMAC...), peerIP.AsSlice()...)
	b = append(append(b, make([]byte, 6)...), target.AsSlice()...)
	return ether(everyMAC, 0x0806, b)
}

func checksum(b []byte, start uint32) uint16 {
	n := start
	for i := range b {
		n += uint32(b[i]) << (8 * (1 - i%2))
		n = n>>16 + n&0xffff
	}
	return ^uint16(n>>16 + n&0xffff)
}

type ipv4 struct {
	dst   netip.Addr
	proto byte
	id    uint16
	frag  uint16
	ttl   byte
}

func (h ipv4) packet(payload []byte) []byte {
	if !h.dst.IsValid() {
		h.dst = ourIP
	}
	if h.ttl == 0 {
		h.ttl = 64
	}
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, h.ttl, h.proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(b[4:], h.id)
	binary.BigEndian.PutUint16(b[6:], h.frag)
	copy(b[12:], peerIP.AsSlice())
	copy(b[16:], h.dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b, 0))
	return append(b, payload...)
}

func (h ipv4) frame(payload []byte) []byte { return ether(ourMAC, 0x0800, h.packet(payload)) }

func pseudo(src, dst netip.Addr, proto byte, n int) uint32 {
	b := append(src.AsSlice(), dst.AsSlice()...)
	return uint32(^checksum(b, 0)) + uint32(proto) + uint32(n)
}

func udp(sport, dport uint16, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[6:], checksum(b, pseudo(peerIP, ourIP, 17, len(b))))
	return b
}

func echo(id, seq uint16) []byte {
	b := make([]byte, 64)
	b[0] = 8
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	binary.BigEndian.PutUint16(b[2:], checksum(b, 0))
	return b
}

const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
)

func tcp(sport, dport uint16, seq, acked uint32, flags byte, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], acked)
	b[12], b[13] = 5<<4, flags
	binary.BigEndian.PutUint16(b[14:], 0xffff)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[16:], checksum(b, pseudo(peerIP, ourIP, 6, len(b))))
	return b
}

func tcpFrame(segment []byte) []byte { return ipv4{proto: 6}.frame(segment) }
