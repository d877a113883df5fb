package tap

import (
	"bytes"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

// Many frames of one Write arrive in order, whole, and each is counted once, with the
// kernel's help and without.
func TestWriteMany(t *testing.T) {
	ns := quietNS(t)
	for _, alone := range []bool{false, true} {
		dev := openIn(t, ns, Config{Name: "tap0", Offload: OffloadOff})
		w := newWire(t, ns, "tap0")
		q := dev.Queues()[0].(*queue)
		if q.many.ctx == 0 {
			t.Log("this kernel has no io_submit")
		}
		if alone {
			q.many.close()
		}
		const frames = 2*submitBatch + 10
		var out []link.OutFrame
		for i := range frames {
			f := broadcast(60 + i)
			f[20] = byte(i)
			one := link.OutFrame{Pieces: [][]byte{f[:14], nil, f[14:]}}
			switch i {
			case 3:
				one.Pieces = [][]byte{make([]byte, 5000)} // too long
			case 5, 6:
				one.Pieces = nil
				for at := range f { // in more pieces than a writev takes
					one.Pieces = append(one.Pieces, f[at:at+1])
				}
				for len(one.Pieces) < 2000 {
					one.Pieces = append(one.Pieces, bytes.Repeat([]byte{byte(i)}, 1)[:len(one.Pieces)%2])
				}
			}
			out = append(out, one)
		}
		if n, err := q.Write(out); n != frames-1 || err != nil {
			t.Fatalf("Write = %d, %v, want %d", n, err, frames-1)
		}
		for i, f := range out {
			if i == 3 {
				continue
			}
			got, _, err := w.Recv(10 * time.Second)
			if want := bytes.Join(f.Pieces, nil); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("frame %d: %d bytes, or others, want %d; %v", i, len(got), len(want), err)
			}
		}
		if st := dev.Stats(); st.TxFrames != frames-1 || st.Drops["tx_oversize"] != 1 {
			t.Errorf("stats %+v", st)
		}
		// Down, every one is counted as such.
		ns.Down(t, "tap0")
		if n, err := q.Write(out); n != 0 || err != nil || dev.Stats().Drops["tx_down"] != frames-1 {
			t.Errorf("Write while down = %d, %v; %+v", n, err, dev.Stats())
		}
		w.Close()
		dev.Close()
	}
}
