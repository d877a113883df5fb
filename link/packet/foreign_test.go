package packet

import (
	"testing"

	"github.com/ustack/ustack/link"
)

// Frames of another service instance between ours are dropped and counted, and ours stay whole and in
// order.
func TestForeignBetween(t *testing.T) {
	c := newCable(t, 1600)
	near := open(t, c.near, Config{Envelope: &Envelope{ISID: 7}})
	defer near.Close()
	var far [2]link.Device
	for i := range far {
		far[i] = open(t, c.far, Config{Envelope: &Envelope{ISID: uint32(7 + i)}})
		defer far[i].Close()
	}
	const n = 100
	for i := range n {
		frame := make([]byte, 60+i)
		copy(frame[12:], []byte{0x88, 0xb5, byte(i)})
		for _, d := range far {
			if got, err := d.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame}}}); got != 1 || err != nil {
				t.Fatal(got, err)
			}
		}
	}
	in := make([]link.Frame, 40)
	for i := range in {
		in[i].Buf = make([]byte, 2000)
	}
	for next := 0; next < n; {
		got, err := near.Queues()[0].Read(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range in[:got] {
			if f.N != 60+next || f.Buf[14] != byte(next) {
				t.Fatalf("frame %d: %d bytes, number %d", next, f.N, f.Buf[14])
			}
			next++
		}
	}
	if s := near.Stats(); s.Drops["rx_foreign"] < n-1 || s.RxFrames != n {
		t.Errorf("stats: %+v", s)
	}
}
