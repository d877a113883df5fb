package bridge_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/bridge"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/qemu"
	"github.com/ustack/ustack/stack"
)

// BenchmarkSlowPort is what a peer that takes few frames, or none, costs the others:
//
//	near ── pipe ── bridge ── unix stream ── fast
//	                       └─ unix stream ── slow
//
// near sends to both. A port that is full drops, or waits as QEMU does when its guest has no room:
// then whoever reads near's frames waits, too. Figures are of near and fast: one TCP stream, pings
// beside it, and the slowest of these.
func BenchmarkSlowPort(b *testing.B) {
	for _, c := range []struct {
		name string
		slow load
	}{
		{"no traffic to slow", load{}},
		{"slow takes 10 MB per s of TCP", load{conns: 16, speed: 10e6}},
		{"slow takes 10 of 20 MB per s of UDP", load{datagrams: 20e6, speed: 10e6}},
		{"slow stands still", load{datagrams: 20e6}},
	} {
		b.Run(c.name+"/drops", func(b *testing.B) { slowPort(b, false, c.slow) })
		b.Run(c.name+"/waits", func(b *testing.B) { slowPort(b, true, c.slow) })
	}
}

// A load is what is sent to slow: TCP connections, and datagrams in bytes/s; and what slow takes, in
// bytes/s.
type load struct {
	conns, datagrams, speed int
}

// A run takes this long for each of b.N, after as long to settle.
const pressureTime = 500 * time.Millisecond

func slowPort(b *testing.B, waits bool, slow load) {
	br := bridge.New(bridge.Config{})
	defer br.Close()
	port := func(dev link.Device, inside bool) {
		if _, err := br.AddPort(bridge.PortConfig{Device: dev, Inside: inside}); err != nil {
			b.Fatal(err)
		}
	}
	const all = link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6 | link.OffloadECN
	inside, outside := link.Pipe(link.PipeConfig{Names: [2]string{"near", "bridge"}, Offloads: all, Depth: 1024})
	port(inside, true)
	near := newStack(b, outside, "10.9.0.4/24")
	var open atomic.Bool
	open.Store(true)
	for i, name := range []string{"fast", "slow"} {
		x, y := sockets(b, name)
		if waits {
			x = &waiting{Device: x}
		}
		port(x, false)
		if name == "slow" {
			y = &taking{Device: y, speed: slow.speed, open: &open}
		}
		s := newStack(b, y, [2]string{"10.9.0.1/24", "10.9.0.2/24"}[i])
		l, err := s.Listen("tcp", ":80")
		if err != nil {
			b.Fatal(err)
		}
		var sinks sync.WaitGroup
		sinks.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				sinks.Go(func() { io.Copy(io.Discard, c) })
			}
		})
		b.Cleanup(func() {
			l.Close()
			s.Close()
			sinks.Wait()
		})
	}
	var sent atomic.Int64
	var senders sync.WaitGroup
	ctx, cancel := context.WithCancel(b.Context())
	send := func(addr string, sent *atomic.Int64) {
		c, err := near.DialContext(ctx, "tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		context.AfterFunc(ctx, func() { c.Close() })
		senders.Go(func() {
			block := make([]byte, 64<<10)
			for {
				n, err := c.Write(block)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		})
	}
	for range slow.conns {
		send("10.9.0.2:80", new(atomic.Int64))
	}
	if slow.datagrams > 0 {
		c, err := near.Dial("udp", "10.9.0.2:9")
		if err != nil {
			b.Fatal(err)
		}
		senders.Go(func() {
			defer c.Close()
			const size, tick = 1400, 2 * time.Millisecond
			for ctx.Err() == nil {
				for range slow.datagrams / size / int(time.Second/tick) {
					c.Write(make([]byte, size))
				}
				time.Sleep(tick)
			}
		})
	}
	if slow != (load{}) {
		time.Sleep(pressureTime) // full windows
		open.Store(false)
	}
	send("10.9.0.1:80", &sent)
	time.Sleep(pressureTime)

	var rtts []time.Duration
	b.ResetTimer()
	from := sent.Load()
	for range b.N {
		for end := time.Now().Add(pressureTime); time.Now().Before(end); {
			once, done := context.WithTimeout(ctx, pressureTime)
			d, err := near.Ping(once, netip.MustParseAddr("10.9.0.1"))
			done()
			if err != nil { // cut off, or lost
				d = max(d, pressureTime)
			}
			rtts = append(rtts, d)
			time.Sleep(time.Millisecond)
		}
	}
	b.StopTimer()
	total := sent.Load() - from
	b.ReportMetric(float64(total)/1e6/b.Elapsed().Seconds(), "MB/s")
	slices.Sort(rtts)
	b.ReportMetric(float64(rtts[len(rtts)/2])/1e6, "ms-RTT")
	b.ReportMetric(float64(rtts[len(rtts)-1])/1e6, "ms-worst")
	cancel()
	open.Store(true)
	br.Close() // whoever waits goes on
	senders.Wait()
}

func newStack(b *testing.B, dev link.Device, addr string) *stack.Stack {
	b.Helper()
	s, err := stack.New(stack.Config{Device: dev, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// sockets are the two ends of a wire as QEMU has it.
func sockets(b *testing.B, name string) (x, y link.Device) {
	b.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	var ends [2]link.Device
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), name)
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			b.Fatal(err)
		}
		if ends[i], err = qemu.OpenStream(qemu.StreamConfig{Conn: c, Name: name}); err != nil {
			b.Fatal(err)
		}
	}
	return ends[0], ends[1]
}

// A taking Device takes so many bytes a second out of its wire.
type taking struct {
	link.Device
	speed int
	open  *atomic.Bool // takes everything
}

func (d *taking) Queues() []link.Queue { return []link.Queue{&takingQueue{d, d.Device.Queues()[0]}} }

type takingQueue struct {
	d *taking
	link.Queue
}

func (q *takingQueue) Read(frames []link.Frame) (int, error) {
	n, err := q.Queue.Read(frames)
	size := 0
	for _, f := range frames[:n] {
		size += f.N
	}
	switch {
	case q.d.open.Load():
	case q.d.speed > 0:
		time.Sleep(time.Duration(size) * time.Second / time.Duration(q.d.speed))
	default:
		for !q.d.open.Load() {
			time.Sleep(time.Millisecond)
		}
	}
	return n, err
}

// A waiting Device lets those who write wait until it is not full.
type waiting struct{ link.Device }

func (d *waiting) Queues() []link.Queue { return []link.Queue{&waitingQueue{d.Device.Queues()[0]}} }

type waitingQueue struct{ link.Queue }

func (q *waitingQueue) Write(frames []link.OutFrame) (int, error) {
	for at := 0; at < len(frames); {
		n, err := q.Queue.Write(frames[at:])
		if at += n; err != nil {
			return at, err
		}
		if at < len(frames) {
			time.Sleep(50 * time.Microsecond)
		}
	}
	return len(frames), nil
}
