package link_test

import (
	"bytes"
	"testing"

	"github.com/ustack/ustack/link"
)

// TestFinish compares with what Complete writes to a wire that takes nothing.
func TestFinish(t *testing.T) {
	ip := []byte{0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	tcp := append([]byte{4, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x19, 1, 0, 0x12, 0x34, 0, 0}, bytes.Repeat([]byte("payload!"), 500)...)
	ip[2], ip[3] = byte((20+len(tcp))>>8), byte(20+len(tcp))
	frame := bytes.Join([][]byte{{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}, ip, tcp}, nil)
	partial := link.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 16}
	super := partial
	super.GSOType, super.GSOSize = link.GSOTCPv4, 1448
	for name, c := range map[string]struct {
		frame  []byte
		o      link.Offload
		frames int
	}{
		"whole": {frame[:1000], link.Offload{}, 1}, "partial checksum": {frame[:1000], partial, 1}, "super-frame": {frame, super, 3},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := link.Pipe(link.PipeConfig{})
			defer far.Close()
			dev := link.Complete(near, 0)
			defer dev.Close()
			if n, err := dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{c.frame}, Offload: c.o}}); n != 1 || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
			var got [][]byte
			if !link.Finish(c.frame, c.o, func(pieces [][]byte) { got = append(got, bytes.Join(pieces, nil)) }) || len(got) != c.frames {
				t.Fatalf("%d frames", len(got))
			}
			for i, f := range got {
				in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
				if n, err := far.Queues()[0].Read(in); n != 1 || err != nil {
					t.Fatalf("read: %d, %v", n, err)
				}
				if want := in[0].Buf[:in[0].N]; !bytes.Equal(f, want) {
					t.Errorf("frame %d\n% x\n% x", i, f[:60], want[:60])
				}
			}
		})
	}
	for name, o := range map[string]link.Offload{
		"short": {NeedsCsum: true, CsumStart: 14, CsumOffset: 60000}, "no checksum": {GSOType: link.GSOTCPv4, GSOSize: 1448},
		"type": {GSOType: 77},
	} {
		if link.Finish(frame, o, func([][]byte) { t.Errorf("%s: a frame", name) }) {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestTellDrops: what a device drops on the way to the reader is told with its bytes.
func TestTellDrops(t *testing.T) {
	near, far := link.Pipe(link.PipeConfig{})
	defer far.Close()
	dev, err := link.Impair(near, link.ImpairConfig{Loss: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	type drop struct {
		why   link.Drop
		frame string
	}
	told := make(chan drop, 4)
	dev.(link.DropTeller).TellDrops(func(why link.Drop, frame []byte) { told <- drop{why, string(frame)} })
	frame := []byte("0123456789abcdef, and more")
	write := func() {
		t.Helper()
		if n, err := far.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame}}}); n != 1 || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
	write()
	if got := <-told; got != (drop{link.DropRxLost, string(frame)}) {
		t.Errorf("told %+v", got)
	}

	// A pipe whose reader has too small a buffer.
	a, b := link.Pipe(link.PipeConfig{})
	defer a.Close()
	defer b.Close()
	a.(link.DropTeller).TellDrops(func(why link.Drop, frame []byte) { told <- drop{why, string(frame)} })
	for _, f := range [][]byte{frame, frame[:14]} {
		if n, err := b.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{f}}}); n != 1 || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
	in := []link.Frame{{Buf: make([]byte, 20)}}
	if n, err := a.Queues()[0].Read(in); n != 1 || err != nil || in[0].N != 14 {
		t.Fatalf("read: %d, %v", n, err)
	}
	if got := <-told; got != (drop{link.DropRxOversize, string(frame)}) {
		t.Errorf("told %+v", got)
	}
	a.(link.DropTeller).TellDrops(nil)
	if n := a.Stats().Drops["rx_oversize"]; n != 1 {
		t.Errorf("%d counted", n)
	}
}
