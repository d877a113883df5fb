//go:build !race

package tapendpoint

import (
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/ustack/ustack/link"
)

// TestNoAllocations sends and receives frames in steady state: nothing is allocated for
// one, and netstack's packets come from its pools. With the race detector pools forget
// some of what they are given. There could be observers, and are none.
func TestNoAllocations(t *testing.T) {
	dev := &sink{closed: make(chan struct{})}
	ep, err := New(Config{Device: dev, HardwareAddr: ownMAC, Observers: new(link.Observers)})
	if err != nil {
		t.Fatal(err)
	}
	defer ep.Stop()
	ep.dispatcher = discard{}
	for _, size := range []int{100, 1448, 16 << 10, 63 << 10} {
		p := gstack.NewPacketBuffer(gstack.PacketBufferOptions{
			ReserveHeaderBytes: int(ep.MaxHeaderLength()) + header.IPv4MinimumSize + header.TCPMinimumSize,
			Payload:            buffer.MakeWithData(make([]byte, size)),
		})
		p.TransportHeader().Push(header.TCPMinimumSize)
		p.NetworkHeader().Push(header.IPv4MinimumSize)
		p.NetworkProtocolNumber = header.IPv4ProtocolNumber
		p.EgressRoute.RemoteLinkAddress = tcpip.LinkAddress(ownMAC)
		p.GSOOptions = gstack.GSO{Type: gstack.GSOTCPv4, NeedsCsum: true, CsumOffset: header.TCPChecksumOffset, MSS: 1460}
		ep.AddHeader(p)
		var list gstack.PacketBufferList
		list.PushBack(p)
		if n := testing.AllocsPerRun(1000, func() { ep.WritePackets(list) }); n != 0 {
			t.Errorf("%d bytes: %v allocations for each frame sent", size, n)
		}
		list.Reset()

		f := link.Frame{Buf: frame(ownMAC, 0x0800, make([]byte, size))}
		f.N = len(f.Buf)
		f.Offload = link.Offload{DataValid: true}
		in := []link.Frame{f}
		if n := testing.AllocsPerRun(1000, func() { ep.receive(in) }); n != 0 {
			t.Errorf("%d bytes: %v allocations for each frame received", size, n)
		}
	}
}
