package link_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/ustack/ustack/link"
)

// A recorder keeps the frames' numbers of what it is told.
type recorder struct {
	mu     sync.Mutex
	frames []uint64
}

func (r *recorder) Observe(ev *link.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frames = append(r.frames, ev.Frame)
}

func TestObserversComeAndGo(t *testing.T) {
	var none *link.Observers
	if none.Watching() != nil {
		t.Fatal("a nil Observers watches")
	}
	var obs link.Observers
	if obs.Watching() != nil {
		t.Fatal("the zero Observers watches")
	}
	var a, b recorder
	removeA := obs.Add(&a, false)
	if w := obs.Watching(); w == nil || w.Serial() {
		t.Fatalf("with one observer: %+v", w)
	}
	removeB := obs.Add(&b, true)
	w := obs.Watching()
	if !w.Serial() {
		t.Error("one of two wants one frame at a time, and is not asked for")
	}
	w.Observe(&link.Event{Frame: w.NewFrame()})
	removeB()
	removeB()
	w.Observe(&link.Event{Frame: w.NewFrame()}) // by who still has the old set
	if obs.Watching().Serial() {
		t.Error("serial after the one that wanted it went")
	}
	removeA()
	if obs.Watching() != nil {
		t.Error("nobody is left, and somebody watches")
	}
	if !slices.Equal(a.frames, []uint64{1, 2}) || !slices.Equal(b.frames, []uint64{1}) {
		t.Errorf("told of frames %v and %v", a.frames, b.frames)
	}
}

// TestNobodyIsToldAfterRemove: what remove promises, with the race detector's help.
func TestNobodyIsToldAfterRemove(t *testing.T) {
	var obs link.Observers
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 4 {
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if w := obs.Watching(); w != nil {
					w.Observe(&link.Event{Frame: w.NewFrame()})
				}
			}
		})
	}
	for range 200 {
		var r recorder
		remove := obs.Add(&r, false)
		remove()
		r.frames = nil // a race if anybody is still told
	}
	close(stop)
	busy.Wait()
}

func TestEventFrame(t *testing.T) {
	ev := link.Event{Pieces: [][]byte{{1, 2, 3}, nil, {4, 5}}}
	if ev.Len() != 5 {
		t.Errorf("Len %d", ev.Len())
	}
	for limit, want := range []string{"", "\x01", "\x01\x02", "\x01\x02\x03", "\x01\x02\x03\x04", "\x01\x02\x03\x04\x05", "\x01\x02\x03\x04\x05"} {
		if got := string(ev.AppendFrame(nil, limit)); got != want {
			t.Errorf("first %d bytes: %x", limit, got)
		}
	}
}

func TestStepNames(t *testing.T) {
	seen := map[string]bool{}
	for s := link.StepRead; s <= link.StepClientOut; s++ {
		if n := s.String(); n == "" || n == "unknown" || seen[n] {
			t.Errorf("step %d is named %q", s, n)
		}
		seen[s.String()] = true
	}
	if (link.StepClientOut + 1).String() != "unknown" {
		t.Error("a step that is none has a name")
	}
}

// BenchmarkWatching is what a frame costs while nobody watches.
func BenchmarkWatching(b *testing.B) {
	var obs link.Observers
	b.ReportAllocs()
	for b.Loop() {
		if obs.Watching() != nil {
			b.Fatal("somebody watches")
		}
	}
}
