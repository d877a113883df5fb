package tap

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/link"
)

// broadcast is a frame that no kernel answers.
func broadcast(n int) []byte {
	f := make([]byte, n)
	copy(f, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5")
	return f
}

// An interface that is down is no end: it drops, counts, and works again when up.
func TestDownAndUp(t *testing.T) {
	ns := quietNS(t)
	for _, driver := range []string{DriverNative, DriverWater} {
		dev := openIn(t, ns, Config{Name: "tap0", Driver: driver})
		w := newWire(t, ns, "tap0")
		for range 3 {
			passes(t, dev, w)
			ns.Down(t, "tap0")
			out := link.OutFrame{Pieces: [][]byte{broadcast(60)}}
			if n, err := dev.Queues()[0].Write([]link.OutFrame{out, out}); n != 0 || err != nil {
				t.Fatalf("%s: Write while down = %d, %v", driver, n, err)
			}
			ns.Up(t, "tap0")
			// The packet socket reports ENETDOWN once.
			if _, _, err := w.Recv(10e9); err == nil {
				t.Fatal("the packet socket did not notice")
			}
		}
		passes(t, dev, w)
		if st := dev.Stats(); st.Drops["tx_down"] != 6 || st.TxFrames != 4 {
			t.Errorf("%s: stats %+v, want 6 tx_down, 4 frames", driver, st)
		}
		w.Close()
		dev.Close()
	}
}

// A frame that the kernel still holds counts against SndBuf; beyond it frames are
// dropped, and no Write waits. Here they are held in the queueing discipline of
// another tap, behind a bridge, that lets one kilobyte pass in a second.
func TestSndBuf(t *testing.T) {
	ns := quietNS(t)
	dev := openIn(t, ns, Config{Name: "tap0", SndBuf: 1})
	openIn(t, ns, Config{Name: "tap1"})
	ns.Run(t, "tc", "qdisc", "add", "dev", "tap1", "root", "tbf", "rate", "8kbit", "burst", "1540", "limit", "100000")
	ns.Up(t, "tap0")
	ns.Up(t, "tap1")
	ns.Bridge(t, "br0", "tap0", "tap1")
	// To one station: the bridge floods a broadcast in copies that nobody accounts.
	f := broadcast(60)
	copy(f, "\x02\x00\x00\x00\x00\x77")
	out := []link.OutFrame{{Pieces: [][]byte{f}}}
	taken, written := 0, 0
	netlab.WaitFor(t, 10e9, "a frame refused", func() bool {
		n, err := dev.Queues()[0].Write(out)
		if err != nil {
			t.Fatal(err)
		}
		taken, written = taken+n, written+1
		return n == 0
	})
	if st := dev.Stats(); st.Drops["tx_full"] != 1 || st.TxFrames != uint64(taken) || taken != written-1 {
		t.Errorf("%d of %d frames taken; stats %+v", taken, written, st)
	}
}

// A persistent tap remembers what its last user agreed with the kernel. The next
// one must not meet with it.
func TestNothingIsInherited(t *testing.T) {
	ns := quietNS(t)
	ns.Tap(t, "tap0", -1)
	spoil := func() {
		dev := openIn(t, ns, Config{Name: "tap0"}) // all offloads
		conn, err := dev.(*device).files[0].SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Control(func(fd uintptr) {
			for _, o := range []struct {
				req   uint
				value int
			}{{unix.TUNSETVNETHDRSZ, 20}, {unix.TUNSETVNETLE, 0}, {unix.TUNSETSNDBUF, 1}} {
				if err := unix.IoctlSetPointerInt(int(fd), o.req, o.value); err != nil {
					t.Errorf("ioctl %#x %d: %v", o.req, o.value, err)
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
		dev.Close()
	}
	for _, cfg := range []Config{{}, {Offload: OffloadOff}, {Driver: DriverWater}} {
		spoil()
		cfg.Name = "tap0"
		dev := openIn(t, ns, cfg)
		w := newWire(t, ns, "tap0")
		for range 3 {
			passes(t, dev, w)
		}
		// A frame whose checksum is left to the device: without offloads the kernel
		// has to finish it first.
		f := append(broadcast(42), []byte("some payload")...)
		o := link.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 6}
		if err := w.Send(f, o); err != nil {
			t.Fatal(err)
		}
		in := []link.Frame{{Buf: make([]byte, 2000)}}
		if _, err := dev.Queues()[0].Read(in); err != nil {
			t.Fatal(err)
		}
		got, want := in[0], o
		if dev.Info().RX == 0 {
			want = link.Offload{}
		}
		if got.Offload != want {
			t.Errorf("%+v: offload %+v, want %+v", cfg, got.Offload, want)
		}
		if finished := !bytes.Equal(got.Buf[:got.N], f); finished != (want == link.Offload{}) {
			t.Errorf("%+v: checksum finished: %v", cfg, finished)
		}
		w.Close()
		dev.Close()
	}
}

// The frame path allocates nothing.
func TestNoAllocations(t *testing.T) {
	ns := quietNS(t)
	most := 0.9 // a garbage collection empties the pool
	if poolForgets {
		most = 16
	}
	for _, driver := range []string{DriverNative, DriverWater} {
		dev := openIn(t, ns, Config{Name: "tap0", Driver: driver})
		w := newWire(t, ns, "tap0")
		q := dev.Queues()[0]
		whole := broadcast(1400)
		out := []link.OutFrame{{Pieces: [][]byte{whole[:14], whole[14:54], whole[54:]}}, {Pieces: make([][]byte, 1400)}}
		for i := range out[1].Pieces {
			out[1].Pieces[i] = whole[i : i+1]
		}
		if n := testing.AllocsPerRun(200, func() {
			if n, err := q.Write(out); n != 2 || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}); n > most {
			t.Errorf("%s: %v allocations for a Write of 2 frames", driver, n)
		}
		const frames = 100
		for range frames + 1 { // AllocsPerRun runs once more, to warm up
			if err := w.Send(whole, link.Offload{}); err != nil {
				t.Fatal(err)
			}
		}
		in := []link.Frame{{Buf: make([]byte, 2000)}}
		if n := testing.AllocsPerRun(frames, func() {
			if n, err := q.Read(in); n != 1 || err != nil {
				t.Fatalf("Read = %d, %v", n, err)
			}
		}); n > most {
			t.Errorf("%s: %v allocations for a Read", driver, n)
		}
		w.Close()
		dev.Close()
	}
}

func BenchmarkWrite(b *testing.B) {
	benchmark(b, func(b *testing.B, q link.Queue, w *packetWire) {
		w.Close() // nobody listens
		whole := broadcast(1514)
		out := []link.OutFrame{{Pieces: [][]byte{whole[:54], whole[54:]}}}
		b.SetBytes(int64(len(whole)))
		b.ReportAllocs()
		for b.Loop() {
			if n, err := q.Write(out); n != 1 || err != nil {
				b.Fatalf("Write = %d, %v", n, err)
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	benchmark(b, func(b *testing.B, q link.Queue, w *packetWire) {
		defer w.Close()
		whole := broadcast(1514)
		in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
		b.SetBytes(int64(len(whole)))
		for b.Loop() {
			if err := w.Send(whole, link.Offload{}); err != nil {
				b.Fatal(err)
			}
			if n, err := q.Read(in); n != 1 || err != nil {
				b.Fatalf("Read = %d, %v", n, err)
			}
		}
	})
}

func benchmark(b *testing.B, f func(*testing.B, link.Queue, *packetWire)) {
	netlab.Require(b)
	for _, driver := range []string{DriverNative, DriverWater} {
		b.Run(driver, func(b *testing.B) {
			ns := quietNS(b)
			dev := openIn(b, ns, Config{Name: "tap0", Driver: driver})
			f(b, dev.Queues()[0], newWire(b, ns, "tap0"))
		})
	}
}

// BenchmarkWriteMany writes frames as the segments of a super-frame come.
func BenchmarkWriteMany(b *testing.B) {
	netlab.Require(b)
	for _, count := range []int{2, 4, 8, 45} {
		for _, at := range []string{"submitted", "one by one"} {
			b.Run(fmt.Sprintf("%d/%s", count, at), func(b *testing.B) {
				ns := quietNS(b)
				dev := openIn(b, ns, Config{Name: "tap0", Offload: OffloadOff})
				q := dev.Queues()[0].(*queue)
				if at == "one by one" {
					q.many.close()
				}
				newWire(b, ns, "tap0").Close() // nobody listens
				whole := broadcast(1514)
				out := make([]link.OutFrame, count)
				for i := range out {
					out[i].Pieces = [][]byte{whole[:54], whole[54:]}
				}
				b.SetBytes(int64(count * len(whole)))
				b.ReportAllocs()
				for b.Loop() {
					if n, err := q.Write(out); n != count || err != nil {
						b.Fatalf("Write = %d, %v", n, err)
					}
				}
			})
		}
	}
}
