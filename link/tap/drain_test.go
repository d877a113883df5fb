package tap

import (
	"bytes"
	"testing"

	"github.com/ustack/ustack/link"
)

// Without virtio headers a Read returns what is ready, in order, and leaves what did
// not have room for the next one.
func TestReadReturnsAllThatIsReady(t *testing.T) {
	ns := quietNS(t)
	for _, cfg := range []Config{{Driver: DriverWater}, {Offload: OffloadOff}} {
		cfg.Name = "tap0"
		dev := openIn(t, ns, cfg)
		w := newWire(t, ns, "tap0")
		for i := range 11 {
			n := 100 + i
			if i == 2 {
				n = 900 // does not fit
			}
			if err := w.Send(broadcast(n), link.Offload{}); err != nil {
				t.Fatal(err)
			}
		}
		in := make([]link.Frame, 8)
		for i := range in {
			in[i].Buf = make([]byte, 500)
		}
		var got [][]byte
		for _, want := range []int{1, 8, 1} {
			offered := in
			if len(got) == 0 {
				offered = in[:1]
			}
			n, err := dev.Queues()[0].Read(offered)
			if n != want || err != nil {
				t.Fatalf("%+v: Read = %d, %v, want %d frames", cfg, n, err, want)
			}
			for _, f := range offered[:n] {
				got = append(got, bytes.Clone(f.Buf[:f.N]))
			}
		}
		for i, f := range got {
			n := 100 + i
			if i >= 2 {
				n++ // behind the one that was dropped
			}
			if !bytes.Equal(f, broadcast(n)) {
				t.Errorf("%+v: frame %d has %d bytes, or others, want %d", cfg, i, len(f), n)
			}
		}
		st := dev.Stats()
		if st.RxFrames != 10 || st.Drops["rx_oversize"] != 1 || st.RxBytes != 11*105-102 {
			t.Errorf("%+v: stats %+v", cfg, st)
		}
		w.Close()
		dev.Close()
	}
}
