package capture_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/ustack/ustack/capture"
	"github.com/ustack/ustack/capture/filter"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/linktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// frame is an Ethernet frame of n bytes with a number.
func frame(n, number int) []byte {
	f := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5}, make([]byte, n-14)...)
	copy(f[14:], fmt.Sprint(number))
	return f
}

func parse(t testing.TB, expr string) *filter.Filter {
	t.Helper()
	f, err := filter.Parse(expr)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func pipe(t testing.TB, cfg link.PipeConfig) (*capture.Point, link.Device) {
	near, far := link.Pipe(cfg)
	p := capture.Wrap(near)
	t.Cleanup(func() { p.Close(); far.Close() })
	return p, far
}

func start(t testing.TB, cfg capture.Config, points ...*capture.Point) *capture.Capture {
	t.Helper()
	c, err := capture.Start(cfg, points...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

func write(t testing.TB, d link.Device, o link.Offload, pieces ...[]byte) int {
	t.Helper()
	n, err := d.Queues()[0].Write([]link.OutFrame{{Pieces: pieces, Offload: o}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// read reads one frame and then leaves its verdict.
func read(t testing.TB, d link.Device, drop string) []byte {
	t.Helper()
	in := []link.Frame{{Buf: make([]byte, link.MaxFrame), Drop: "of long ago"}}
	if n, err := d.Queues()[0].Read(in); n != 1 || err != nil {
		t.Fatalf("read: %d, %v", n, err)
	}
	if drop != "" {
		in[0].Drop = drop
	}
	d.Queues()[0].Read(nil) // a Read of no frames returns at once
	return in[0].Buf[:in[0].N]
}

// all returns what a stopped capture holds.
func all(t testing.TB, c *capture.Capture) (list []capture.Record) {
	t.Helper()
	c.Stop()
	recs := make([]capture.Record, 3)
	for {
		n, err := c.Read(recs)
		if err == io.EOF {
			return list
		}
		for _, r := range recs[:n] {
			r.Data = bytes.Clone(r.Data)
			list = append(list, r)
		}
	}
}

// TestDevice holds a Point to the contract of a Device, with and without a capture.
func TestDevice(t *testing.T) {
	for _, captures := range []int{0, 1} {
		t.Run(fmt.Sprint(captures, " captures"), func(t *testing.T) {
			linktest.TestDevice(t, func(t testing.TB) (link.Device, linktest.Wire) {
				near, far := link.Pipe(link.PipeConfig{Offloads: link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6, Queues: 2, Depth: 20000})
				p := capture.Wrap(near)
				for range captures {
					start(t, capture.Config{Buffer: capture.MinBuffer}, p)
				}
				return p, linktest.FarEnd(far)
			})
		})
	}
}

func TestRecords(t *testing.T) {
	p, far := pipe(t, link.PipeConfig{Offloads: link.OffloadCsum})
	c := start(t, capture.Config{SnapLen: 40}, p)
	csum := link.Offload{NeedsCsum: true, CsumStart: 20, CsumOffset: 2}
	write(t, far, link.Offload{}, frame(100, 0))
	read(t, p, "")
	write(t, p, csum, frame(60, 1)[:15], nil, frame(60, 1)[15:])
	write(t, far, link.Offload{}, frame(30, 2))
	read(t, p, "rx_otherhost")
	recs := all(t, c)
	if len(recs) != 3 {
		t.Fatalf("%d records", len(recs))
	}
	for i, want := range []capture.Record{
		{In: true, Len: 100, Data: frame(100, 0)[:40]},
		{Len: 60, Data: frame(60, 1)[:40], Offload: csum},
		{In: true, Len: 30, Data: frame(30, 2), Drop: "rx_otherhost"},
	} {
		got := recs[i]
		if got.Time.IsZero() || i > 0 && got.Time.Before(recs[i-1].Time) {
			t.Errorf("record %d: at %v", i, got.Time)
		}
		want.Time = got.Time
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("record %d\n got %+v\nwant %+v", i, got, want)
		}
	}
	if n := c.Counts(0); n != (capture.Counts{Matched: 3}) {
		t.Errorf("%+v", n)
	}
	// Afterwards nothing is recorded, and nothing breaks.
	write(t, p, link.Offload{}, frame(60, 1))
	if _, err := c.Read(make([]capture.Record, 1)); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

// TestDropped has frames that the device does not take, and those that it drops on their
// way in, with their reasons.
func TestDropped(t *testing.T) {
	p, far := pipe(t, link.PipeConfig{Depth: 2})
	everything := start(t, capture.Config{}, p)
	dropped := start(t, capture.Config{Filter: parse(t, "dropped")}, p)
	passed := start(t, capture.Config{Filter: parse(t, "not dropped and in")}, p)
	for range 2 {
		if n := write(t, p, link.Offload{}, frame(60, 0)); n != 1 {
			t.Fatal("a frame is not taken")
		}
	}
	if n := write(t, p, link.Offload{}, frame(60, 1)); n != 0 {
		t.Fatal("a frame is taken by a wire that is full")
	}
	write(t, p, link.Offload{}, frame(9000, 2))
	write(t, far, link.Offload{}, frame(60, 3))
	read(t, p, "")
	write(t, far, link.Offload{}, frame(60, 4))
	write(t, far, link.Offload{}, frame(20, 5))
	if n, err := p.Queues()[0].Read([]link.Frame{{Buf: make([]byte, 20)}}); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	p.Queues()[0].Read(nil)
	list := func(c *capture.Capture) string {
		var b strings.Builder
		for _, r := range all(t, c) {
			fmt.Fprintf(&b, "%c%v%s ", r.Data[14], r.In, r.Drop)
		}
		return b.String()
	}
	const full, long, in, in2 = "1falsetx_full 2falsetx_oversize ", "4truerx_oversize ", "3true ", "5true "
	if got, want := list(everything), "0false 0false "+full+in+long+in2; got != want {
		t.Errorf("everything: %s, want %s", got, want)
	}
	if got, want := list(dropped), full+long; got != want {
		t.Errorf("dropped: %s, want %s", got, want)
	}
	if got := list(passed); got != in+in2 {
		t.Errorf("not dropped: %s", got)
	}
}

func TestEnded(t *testing.T) {
	p, far := pipe(t, link.PipeConfig{})
	c := start(t, capture.Config{}, p)
	far.Close()
	if _, err := p.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame(60, 0)}}}); !errors.Is(err, link.ErrGone) {
		t.Fatal(err)
	}
	if recs := all(t, c); len(recs) != 1 || recs[0].Drop != "tx_ended" {
		t.Errorf("%+v", recs)
	}
}

// TestSlowReader: what the ring has no room for is counted, in order, and frames pass.
func TestSlowReader(t *testing.T) {
	p, _ := pipe(t, link.PipeConfig{Depth: 4096})
	c := start(t, capture.Config{Buffer: capture.MinBuffer}, p)
	const frames, size = 2000, 1000
	for i := range frames {
		if n := write(t, p, link.Offload{}, frame(size, i)); n != 1 {
			t.Fatalf("frame %d is not taken", i)
		}
	}
	n := c.Counts(0)
	if n.Matched != frames || n.Dropped == 0 || n.Dropped >= frames {
		t.Fatalf("%+v", n)
	}
	recs := all(t, c)
	if uint64(len(recs)) != frames-n.Dropped || len(recs) != capture.MinBuffer/size {
		t.Errorf("%d records of %d bytes in a ring of %d, %d dropped", len(recs), size, capture.MinBuffer, n.Dropped)
	}
	for i, r := range recs {
		if !bytes.Equal(r.Data, frame(size, i)) {
			t.Fatalf("record %d is another: %q", i, r.Data[14:20])
		}
	}
}

// TestManyAtOnce has several writers, a reader and captures that come and go: every frame is
// recorded whole, those of one writer in order, or counted.
func TestManyAtOnce(t *testing.T) {
	p, far := pipe(t, link.PipeConfig{Depth: 1 << 14})
	c := start(t, capture.Config{Buffer: capture.MinBuffer, Filter: parse(t, "out and ether proto 0x88b5")}, p)
	const writers, each = 4, 2000
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				f := frame(60+i%700, i)
				f[11] = byte(w)
				write(t, p, link.Offload{}, f[:20], f[20:])
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			write(t, far, link.Offload{}, frame(60, 1))
			read(t, p, "")
			start(t, capture.Config{Buffer: capture.MinBuffer}, p).Stop()
		}
	})
	go func() { wg.Wait(); c.Stop() }()
	var next [writers]int
	seen := uint64(0)
	recs := make([]capture.Record, 16)
	for {
		n, err := c.Read(recs)
		if err != nil {
			break
		}
		for _, r := range recs[:n] {
			seen++
			w, number := int(r.Data[11]), 0
			fmt.Sscan(string(bytes.TrimRight(r.Data[14:30], "\x00")), &number)
			if number < next[w] || len(r.Data) != 60+number%700 || r.In {
				t.Fatalf("writer %d: frame %d after %d", w, number, next[w])
			}
			next[w] = number + 1
		}
	}
	if n := c.Counts(0); n.Matched != writers*each || seen+n.Dropped != n.Matched {
		t.Errorf("%d seen, %+v", seen, n)
	}
}

func TestStartErrors(t *testing.T) {
	p, _ := pipe(t, link.PipeConfig{})
	for want, cfg := range map[string]capture.Config{
		"snap length": {SnapLen: -1}, "buffer of 5 bytes": {Buffer: 5},
	} {
		if _, err := capture.Start(cfg, p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	if _, err := capture.Start(capture.Config{}); err == nil {
		t.Error("a capture of no link")
	}
	for range capture.MaxCaptures {
		start(t, capture.Config{Buffer: capture.MinBuffer}, p)
	}
	if _, err := capture.Start(capture.Config{Buffer: capture.MinBuffer}, p); err == nil || !strings.Contains(err.Error(), "end one of them") {
		t.Errorf("one too many: %v", err)
	}
	write(t, p, link.Offload{}, frame(60, 1))
}

// TestStreamEnds: a stream ends with its context, its count, and its writer.
func TestStreamEnds(t *testing.T) {
	p, _ := pipe(t, link.PipeConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var b bytes.Buffer
	if err := capture.Stream(ctx, &b, capture.Config{}, capture.Section{}, 0, p); err != nil || b.Len() == 0 {
		t.Errorf("%v, %d bytes", err, b.Len())
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- capture.Stream(t.Context(), w, capture.Config{}, capture.Section{}, 2, p) }()
	head := make([]byte, 8)
	if _, err := io.ReadFull(r, head); err != nil { // it has begun
		t.Fatal(err)
	}
	go io.Copy(io.Discard, r)
	for range 3 {
		write(t, p, link.Offload{}, frame(60, 1))
	}
	if err := <-done; err != nil {
		t.Errorf("after two frames: %v", err)
	}
	r.CloseWithError(errors.New("nobody reads"))
	if err := capture.Stream(t.Context(), w, capture.Config{}, capture.Section{}, 0, p); err == nil || err.Error() != "nobody reads" {
		t.Errorf("to nobody: %v", err)
	}
}
