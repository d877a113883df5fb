package link

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// numbered returns a frame of n bytes that holds i.
func numbered(i, n int) []byte {
	f := make([]byte, n)
	for k := range f {
		f[k] = byte(i + k)
	}
	binary.BigEndian.PutUint32(f[14:], uint32(i))
	return f
}

// An arrival is a frame that came out of an impaired wire.
type arrival struct {
	data []byte
	at   time.Duration
}

// pass sends count frames of size bytes through a Device that cfg impairs, each a gap
// after the one before, outwards or inwards, and returns what arrives. The clock is
// the bubble's.
func pass(t *testing.T, cfg ImpairConfig, outwards bool, count, size int, gap time.Duration) (all []arrival, st Stats) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := Pipe(PipeConfig{Depth: 2*count + 2})
		d, err := Impair(near, cfg)
		if err != nil {
			t.Fatal(err)
		}
		from, to := d.Queues()[0], far.Queues()[0]
		if !outwards {
			from, to = to, from
		}
		start, done := time.Now(), make(chan struct{})
		go func() {
			defer close(done)
			in := []Frame{{Buf: make([]byte, MaxFrame)}, {Buf: make([]byte, MaxFrame)}}
			for {
				n, err := to.Read(in)
				if err != nil {
					return
				}
				for _, f := range in[:n] {
					if f.Offload != (Offload{}) {
						t.Errorf("a frame has %+v", f.Offload)
					}
					all = append(all, arrival{bytes.Clone(f.Buf[:f.N]), time.Since(start)})
				}
			}
		}()
		for i := range count {
			f := numbered(i, size)
			if _, err := from.Write([]OutFrame{{Pieces: [][]byte{f[:15], f[15:]}}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(gap)
			synctest.Wait()
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		st = d.Stats()
		d.Close()
		far.Close()
		<-done
	})
	return all, st
}

func number(a arrival) int { return int(binary.BigEndian.Uint32(a.data[14:])) }

func TestImpairDelayAndRate(t *testing.T) {
	for _, outwards := range []bool{true, false} {
		// All at once: the wire sends one after the other, then each takes its delay.
		all, st := pass(t, ImpairConfig{Delay: 20 * time.Millisecond, Rate: 1e6}, outwards, 5, 1250, 0)
		if len(all) != 5 || len(st.Drops) != 0 || max(st.RxFrames, st.TxFrames) != 5 || max(st.RxBytes, st.TxBytes) != 5*1250 {
			t.Fatalf("%d frames arrived; %+v", len(all), st)
		}
		for i, a := range all {
			if want := time.Duration(20+10*(i+1)) * time.Millisecond; number(a) != i || a.at != want {
				t.Errorf("frame %d arrived after %v as number %d, want %v", number(a), a.at, i, want)
			}
			if !bytes.Equal(a.data, numbered(i, 1250)) {
				t.Errorf("frame %d was changed", i)
			}
		}
		// Slower than the rate: each takes its own time only.
		all, _ = pass(t, ImpairConfig{Delay: 20 * time.Millisecond, Rate: 1e6}, outwards, 3, 125, time.Second)
		for i, a := range all {
			if want := time.Duration(i)*time.Second + 21*time.Millisecond; a.at != want {
				t.Errorf("frame %d arrived after %v, want %v", i, a.at, want)
			}
		}
	}
}

func TestImpairLimit(t *testing.T) {
	for _, outwards := range []bool{true, false} {
		cfg := ImpairConfig{Delay: time.Second, Limit: 3}
		all, st := pass(t, cfg, outwards, 10, 100, 0)
		why := DropTxLimit
		if !outwards {
			why = DropRxLimit
		}
		if len(all) != 3 || st.Drops[why.String()] != 7 || len(st.Drops) != 1 {
			t.Errorf("%d frames arrived; %+v", len(all), st)
		}
		cfg.Duplicate = 1 // one copy of the second fits
		if all, st = pass(t, cfg, outwards, 3, 100, 0); len(all) != 3 || st.Drops[why.String()] != 1 || number(all[2]) != 1 {
			t.Errorf("%d frames arrived; %+v", len(all), st)
		}
	}
}

func TestImpairJitter(t *testing.T) {
	cfg := ImpairConfig{Delay: 50 * time.Millisecond, Jitter: 10 * time.Millisecond, Seed: 5, Limit: 2000}
	all, _ := pass(t, cfg, true, 2000, 60, time.Microsecond)
	var early, late, overtaken int
	for i, a := range all {
		d := a.at - time.Duration(number(a))*time.Microsecond
		if d < 40*time.Millisecond || d > 60*time.Millisecond {
			t.Fatalf("frame %d took %v", number(a), d)
		}
		if d < 45*time.Millisecond {
			early++
		} else if d >= 55*time.Millisecond {
			late++
		}
		if i > 0 && number(a) < number(all[i-1]) {
			overtaken++
		}
	}
	within(t, "early", early, 2000, 0.25)
	within(t, "late", late, 2000, 0.25)
	if len(all) != 2000 || overtaken == 0 {
		t.Errorf("%d frames arrived, %d were overtaken", len(all), overtaken)
	}
}

// within wants count of n within 5 standard deviations of a binomial distribution.
func within(t *testing.T, what string, count, n int, p float64) {
	t.Helper()
	if off := math.Abs(float64(count) - float64(n)*p); off > 5*math.Sqrt(float64(n)*p*(1-p)) {
		t.Errorf("%s: %d of %d, want about %v", what, count, n, float64(n)*p)
	}
}

// The accidents of each kind are as frequent as asked for, the same in each run with
// one seed, others with another seed and in the other direction.
func TestImpairAccidents(t *testing.T) {
	const count = 20000
	cfg := ImpairConfig{Delay: 10 * time.Millisecond, Loss: 0.03, Duplicate: 0.02, Reorder: 0.05, Corrupt: 0.01, Seed: 7, Limit: 3 * count}
	seen := make(map[string]string)
	for _, run := range []struct {
		name     string
		seed     uint64
		outwards bool
	}{{"out", 7, true}, {"out again", 7, true}, {"in", 7, false}, {"in again", 7, false}, {"other seed", 8, true}} {
		cfg.Seed = run.seed
		all, st := pass(t, cfg, run.outwards, count, 100, 100*time.Microsecond)
		lostAs := st.Drops["tx_lost"] + st.Drops["rx_lost"]
		got := make(map[int]int)
		var twice, early, corrupt int
		var order []int
		for _, a := range all {
			// The number itself may be damaged: the time tells it too.
			i, direct := int(a.at/(100*time.Microsecond)), true
			if j := i - 100; j >= 0 && flipped(a.data, numbered(j, 100)) <= 1 {
				i, direct = j, false
			}
			switch flipped(a.data, numbered(i, 100)) {
			case 1:
				corrupt++
			case 0:
			default:
				t.Fatalf("a frame of more than one wrong bit, or out of time: %x after %v", a.data, a.at)
			}
			if direct {
				early++
			}
			if got[i]++; got[i] == 2 {
				twice++
			}
			order = append(order, i)
		}
		if uint64(count-len(got)) != lostAs {
			t.Errorf("%s: %d frames are missing, %d counted", run.name, count-len(got), lostAs)
		}
		// A frame that is lost and duplicated arrives once.
		within(t, run.name+": lost", count-len(got), count, 0.03*0.98)
		within(t, run.name+": twice", twice, count, 0.02*0.97)
		within(t, run.name+": reordered", early, len(all), 0.05)
		within(t, run.name+": corrupt", corrupt, len(all), 0.01)
		seen[run.name] = fmt.Sprint(order, corrupt)
	}
	if seen["out"] != seen["out again"] || seen["in"] != seen["in again"] {
		t.Error("one seed has two outcomes")
	}
	if seen["out"] == seen["in"] || seen["out"] == seen["other seed"] {
		t.Error("two streams are the same")
	}
}

// flipped counts the bits in which frames differ.
func flipped(a, b []byte) int {
	if len(a) != len(b) {
		return 8 * max(len(a), len(b))
	}
	n := 0
	for i := range a {
		n += bits.OnesCount8(a[i] ^ b[i])
	}
	return n
}

// One kind of accident does not move another.
func TestImpairStreams(t *testing.T) {
	cfg := ImpairConfig{Delay: time.Millisecond, Loss: 0.1, Seed: 1}
	order := func(cfg ImpairConfig) (all []int) {
		got, _ := pass(t, cfg, true, 500, 60, 10*time.Millisecond)
		for _, a := range got {
			all = append(all, number(a))
		}
		return slices.Compact(all)
	}
	one := order(cfg)
	cfg.Reorder, cfg.Jitter = 0.2, time.Millisecond
	if two := order(cfg); !slices.Equal(one, two) || len(one) == 500 {
		t.Errorf("other frames are lost: %d and %d arrive", len(one), len(two))
	}
}

// Super-frames meet with accidents as the segments that a wire would carry, and every
// damage is there to be seen: nothing vouches for the frame.
func TestImpairSuperFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, near := Pipe(PipeConfig{Offloads: OffloadTSO4})
		defer far.Close()
		d, err := Impair(near, ImpairConfig{Delay: time.Second, Corrupt: 1, Seed: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		f, o := superFrame{payload: 30000, gso: 1000, flags: 0x18}.build()
		o.DataValid = true
		want, _ := slowCut(f, o)
		if n, err := far.Queues()[0].Write([]OutFrame{{Pieces: [][]byte{f}, Offload: o}}); n != 1 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
		for i, g := range readAll(t, d.Queues()[0], len(want), MaxFrame) {
			if n := flipped(g.Buf[:g.N], want[i]); n != 1 || g.Offload != (Offload{}) {
				t.Errorf("segment %d has %d wrong bits, %+v", i, n, g.Offload)
			}
		}
		if n, err := d.Queues()[0].Write([]OutFrame{{Pieces: [][]byte{f}, Offload: o}}); n != 0 || err != nil || d.Stats().Drops["tx_offload"] != 1 {
			t.Errorf("Write of a super-frame = %d, %v; %+v", n, err, d.Stats())
		}
	})
}

// Queues share the rate of their direction, and nothing else.
func TestImpairQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := Pipe(PipeConfig{Queues: 2})
		defer far.Close()
		d, err := Impair(near, ImpairConfig{Rate: 1e6, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		start := time.Now()
		for i, q := range d.Queues() {
			if n, err := q.Write([]OutFrame{{Pieces: [][]byte{numbered(i, 1250)}}}); n != 1 || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
			far.Queues()[i].Write([]OutFrame{{Pieces: [][]byte{numbered(i, 1250)}}})
			synctest.Wait() // so that they come in this order
		}
		for i := range 2 {
			readAll(t, far.Queues()[i], 1, 2000)
			readAll(t, d.Queues()[i], 1, 2000)
			if at := time.Since(start); at != time.Duration(10*(i+1))*time.Millisecond {
				t.Errorf("frame %d arrived after %v", i, at)
			}
		}
	})
}

func TestImpairAllocatesNothing(t *testing.T) {
	near, far := Pipe(PipeConfig{})
	defer far.Close()
	d, err := Impair(near, ImpairConfig{Rate: 1e12, Corrupt: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f := make([]byte, 1514)
	o, in := out(f[:14], f[14:]), []Frame{{Buf: make([]byte, 1514)}}
	turn := func(a, b Device) {
		if n, err := a.Queues()[0].Write(o); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if n, err := b.Queues()[0].Read(in); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	most := 0.0
	if poolForgets {
		most = 8
	}
	if n := testing.AllocsPerRun(500, func() { turn(d, far); turn(far, d) }); n > most {
		t.Errorf("%v allocations for two frames", n)
	}
}

// The heap gives frames by time, then as they came.
func FuzzDelayHeap(f *testing.F) {
	f.Add([]byte{3, 1, 2, 255, 255, 1, 1, 255, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		var l delayLine
		var want []delayed
		take := func() {
			i := 0
			for k := range want {
				if want[k].at < want[i].at {
					i = k
				}
			}
			if got := l.pop(); got != want[i] {
				t.Fatalf("%+v, want %+v", got, want[i])
			}
			want = slices.Delete(want, i, i+1)
		}
		for i, op := range ops {
			if op < 200 {
				x := delayed{at: time.Duration(op), seq: uint64(i)}
				want = append(want, x)
				l.push(x)
			} else if len(want) > 0 {
				take()
			}
		}
		for len(want) > 0 {
			take()
		}
	})
}
