package bridge

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/ustack/ustack/link"
)

// One frame's way through the switch, from a port's hands to the next Device, among so many ports
// and stations. Everybody speaks to everybody.
func BenchmarkForward(b *testing.B) {
	for _, c := range []struct{ ports, stations int }{{10, 1000}, {10, 100000}, {1000, 1000}, {1000, 100000}} {
		b.Run(fmt.Sprintf("ports=%d/stations=%d", c.ports, c.stations), func(b *testing.B) {
			br := New(Config{})
			defer br.Close()
			sink := &sinkDevice{}
			ports := make([]*Port, c.ports)
			for i := range ports {
				p := newPort(br, PortConfig{Device: sink, Name: fmt.Sprint(i), MaxStations: c.stations})
				p.id = uint32(i)
				ports[i] = p
			}
			br.byID.Store(&ports)
			br.setPorts(ports)
			mac := func(i int) (m [6]byte) { return macAddr(uint64(i) * 0x9e3779b97f4a & 0xfeffffffffff).bytes() }
			for i := range c.stations {
				m := mac(i)
				ports[i%c.ports].learn(macOf(m[:]), 0)
			}
			r := rand.New(rand.NewPCG(1, 1))
			frames := make([]link.Frame, 1<<12)
			from := make([]*Port, len(frames))
			for i := range frames {
				src, dst := r.IntN(c.stations), r.IntN(c.stations)
				for src%c.ports == dst%c.ports {
					dst = r.IntN(c.stations)
				}
				f := frameOf(mac(dst), mac(src), "0123456789012345678901234567890123456789012345")
				frames[i], from[i] = link.Frame{Buf: f, N: len(f)}, ports[src%c.ports]
			}
			s := &sender{b: br, out: make([]link.OutFrame, 0, readBatch), pieces: make([][]byte, readBatch)}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				from[i&(len(frames)-1)].receive(&frames[i&(len(frames)-1)], s)
			}
			b.StopTimer()
		})
	}
}

// A sinkDevice takes everything.
type sinkDevice struct{ link.Counters }

func (d *sinkDevice) Info() link.Info {
	return link.Info{Name: "sink", MTU: 1500, TX: link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6 | link.OffloadECN}
}
func (d *sinkDevice) Queues() []link.Queue                 { return []link.Queue{d} }
func (d *sinkDevice) Close() error                         { return nil }
func (d *sinkDevice) Read([]link.Frame) (int, error)       { return 0, link.ErrClosed }
func (d *sinkDevice) Write(f []link.OutFrame) (int, error) { return len(f), nil }
