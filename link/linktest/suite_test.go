package linktest

import (
	"bytes"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

// A recorder is a testing.TB that remembers whether it failed.
type recorder struct {
	testing.TB // for Helper, TempDir and the like
	failed     atomic.Bool
	cleanups   []func()
}

func (r *recorder) Fail()                 { r.failed.Store(true) }
func (r *recorder) Failed() bool          { return r.failed.Load() }
func (r *recorder) Error(...any)          { r.Fail() }
func (r *recorder) Errorf(string, ...any) { r.Fail() }
func (r *recorder) Fatal(...any)          { r.FailNow() }
func (r *recorder) Fatalf(string, ...any) { r.FailNow() }
func (r *recorder) Log(...any)            {}
func (r *recorder) Logf(string, ...any)   {}
func (r *recorder) Cleanup(f func())      { r.cleanups = append(r.cleanups, f) }

func (r *recorder) FailNow() {
	r.Fail()
	panic(failedNow{})
}

type failedNow struct{}

// fails runs a check and reports whether it failed.
func fails(t *testing.T, c check, make MakeDevice, patience time.Duration) bool {
	r := &recorder{TB: t}
	guard := func(f func()) {
		defer func() {
			if p := recover(); p != nil && p != (failedNow{}) {
				panic(p)
			}
		}()
		f()
	}
	guard(func() { c.run(&suite{TB: r, make: make, patience: patience}) })
	for len(r.cleanups) > 0 {
		f := r.cleanups[len(r.cleanups)-1]
		r.cleanups = r.cleanups[:len(r.cleanups)-1]
		guard(f)
	}
	return r.Failed()
}

// A mutant is a Device around a pipe's end with one rule broken.
type mutant struct {
	link.Device
	q    []link.Queue
	info func(link.Info) link.Info
	st   func(link.Stats) link.Stats
	end  func(inner link.Device) error
}

func (m *mutant) Queues() []link.Queue { return m.q }

func (m *mutant) Info() link.Info {
	if m.info != nil {
		return m.info(m.Device.Info())
	}
	return m.Device.Info()
}

func (m *mutant) Stats() link.Stats {
	if m.st != nil {
		return m.st(m.Device.Stats())
	}
	return m.Device.Stats()
}

func (m *mutant) Close() error {
	if m.end != nil {
		return m.end(m.Device)
	}
	return m.Device.Close()
}

// A mutantQueue replaces what is not nil. Its functions get the real queue.
type mutantQueue struct {
	link.Queue
	read  func(q link.Queue, in []link.Frame) (int, error)
	write func(q link.Queue, out []link.OutFrame) (int, error)
}

func (q *mutantQueue) Read(in []link.Frame) (int, error) {
	if q.read != nil {
		return q.read(q.Queue, in)
	}
	return q.Queue.Read(in)
}

func (q *mutantQueue) Write(out []link.OutFrame) (int, error) {
	if q.write != nil {
		return q.write(q.Queue, out)
	}
	return q.Queue.Write(out)
}

type (
	readFunc  = func(q link.Queue, in []link.Frame) (int, error)
	writeFunc = func(q link.Queue, out []link.OutFrame) (int, error)
)

// reading and writing make mutants of one function for all queues.
func reading(make func() readFunc) func(*mutant) {
	return func(m *mutant) {
		f := make()
		for i, q := range m.q {
			m.q[i] = &mutantQueue{Queue: q, read: f}
		}
	}
}

func writing(make func() writeFunc) func(*mutant) {
	return func(m *mutant) {
		f := make()
		for i, q := range m.q {
			m.q[i] = &mutantQueue{Queue: q, write: f}
		}
	}
}

// perFrame makes a mutant that changes each frame written.
func perFrame(change func(*link.OutFrame)) func(*mutant) {
	return writing(func() writeFunc {
		return func(q link.Queue, out []link.OutFrame) (int, error) {
			changed := append([]link.OutFrame(nil), out...)
			for i := range changed {
				change(&changed[i])
			}
			return q.Write(changed)
		}
	})
}

// perRead makes a mutant that changes each frame read.
func perRead(change func(*link.Frame)) func(*mutant) {
	return reading(func() readFunc {
		return func(q link.Queue, in []link.Frame) (int, error) {
			n, err := q.Read(in)
			for i := range n {
				change(&in[i])
			}
			return n, err
		}
	})
}

func whole(f link.OutFrame) link.OutFrame {
	return link.OutFrame{Pieces: [][]byte{bytes.Join(f.Pieces, nil)}, Offload: f.Offload}
}

// keeper writes frames when the next call comes, from the caller's memory.
func keeper(m *mutant) {
	for i, q := range m.q {
		var kept []link.OutFrame
		m.q[i] = &mutantQueue{Queue: q, write: func(q link.Queue, out []link.OutFrame) (int, error) {
			if _, err := q.Write(kept); err != nil {
				return 0, err
			}
			kept = append(kept[:0], out...)
			return len(out), nil
		}}
	}
}

// dealer makes two queues of one and deals the frames out.
func dealer(m *mutant) {
	q := m.q[0]
	lanes := [2]chan link.Frame{make(chan link.Frame, 256), make(chan link.Frame, 256)}
	var begin sync.Once
	pump := func() {
		for i := 0; ; i++ {
			in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
			if _, err := q.Read(in); err != nil {
				close(lanes[0])
				close(lanes[1])
				return
			}
			lanes[i/3%2] <- in[0]
		}
	}
	m.q = nil
	for _, lane := range lanes {
		m.q = append(m.q, &mutantQueue{Queue: q, read: func(_ link.Queue, in []link.Frame) (int, error) {
			begin.Do(func() { go pump() })
			f, ok := <-lane
			if !ok {
				return 0, link.ErrClosed
			}
			in[0].N, in[0].Offload = copy(in[0].Buf, f.Buf[:f.N]), f.Offload
			return 1, nil
		}})
	}
}

// leaveDescriptor opens a file that only the end of the tests closes.
func leaveDescriptor(m *mutant) {
	if f, err := os.Open(os.DevNull); err == nil {
		leftOpen.Lock()
		defer leftOpen.Unlock()
		leftOpen.files = append(leftOpen.files, f)
	}
}

var leftOpen struct {
	sync.Mutex
	files []*os.File
}

// TestSuiteNoticesMutants runs the suite against drivers that are broken.
func TestSuiteNoticesMutants(t *testing.T) {
	t.Cleanup(func() {
		for _, f := range leftOpen.files {
			f.Close()
		}
	})
	byName := make(map[string]check)
	for _, c := range checks() {
		byName[c.name] = c
	}
	make := func(spoil func(*mutant)) MakeDevice {
		return func(testing.TB) (link.Device, Wire) {
			a, b := link.Pipe(link.PipeConfig{Offloads: allOffloads})
			m := &mutant{Device: a, q: append([]link.Queue(nil), a.Queues()...)}
			spoil(m)
			t.Cleanup(func() { a.Close() }) // whatever the mutant does
			return m, FarEnd(b)
		}
	}
	noted := map[string]bool{}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			c, ok := byName[m.noted]
			if !ok {
				t.Fatalf("there is no check %s", m.noted)
			}
			if !fails(t, c, make(m.spoil), 200*time.Millisecond) {
				t.Errorf("check %s passes a driver that %s", c.name, m.name)
			}
			noted[m.noted] = true
		})
	}
	for name, c := range byName {
		if !noted[name] {
			t.Errorf("no mutant shows that check %s can fail", name)
		}
		// The same wrapper without a fault passes.
		if fails(t, c, make(func(*mutant) {}), patience) {
			t.Errorf("check %s fails on a driver that is right", name)
		}
	}
}
