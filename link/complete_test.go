package link_test

import (
	"bytes"
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/linktest"
)

const allOffloads = link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6 | link.OffloadECN

// A watched Device tells what was written to it with offloads.
type watched struct {
	link.Device
	queues []link.Queue
	mu     sync.Mutex
	frames []link.OutFrame // guarded by mu
}

type watchedQueue struct {
	link.Queue
	dev *watched
}

func watch(dev link.Device) *watched {
	w := &watched{Device: dev}
	for _, q := range dev.Queues() {
		w.queues = append(w.queues, &watchedQueue{q, w})
	}
	return w
}

func (w *watched) Queues() []link.Queue { return w.queues }

func (q *watchedQueue) Write(frames []link.OutFrame) (int, error) {
	for _, f := range frames {
		if f.Offload.NeedsCsum && f.Offload.Validate(f.Len()) == nil && f.Len() <= link.MaxFrame {
			q.dev.mu.Lock()
			q.dev.frames = append(q.dev.frames, link.OutFrame{Pieces: [][]byte{bytes.Join(f.Pieces, nil)}, Offload: f.Offload})
			q.dev.mu.Unlock()
		}
	}
	return q.Queue.Write(frames)
}

// A joiningWire is the far end of a Device that finishes frames: it puts segments
// together again, so that the suite sees what it wrote. Each segment is verified
// first.
type joiningWire struct {
	linktest.Wire
	t    testing.TB
	near *watched
}

func (w *joiningWire) Recv(d time.Duration) ([]byte, link.Offload, error) {
	first, o, err := w.Wire.Recv(d)
	if err != nil || len(first) < 54 || !(first[12] == 0x08 && first[13] == 0 || first[12] == 0x86 && first[13] == 0xdd) {
		return first, o, err
	}
	w.near.mu.Lock()
	defer w.near.mu.Unlock()
	if len(w.near.frames) == 0 {
		return first, o, err
	}
	want := w.near.frames[0]
	w.near.frames = w.near.frames[1:]
	if o != (link.Offload{}) {
		return first, o, err // the wire took it
	}
	whole, at := want.Pieces[0], int(want.Offload.CsumStart)
	hdr := at + 20
	data := w.payload(first, whole, at, 0)
	for hdr+len(data) < len(whole) {
		next, _, err := w.Wire.Recv(d)
		if err != nil {
			return nil, o, err
		}
		data = append(data, w.payload(next, whole, at, len(data))...)
	}
	return append(bytes.Clone(whole[:hdr]), data...), want.Offload, nil
}

// payload returns what a segment of whole carries, which begins at an offset of it.
func (w *joiningWire) payload(seg, whole []byte, tcpAt, offset int) []byte {
	if len(seg) < tcpAt+20 || len(seg) > 1514 && len(whole) > 1514 {
		w.t.Errorf("a segment of %d bytes", len(seg))
		return nil
	}
	seq := func(f []byte) uint32 { return binary.BigEndian.Uint32(f[tcpAt+4:]) }
	if seq(seg) != seq(whole)+uint32(offset) {
		w.t.Errorf("sequence number %d, want %d", seq(seg), seq(whole)+uint32(offset))
	}
	addresses := seg[26:34]
	if tcpAt == 54 {
		addresses = seg[22:54]
	} else if s := internetSum(seg[14:34]); s != 0xffff {
		w.t.Errorf("the IPv4 header sums to %#x", s)
	}
	tcp := seg[tcpAt:]
	pseudo := append(bytes.Clone(addresses), 0, 6, byte(len(tcp)>>8), byte(len(tcp)))
	if s := internetSum(append(pseudo, tcp...)); s != 0xffff {
		w.t.Errorf("segment of %d bytes at %d: TCP sums to %#x", len(seg), offset, s)
	}
	if cwr := tcp[13] & 0x80; cwr != 0 && offset > 0 {
		w.t.Error("CWR is in a later segment")
	}
	return bytes.Clone(seg[tcpAt+20:])
}

func internetSum(b []byte) (s uint32) {
	for i, x := range b {
		s += uint32(x) << (8 * (1 - i%2))
		s = s>>16 + s&0xffff
	}
	return s
}

// The suite, over a wire that takes no offloads, or some of them.
func TestComplete(t *testing.T) {
	for name, o := range map[string]link.Offloads{"none": 0, "csum": link.OffloadCsum, "tso4": link.OffloadTSO4, "all": allOffloads} {
		t.Run(name, func(t *testing.T) {
			linktest.TestDevice(t, func(t testing.TB) (link.Device, linktest.Wire) {
				a, b := link.Pipe(link.PipeConfig{Offloads: o})
				d := link.Complete(a, a.Info().RX)
				if i := d.Info(); i.TX != allOffloads || i.RX != a.Info().RX {
					t.Fatalf("Info %+v", i)
				}
				w := watch(d)
				return w, &joiningWire{linktest.FarEnd(b), t, w}
			})
		})
	}
}

// The suite, for a reader that takes nothing, and for one that takes checksums only.
func TestCompleteReads(t *testing.T) {
	for _, takes := range []link.Offloads{0, link.OffloadCsum, link.OffloadTSO4 | link.OffloadCsum, link.OffloadECN} {
		t.Run(takes.String(), func(t *testing.T) {
			linktest.TestDevice(t, func(t testing.TB) (link.Device, linktest.Wire) {
				a, b := link.Pipe(link.PipeConfig{Offloads: allOffloads, Queues: 2})
				d := link.Complete(a, takes)
				if i := d.Info(); !takes.Has(i.RX) || i.TX != allOffloads {
					t.Fatalf("Info %+v", i)
				}
				return d, linktest.FarEnd(b)
			})
		})
	}
}
