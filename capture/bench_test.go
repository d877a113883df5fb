package capture_test

import (
	"testing"

	"github.com/ustack/ustack/capture"
	"github.com/ustack/ustack/link"
)

// A sink takes every frame, and always has one of 1514 bytes.
type sink struct{}

func newSink() link.Device { return sink{} }

func (sink) Info() link.Info                           { return link.Info{Name: "sink", MTU: link.DefaultMTU} }
func (s sink) Queues() []link.Queue                    { return []link.Queue{s} }
func (sink) Stats() link.Stats                         { return link.Stats{} }
func (sink) Close() error                              { return nil }
func (sink) Write(frames []link.OutFrame) (int, error) { return len(frames), nil }

func (sink) Read(frames []link.Frame) (int, error) {
	frames[0].N = 1514
	return 1, nil
}

// BenchmarkPoint is what a frame costs at a device alone, at one that may be captured
// at, and while it is: to a ring that is full, and to one that is read. To compare:
// benchstat -col /at.
func BenchmarkPoint(b *testing.B) {
	for _, c := range []struct {
		name                 string
		point, capture, read bool
	}{
		{name: "device"}, {name: "nobody", point: true},
		{name: "full", point: true, capture: true}, {name: "read", point: true, capture: true, read: true},
	} {
		dev := newSink()
		var capt *capture.Capture
		if c.point {
			p := capture.Wrap(dev)
			dev = p
			if c.capture {
				capt = start(b, capture.Config{}, p)
			}
		}
		q := dev.Queues()[0]
		recs := make([]capture.Record, 64)
		for _, way := range []string{"write", "read"} {
			b.Run("at="+c.name+"/way="+way, func(b *testing.B) {
				out := []link.OutFrame{{Pieces: [][]byte{frame(1514, 1)}}}
				in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if way == "write" {
						q.Write(out)
					} else {
						q.Read(in)
					}
					if c.read && i%64 == 63 {
						capt.Read(recs)
					}
				}
			})
		}
	}
}
