package bridge

import (
	"testing"

	"github.com/ustack/ustack/link"
)

// FuzzReceive passes two frames of any kind, in whatever way their metadata came about.
func FuzzReceive(f *testing.F) {
	host := [6]byte{2, 0, 0, 0, 0, 9}
	f.Add(frameOf(everybody, host, "broadcast"), frameOf(host, [6]byte{2}, "to it"), uint16(0), uint16(0), byte(0))
	f.Add(superFrame(host, 3000), frameOf(host, [6]byte{2}, ""), uint16(34), uint16(16), byte(1))
	probe := probeGroup.bytes()
	f.Add(frameOf(probe, host, "\x88\xb6"), frameOf([6]byte{0x01, 0x80, 0xc2}, host, "reserved"), uint16(0), uint16(0), byte(0))
	b := New(Config{})
	f.Cleanup(func() { b.Close() })
	from := plug(f, b, 1, link.PipeConfig{Offloads: link.OffloadCsum | link.OffloadTSO4}, PortConfig{})
	plug(f, b, 2, link.PipeConfig{}, PortConfig{}).listen()
	plug(f, b, 3, link.PipeConfig{Offloads: link.OffloadCsum | link.OffloadTSO4}, PortConfig{}).listen()
	f.Fuzz(func(t *testing.T, one, two []byte, start, offset uint16, gso byte) {
		s := &sender{b: b, out: make([]link.OutFrame, 0, 4), pieces: make([][]byte, 4)}
		for _, frame := range [][]byte{one, two} {
			if len(frame) < link.HeaderLen || len(frame) > link.MaxFrame { // a Device passes on none of those
				continue
			}
			in := link.Frame{Buf: frame, N: len(frame), Offload: link.Offload{NeedsCsum: gso > 0, GSOType: link.GSOType(gso & 1), GSOSize: start, CsumStart: start, CsumOffset: offset}}
			if in.Offload.Validate(in.N) == nil {
				from.port.receive(&in, s)
			}
		}
		s.flush()
	})
}
