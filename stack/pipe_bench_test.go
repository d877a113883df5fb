package stack

import (
	"io"
	"net/netip"
	"testing"

	"github.com/ustack/ustack/link"
)

// BenchmarkPipeStream is the frame path of both ends, netstack included: one stack
// writes, another reads, over a wire in memory with offloads and without. What is
// allocated for an operation of 1 MiB is what both need for it.
func BenchmarkPipeStream(b *testing.B) {
	all := link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6
	for _, bb := range []struct {
		name     string
		offloads link.Offloads
	}{{"offloads", all}, {"plain", 0}} {
		b.Run(bb.name, func(b *testing.B) {
			x, y := pair(b, link.PipeConfig{Depth: 4096, Offloads: bb.offloads})
			c, s := connect(b, x, y, "10.0.0.2")
			defer c.Close()
			defer s.Close()
			const block = 1 << 20
			buf := make([]byte, block)
			move := func(blocks int) {
				read := make(chan error, 1)
				go func() {
					_, err := io.CopyN(io.Discard, s, int64(blocks)*block)
					read <- err
				}()
				for range blocks {
					if _, err := c.Write(buf); err != nil {
						b.Fatal(err)
					}
				}
				if err := <-read; err != nil {
					b.Fatal(err)
				}
			}
			move(64) // buffers grow, pools fill
			b.SetBytes(block)
			b.ReportAllocs()
			b.ResetTimer()
			move(b.N)
		})
	}
}

// BenchmarkPipeDatagrams sends and receives datagrams of 64 bytes one by one.
func BenchmarkPipeDatagrams(b *testing.B) {
	x, y := pair(b, link.PipeConfig{Depth: 4096})
	s, err := y.UDP("udp4", netip.MustParseAddrPort("10.0.0.2:0"), netip.AddrPort{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	c, err := x.Dial("udp", s.LocalAddr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 64)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
