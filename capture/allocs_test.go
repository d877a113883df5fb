//go:build !race

package capture_test

import (
	"testing"

	"github.com/ustack/ustack/capture"
	"github.com/ustack/ustack/link"
)

// TestNoAllocations: a Point allocates nothing for a frame, neither while nobody captures nor
// into a ring.
func TestNoAllocations(t *testing.T) {
	for _, c := range []struct {
		name    string
		capture bool
		expr    string
	}{{"nobody", false, ""}, {"capture", true, ""}, {"filter", true, "out or port 80 or dropped"}} {
		t.Run(c.name, func(t *testing.T) {
			p := capture.Wrap(newSink())
			if c.capture {
				start(t, capture.Config{Buffer: capture.MinBuffer, Filter: parse(t, c.expr)}, p)
			}
			q := p.Queues()[0]
			f := frame(1514, 1)
			out := []link.OutFrame{{Pieces: [][]byte{f[:54], f[54:]}}, {Pieces: [][]byte{f}}}
			in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
			if n := testing.AllocsPerRun(1000, func() { q.Write(out); q.Read(in) }); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}
