package linktest

import (
	"bytes"
	"errors"
	"net"
	"testing"

	"github.com/ustack/ustack/link"
)

func makePipe(cfg link.PipeConfig) MakeDevice {
	return func(testing.TB) (link.Device, Wire) {
		a, b := link.Pipe(cfg)
		return a, FarEnd(b)
	}
}

const allOffloads = link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6 | link.OffloadECN

func TestPipe(t *testing.T) {
	t.Run("plain", func(t *testing.T) { TestDevice(t, makePipe(link.PipeConfig{})) })
	t.Run("offloads", func(t *testing.T) {
		TestDevice(t, makePipe(link.PipeConfig{Offloads: allOffloads}))
	})
	t.Run("queues", func(t *testing.T) {
		TestDevice(t, makePipe(link.PipeConfig{Queues: 3, MTU: 9000, HardwareAddrs: [2]net.HardwareAddr{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}}))
	})
}

// A wrapper that does nothing passes too: others will be built like it.
func TestFaultyWithoutFaults(t *testing.T) {
	TestDevice(t, func(testing.TB) (link.Device, Wire) {
		a, b := link.Pipe(link.PipeConfig{Offloads: allOffloads})
		return NewFaulty(a, nil, nil), FarEnd(b)
	})
}

func TestFaulty(t *testing.T) {
	a, b := link.Pipe(link.PipeConfig{})
	defer b.Close()
	rx := func(n uint64, _ []byte) Action { return []Action{Pass, Drop, Corrupt, Duplicate}[(n-1)%4] }
	d := NewFaulty(a, rx, Every(3, Drop))
	defer d.Close()
	frames := series(0, 4)
	write := func(dev link.Device, fs ...[]byte) {
		t.Helper()
		for _, f := range fs {
			if n, err := dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{f[:9], f[9:]}}}); n != 1 || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}
	}
	in := []link.Frame{{Buf: make([]byte, 2000)}, {Buf: make([]byte, 2000)}, {Buf: make([]byte, 2000)}, {Buf: make([]byte, 2000)}}
	read := func(dev link.Device, want ...[]byte) {
		t.Helper()
		for len(want) > 0 {
			n, err := dev.Queues()[0].Read(in)
			if err != nil || n > len(want) {
				t.Fatalf("Read = %d, %v, want %d frames", n, err, len(want))
			}
			for _, f := range in[:n] {
				if !bytes.Equal(f.Buf[:f.N], want[0]) {
					t.Fatalf("read %s, want %s", brief(f.Buf[:f.N]), brief(want[0]))
				}
				want = want[1:]
			}
		}
	}
	write(b, frames...)
	bad := bytes.Clone(frames[2])
	bad[len(bad)-1] ^= 0xff
	read(d, frames[0], bad, frames[3], frames[3])

	write(d, frames...)
	read(b, frames[0], frames[1], frames[3])

	gone := errors.New("on fire")
	d.Fail(gone)
	if _, err := d.Queues()[0].Read(in); err != gone {
		t.Errorf("Read after Fail: %v", err)
	}
	if _, err := d.Queues()[0].Write([]link.OutFrame{{Pieces: frames[:1]}}); err != gone {
		t.Errorf("Write after Fail: %v", err)
	}
	d.Close()
	if _, err := d.Queues()[0].Read(in); !errors.Is(err, link.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
}
