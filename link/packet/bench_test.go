package packet

import (
	"testing"

	"github.com/ustack/ustack/link"
)

// What one frame costs that waits in the socket, or that nobody waits for: 60 bytes, by batches of
// 32, or super-frames of 32 KB.
func BenchmarkSocket(b *testing.B) {
	for _, c := range []struct {
		name     string
		size, in int
	}{{"small", 60, 2048}, {"super", 32 << 10, 64}} {
		cable := newCable(b, 1500)
		near, far := open(b, cable.near, Config{}), open(b, cable.far, Config{})
		defer near.Close()
		defer far.Close()
		frame := superFrame(c.size)
		out := make([]link.OutFrame, 32)
		for i := range out {
			out[i].Pieces = [][]byte{frame}
			if c.size > 1500 {
				out[i].Offload = link.Offload{NeedsCsum: true, GSOType: link.GSOTCPv4, GSOSize: 1448, HdrLen: 54, CsumStart: 34, CsumOffset: 16}
			}
		}
		in := make([]link.Frame, 32)
		for i := range in {
			in[i].Buf = make([]byte, link.MaxFrame)
		}
		send := func(b *testing.B, n int) {
			for ; n > 0; n -= len(out) {
				if got, err := far.Queues()[0].Write(out); got != len(out) || err != nil {
					b.Fatal(got, err)
				}
			}
		}
		receive := func(b *testing.B, n int) {
			for n > 0 {
				got, err := near.Queues()[0].Read(in)
				if err != nil {
					b.Fatal(err)
				}
				n -= got
			}
		}
		b.Run("receive/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.StopTimer()
			for done := 0; done < b.N; done += c.in {
				send(b, c.in)
				b.StartTimer()
				receive(b, c.in)
				b.StopTimer()
			}
		})
		b.Run("send/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.StopTimer()
			for done := 0; done < b.N; done += c.in {
				b.StartTimer()
				send(b, c.in)
				b.StopTimer()
				receive(b, c.in)
			}
		})
	}
}

// superFrame is a TCP frame whose checksum is partial, or less.
func superFrame(n int) []byte {
	f := make([]byte, n)
	copy(f, []byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, byte((n - 14) >> 8), byte(n - 14)})
	f[22], f[23] = 64, 6
	copy(f[26:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	f[46] = 5 << 4
	return f
}
