package tapendpoint

import (
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/ustack/ustack/link"
)

// A sink is a Device that takes every frame and never has one.
type sink struct {
	once   sync.Once
	closed chan struct{}
}

func (s *sink) Info() link.Info {
	all := link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6
	return link.Info{Name: "sink", MTU: link.DefaultMTU, RX: all, TX: all}
}
func (s *sink) Queues() []link.Queue { return []link.Queue{s} }
func (s *sink) Stats() link.Stats    { return link.Stats{} }
func (s *sink) Close() error         { s.once.Do(func() { close(s.closed) }); return nil }

func (s *sink) Read([]link.Frame) (int, error) {
	<-s.closed
	return 0, link.ErrClosed
}

func (s *sink) Write(frames []link.OutFrame) (int, error) { return len(frames), nil }

// BenchmarkSend hands packets to a device that takes them at once: what the endpoint
// itself costs, for one segment, a batch of them, and a super-frame.
func BenchmarkSend(b *testing.B) {
	for _, c := range []struct {
		name           string
		packets, bytes int
	}{{"segment", 1, 1448}, {"batch", 16, 1448}, {"super-frame", 1, 64 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			dev := &sink{closed: make(chan struct{})}
			ep, err := New(Config{Device: dev, HardwareAddr: ownMAC, Observers: new(link.Observers)})
			if err != nil {
				b.Fatal(err)
			}
			defer ep.Stop()
			var list gstack.PacketBufferList
			for range c.packets {
				p := gstack.NewPacketBuffer(gstack.PacketBufferOptions{
					ReserveHeaderBytes: int(ep.MaxHeaderLength()) + header.IPv4MinimumSize + header.TCPMinimumSize,
					Payload:            buffer.MakeWithData(make([]byte, c.bytes)),
				})
				p.TransportHeader().Push(header.TCPMinimumSize)
				p.NetworkHeader().Push(header.IPv4MinimumSize)
				p.NetworkProtocolNumber = header.IPv4ProtocolNumber
				p.EgressRoute.RemoteLinkAddress = tcpip.LinkAddress(ownMAC)
				p.GSOOptions = gstack.GSO{Type: gstack.GSOTCPv4, NeedsCsum: true, CsumOffset: header.TCPChecksumOffset, MSS: 1460}
				ep.AddHeader(p)
				list.PushBack(p)
			}
			defer list.Reset()
			b.SetBytes(int64(c.packets * c.bytes))
			b.ReportAllocs()
			for b.Loop() {
				if n, terr := ep.WritePackets(list); n != c.packets || terr != nil {
					b.Fatalf("%d, %v", n, terr)
				}
			}
		})
	}
}

// BenchmarkReceiveSuper takes frames of 64 KiB in that the device vouches for.
func BenchmarkReceiveSuper(b *testing.B) {
	dev := &sink{closed: make(chan struct{})}
	ep, err := New(Config{Device: dev, HardwareAddr: ownMAC, Observers: new(link.Observers)})
	if err != nil {
		b.Fatal(err)
	}
	defer ep.Stop()
	ep.dispatcher = discard{}
	f := link.Frame{Buf: frame(ownMAC, 0x0800, make([]byte, 64<<10-100))}
	f.N = len(f.Buf)
	f.Offload = link.Offload{DataValid: true}
	in := []link.Frame{f}
	b.SetBytes(int64(f.N))
	b.ReportAllocs()
	for b.Loop() {
		ep.receive(in)
	}
}
