package link

import (
	"bytes"
	"errors"
	"testing"
)

// readAll returns n frames from a queue, read two at a time.
func readAll(t *testing.T, q Queue, n, size int) (all []Frame) {
	t.Helper()
	for len(all) < n {
		in := []Frame{{Buf: make([]byte, size)}, {Buf: make([]byte, size)}}
		got, err := q.Read(in)
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		all = append(all, in[:got]...)
	}
	return all
}

// A wire with offloads on one side and a reader without them: every super-frame
// arrives as its segments, every checksum is in place.
func TestCompleteForReader(t *testing.T) {
	for name, c := range superFrames() {
		for _, takes := range []Offloads{0, OffloadCsum} {
			a, b := Pipe(PipeConfig{Offloads: OffloadCsum | OffloadTSO4 | OffloadTSO6 | OffloadECN, MTU: 9000})
			d := Complete(b, takes)
			f, o := c.build()
			want, ok := slowCut(f, o)
			if !ok {
				t.Fatal(name)
			}
			bad := o
			bad.CsumStart++
			frames := []OutFrame{{Pieces: [][]byte{f}, Offload: bad}, {Pieces: [][]byte{f[:20], f[20:]}, Offload: o}}
			if n, err := a.Queues()[0].Write(frames); n != 2 || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
			size := 0
			for i, g := range readAll(t, d.Queues()[0], len(want), MaxFrame) {
				if !sameBut(g.Buf[:g.N], want[i], int(o.CsumStart)+16) {
					t.Fatalf("%s: segment %d is another one", name, i)
				}
				if g.Offload != (Offload{DataValid: takes != 0}) {
					t.Errorf("%s: segment %d has %+v", name, i, g.Offload)
				}
				size += g.N
			}
			st := d.Stats()
			if st.RxFrames != uint64(len(want)) || st.RxBytes != uint64(size) || st.Drops["rx_offload"] != 1 || len(st.Drops) != 1 {
				t.Errorf("%s: stats %+v", name, st)
			}
			a.Close()
			d.Close()
			if _, err := d.Queues()[0].Read([]Frame{{}}); !errors.Is(err, ErrClosed) {
				t.Errorf("Read after Close: %v", err)
			}
		}
	}
}

// Segments too long for the reader are counted, one by one; Close forgets the others.
func TestCompleteSmallBuffer(t *testing.T) {
	a, b := Pipe(PipeConfig{Offloads: OffloadTSO4})
	defer a.Close()
	d := Complete(b, 0)
	defer d.Close()
	f, o := superFrame{payload: 2500, gso: 1000}.build()
	for range 2 {
		if n, err := a.Queues()[0].Write([]OutFrame{{Pieces: [][]byte{f}, Offload: o}}); n != 1 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if got := readAll(t, d.Queues()[0], 1, 600); got[0].N != 554 {
		t.Errorf("read %d bytes, want the last segment", got[0].N)
	}
	in := []Frame{{Buf: make([]byte, 2000)}}
	if n, err := d.Queues()[0].Read(in); n != 1 || err != nil || in[0].N != 1054 {
		t.Errorf("Read = %d, %v: %d bytes", n, err, in[0].N)
	}
	if st := d.Stats(); st.Drops["rx_oversize"] != 2 || st.RxFrames != 2 {
		t.Errorf("stats %+v", st)
	}
	d.Close()
	if n, err := d.Queues()[0].Read(in); n != 0 || err != ErrClosed {
		t.Errorf("Read after Close = %d, %v", n, err)
	}
}

// What cannot be finished is dropped and counted; a Write's frames stay in order.
func TestCompleteWrite(t *testing.T) {
	a, b := Pipe(PipeConfig{Depth: 100})
	defer b.Close()
	d := Complete(a, 0)
	q := d.Queues()[0]
	super, so := superFrame{payload: 2500, gso: 1000, flags: 0x18}.build()
	one, oo := superFrame{v6: true, payload: 101, gso: 1000}.build()
	oo.GSOType, oo.GSOSize = GSONone, 0
	plain := bytes.Repeat([]byte{1}, 60)
	fragment := bytes.Clone(super)
	fragment[14+6] |= 0x20
	before := bytes.Clone(super)
	n, err := q.Write([]OutFrame{
		{Pieces: [][]byte{plain}},
		{Pieces: [][]byte{one[:71], one[71:]}, Offload: oo}, // the field is in both
		{Pieces: [][]byte{fragment}, Offload: so},
		{Pieces: [][]byte{super[:54], super[54:]}, Offload: so},
		{Pieces: [][]byte{plain[:13]}},
		{Pieces: [][]byte{plain}},
	})
	if n != 4 || err != nil {
		t.Fatalf("Write = %d, %v, want 4", n, err)
	}
	if !bytes.Equal(super, before) {
		t.Error("the caller's memory has changed")
	}
	segs, _ := slowCut(super, so)
	oo.GSOType, oo.GSOSize = GSOTCPv6, 1000
	ones, _ := slowCut(one, oo)
	want := append(append([][]byte{plain, ones[0]}, segs...), plain)
	for i, g := range readAll(t, b.Queues()[0], len(want), 2000) {
		if !bytes.Equal(g.Buf[:g.N], want[i]) {
			t.Errorf("frame %d is\n%x, want\n%x", i, g.Buf[:min(g.N, 80)], want[i][:min(len(want[i]), 80)])
		}
	}
	st := d.Stats()
	if st.TxFrames != 6 || st.Drops["tx_offload"] != 1 || st.Drops["tx_short"] != 1 || len(st.Drops) != 2 {
		t.Errorf("stats %+v", st)
	}

	// More segments than the wire holds: not all were taken.
	so.GSOSize = 10
	if n, err := q.Write([]OutFrame{{Pieces: [][]byte{super}, Offload: so}}); n != 0 || err != nil {
		t.Errorf("Write to a wire that fills = %d, %v", n, err)
	}
	if st := d.Stats(); st.Drops["tx_full"] != 150 {
		t.Errorf("stats %+v", st)
	}
	d.Close()
	for _, o := range []Offload{so, bad(so), oo} {
		if n, err := q.Write([]OutFrame{{Pieces: [][]byte{super}, Offload: o}}); n != 0 || err != ErrClosed {
			t.Errorf("Write after Close = %d, %v", n, err)
		}
	}
}

func bad(o Offload) Offload {
	o.CsumOffset = 1
	return o
}

func TestCompleteAllocatesNothing(t *testing.T) {
	most := 0.0
	if poolForgets {
		most = 8 // half of what a pool is given, and the slices in it
	}
	sink := &sinkDevice{}
	d := Complete(sink, 0)
	super, so := superFrame{payload: 60000, gso: 1448, tcpOpts: 12, flags: 0x18}.build()
	one, oo := superFrame{v6: true, payload: 1000, gso: 1000}.build()
	oo.GSOType, oo.GSOSize = GSONone, 0
	frames := []OutFrame{
		{Pieces: [][]byte{one[:14], one[14:100], one[100:]}, Offload: oo},
		{Pieces: [][]byte{super[:66], super[66:4096], super[4096:]}, Offload: so},
	}
	if n := testing.AllocsPerRun(200, func() {
		if n, err := d.Queues()[0].Write(frames); n != 2 || err != nil {
			t.Fatal(n, err)
		}
	}); n > most {
		t.Errorf("%v allocations a Write", n)
	}
	a, b := Pipe(PipeConfig{Offloads: OffloadTSO4 | OffloadTSO6})
	defer a.Close()
	r := Complete(b, 0)
	defer r.Close()
	in := []Frame{{Buf: make([]byte, 1600)}, {Buf: make([]byte, 1600)}}
	if n := testing.AllocsPerRun(200, func() {
		if n, err := a.Queues()[0].Write(frames); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		for got := 0; got < 43; {
			n, err := r.Queues()[0].Read(in)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
	}); n > most {
		t.Errorf("%v allocations a Read", n)
	}
}

// A sinkDevice takes everything that needs no offload.
type sinkDevice struct{ Counters }

func (d *sinkDevice) Info() Info      { return Info{Name: "sink", MTU: 1500} }
func (d *sinkDevice) Queues() []Queue { return []Queue{d} }
func (d *sinkDevice) Close() error    { return nil }

func (d *sinkDevice) Read([]Frame) (int, error) { return 0, ErrGone }

func (d *sinkDevice) Write(frames []OutFrame) (int, error) {
	for i := range frames {
		if frames[i].Offload != (Offload{}) {
			return i, nil
		}
	}
	return len(frames), nil
}

func BenchmarkCompleteWrite(b *testing.B) {
	d := Complete(&sinkDevice{}, 0)
	f, o := superFrame{payload: 64000, gso: 1448, tcpOpts: 12}.build()
	frames := []OutFrame{{Pieces: [][]byte{f[:66], f[66:]}, Offload: o}}
	b.SetBytes(int64(len(f)))
	b.ReportAllocs()
	for b.Loop() {
		d.Queues()[0].Write(frames)
	}
}
