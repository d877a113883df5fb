package link

import (
	"bytes"
	"errors"
	"net"
	"testing"
)

func out(pieces ...[]byte) []OutFrame { return []OutFrame{{Pieces: pieces}} }

func TestPipeInfo(t *testing.T) {
	a, b := Pipe(PipeConfig{})
	for i, d := range []Device{a, b} {
		want := Info{Name: []string{"pipe0", "pipe1"}[i], Kind: "pipe", Driver: "memory", MTU: DefaultMTU}
		if got := d.Info(); got.Name != want.Name || got.Kind != want.Kind || got.Driver != want.Driver || got.MTU != want.MTU || got.RX != 0 || got.TX != 0 || got.HardwareAddr != nil {
			t.Errorf("Info %+v, want %+v", got, want)
		}
		if len(d.Queues()) != 1 {
			t.Errorf("%d queues", len(d.Queues()))
		}
		d.Close()
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	a, b = Pipe(PipeConfig{
		Names: [2]string{"left", "right"}, HardwareAddrs: [2]net.HardwareAddr{mac, nil},
		MTU: 9000, Offloads: OffloadTSO4, Queues: 2, Depth: 1,
	})
	mac[5] = 9 // the pipe has a copy
	if i := a.Info(); i.Name != "left" || i.HardwareAddr.String() != "02:00:00:00:00:01" || i.MTU != 9000 || i.RX != OffloadTSO4|OffloadCsum || i.TX != i.RX {
		t.Errorf("Info %+v", i)
	}
	if i := b.Info(); i.Name != "right" || i.HardwareAddr != nil {
		t.Errorf("Info %+v", i)
	}
	a.Close()
	b.Close()
}

func TestPipeRefusesBadConfig(t *testing.T) {
	for _, cfg := range []PipeConfig{{MTU: MinMTU - 1}, {MTU: MaxMTU + 1}, {MTU: -1}, {Queues: -1}, {Depth: -1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Pipe(%+v) did not panic", cfg)
				}
			}()
			Pipe(cfg)
		}()
	}
}

// What was written before one end closed is still delivered to the other; each
// queue and direction of it.
func TestPipeDeliversThenIsGone(t *testing.T) {
	a, b := Pipe(PipeConfig{Queues: 2})
	defer b.Close()
	f := make([]byte, 60)
	for i, q := range a.Queues() {
		for j := range 3 {
			f[59] = byte(10*i + j)
			if n, err := q.Write(out(f)); n != 1 || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}
	}
	a.Close()
	in := []Frame{{Buf: make([]byte, 100)}, {Buf: make([]byte, 100)}}
	for i, q := range b.Queues() {
		if n, err := q.Write(out(f)); n != 0 || !errors.Is(err, ErrGone) {
			t.Errorf("Write = %d, %v, want %v at once", n, err, ErrGone)
		}
		for j := 0; j < 3; {
			n, err := q.Read(in)
			if err != nil {
				t.Fatalf("Read after %d frames: %v", j, err)
			}
			for _, g := range in[:n] {
				if g.N != 60 || g.Buf[59] != byte(10*i+j) {
					t.Errorf("queue %d: frame %d is % x", i, j, g.Buf[:g.N])
				}
				j++
			}
		}
		for range 2 {
			if n, err := q.Read(in); n != 0 || !errors.Is(err, ErrGone) {
				t.Errorf("Read = %d, %v, want %v", n, err, ErrGone)
			}
		}
	}
	if st := b.Stats(); st.RxFrames != 6 || st.RxBytes != 360 || st.TxFrames != 0 || len(st.Drops) != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestPipeFull(t *testing.T) {
	a, b := Pipe(PipeConfig{Depth: 3})
	defer a.Close()
	defer b.Close()
	frames := make([]OutFrame, 5)
	for i := range frames {
		f := make([]byte, 20)
		f[19] = byte(i)
		frames[i].Pieces = [][]byte{f}
	}
	in := []Frame{{Buf: make([]byte, 20)}}
	for round := range 5 { // around the ring
		if n, err := a.Queues()[0].Write(frames); n != 3 || err != nil {
			t.Fatalf("Write = %d, %v, want 3", n, err)
		}
		if st := a.Stats(); st.Drops["tx_full"] != uint64(2*(round+1)) || st.TxFrames != uint64(3*(round+1)) {
			t.Errorf("stats %+v", st)
		}
		for i := range 3 {
			if n, err := b.Queues()[0].Read(in); n != 1 || err != nil || in[0].Buf[19] != byte(i) {
				t.Fatalf("Read = %d, %v: % x, want frame %d", n, err, in[0].Buf, i)
			}
		}
	}
}

// Buffers go back to their pool and come from it with nothing of the frame before.
func TestPipeBuffersOfBothSizes(t *testing.T) {
	a, b := Pipe(PipeConfig{Offloads: OffloadTSO4})
	defer a.Close()
	defer b.Close()
	in := []Frame{{Buf: make([]byte, MaxFrame)}}
	for i, n := range []int{14, 1518, 14, MaxFrame, 1519, 60000, 20} {
		f := bytes.Repeat([]byte{byte(i + 1)}, n)
		o := OutFrame{Pieces: [][]byte{f}}
		if n > 1518 {
			o.Offload = Offload{GSOType: GSOTCPv4, GSOSize: 1000}
		}
		if got, err := a.Queues()[0].Write([]OutFrame{o}); got != 1 || err != nil {
			t.Fatalf("Write of %d bytes = %d, %v; %+v", n, got, err, a.Stats())
		}
		if got, err := b.Queues()[0].Read(in); got != 1 || err != nil || !bytes.Equal(in[0].Buf[:in[0].N], f) || in[0].Offload != o.Offload {
			t.Fatalf("Read = %d, %v: %d bytes, %+v", got, err, in[0].N, in[0].Offload)
		}
	}
}

func TestPipeAllocatesNothing(t *testing.T) {
	a, b := Pipe(PipeConfig{})
	defer a.Close()
	defer b.Close()
	f := make([]byte, 1514)
	o := out(f[:14], f[14:54], f[54:])
	in := []Frame{{Buf: make([]byte, 1514)}}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := a.Queues()[0].Write(o); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Queues()[0].Read(in); err != nil {
			t.Fatal(err)
		}
	}); n >= 1 {
		t.Errorf("%v allocations a frame", n)
	}
}

func BenchmarkPipe(b *testing.B) {
	x, y := Pipe(PipeConfig{})
	defer x.Close()
	defer y.Close()
	f := make([]byte, 1514)
	o, in := out(f), []Frame{{Buf: make([]byte, 1514)}}
	b.SetBytes(1514)
	b.ReportAllocs()
	for b.Loop() {
		x.Queues()[0].Write(o)
		y.Queues()[0].Read(in)
	}
}
