package tapendpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/ustack/ustack/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	ownMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	peerMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	ownIP    = tcpip.AddrFrom4([4]byte{10, 0, 0, 1})
	peerIP   = tcpip.AddrFrom4([4]byte{10, 0, 0, 2})
	vouching = link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6
)

// A recorder is a dispatcher that keeps what it is given.
type recorder struct {
	mu   sync.Mutex
	got  []delivered
	more chan struct{}
	ep   *Endpoint
}

type delivered struct {
	proto    tcpip.NetworkProtocolNumber
	pktType  tcpip.PacketType
	data     []byte // behind the Ethernet header
	verified bool   // netstack was told that the checksums are fine
}

func (r *recorder) DeliverNetworkPacket(proto tcpip.NetworkProtocolNumber, pkt *gstack.PacketBuffer) {
	r.mu.Lock()
	r.got = append(r.got, delivered{proto, pkt.PktType, pkt.Data().AsRange().ToSlice(),
		r.ep.Capabilities()&gstack.CapabilityRXChecksumOffload != 0})
	r.mu.Unlock()
	r.more <- struct{}{}
}

func (r *recorder) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *gstack.PacketBuffer) {}

func (r *recorder) next(t *testing.T) delivered {
	t.Helper()
	select {
	case <-r.more:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was delivered")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.got[0]
	r.got = r.got[1:]
	return d
}

// start returns an endpoint that delivers to a recorder, and the far end of its
// wire.
func start(t *testing.T, cfg link.PipeConfig) (*Endpoint, *recorder, link.Queue) {
	t.Helper()
	wire, far := link.Pipe(cfg)
	ep, err := New(Config{Device: wire, HardwareAddr: ownMAC})
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{more: make(chan struct{}, 64), ep: ep}
	ep.Attach(r)
	ep.Start()
	t.Cleanup(func() { ep.Stop(); far.Close() })
	return ep, r, far.Queues()[0]
}

func frame(dst net.HardwareAddr, proto uint16, payload []byte) []byte {
	f := append(append(bytes.Clone(dst), peerMAC...), byte(proto>>8), byte(proto))
	return append(f, payload...)
}

func send(t *testing.T, q link.Queue, f []byte, o link.Offload) {
	t.Helper()
	if n, err := q.Write([]link.OutFrame{{Pieces: [][]byte{f}, Offload: o}}); n != 1 || err != nil {
		t.Fatalf("write to the wire: %d, %v", n, err)
	}
}

func TestReceive(t *testing.T) {
	ep, r, far := start(t, link.PipeConfig{})
	payload := []byte("0123456789")
	for _, tc := range []struct {
		name string
		dst  net.HardwareAddr
		want tcpip.PacketType
	}{
		{"own", ownMAC, tcpip.PacketHost},
		{"broadcast", net.HardwareAddr{255, 255, 255, 255, 255, 255}, tcpip.PacketBroadcast},
		{"multicast", net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, tcpip.PacketMulticast},
	} {
		send(t, far, frame(net.HardwareAddr{2, 7, 7, 7, 7, 7}, 0x0800, payload), link.Offload{}) // skipped, not the end
		send(t, far, frame(tc.dst, 0x86dd, payload), link.Offload{})
		got := r.next(t)
		if got.pktType != tc.want || got.proto != 0x86dd || !bytes.Equal(got.data, payload) {
			t.Errorf("%s: delivered %+v", tc.name, got)
		}
		if got.verified {
			t.Errorf("%s: a frame nobody vouched for counts as verified", tc.name)
		}
	}
	if n := ep.Stats().Drops["rx_otherhost"]; n != 3 {
		t.Errorf("%d frames for other stations counted, want 3", n)
	}
}

// TestVouched mixes frames that somebody vouched for with others: only the
// former may skip netstack's verification.
func TestVouched(t *testing.T) {
	_, r, far := start(t, link.PipeConfig{Offloads: vouching})
	payload := make([]byte, 60)
	for i := range 50 {
		o := link.Offload{}
		if i%3 != 0 {
			o = link.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 16}
		}
		send(t, far, frame(ownMAC, 0x0800, payload), o)
		if got := r.next(t); got.verified != o.NeedsCsum {
			t.Fatalf("frame %d with %+v: verified %v", i, o, got.verified)
		}
	}
}

// TestFragmentsAreVerified sends a UDP datagram with a wrong checksum in two
// fragments through an interface that may vouch: netstack must still verify it.
func TestFragmentsAreVerified(t *testing.T) {
	wire, far := link.Pipe(link.PipeConfig{Offloads: vouching})
	defer far.Close()
	ep, err := New(Config{Device: wire, HardwareAddr: ownMAC})
	if err != nil {
		t.Fatal(err)
	}
	s := gstack.New(gstack.Options{
		NetworkProtocols:   []gstack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []gstack.TransportProtocolFactory{udp.NewProtocol},
	})
	if terr := s.CreateNIC(1, ep); terr != nil {
		t.Fatal(terr)
	}
	ep.Start()
	defer func() { s.Close(); ep.Stop(); s.Wait() }()
	s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: ownIP.WithPrefix()}, gstack.AddressProperties{})
	var wq waiter.Queue
	sock, terr := s.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, &wq)
	if terr != nil {
		t.Fatal(terr)
	}
	defer sock.Close()
	if terr := sock.Bind(tcpip.FullAddress{Port: 9}); terr != nil {
		t.Fatal(terr)
	}
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	wq.EventRegister(&entry)

	queue := far.Queues()[0]
	for i, wrong := range []uint16{0x1111, 0} {
		datagram := make([]byte, 16+8)
		u := header.UDP(datagram)
		u.Encode(&header.UDPFields{SrcPort: 1, DstPort: 9, Length: uint16(len(datagram))})
		xsum := header.PseudoHeaderChecksum(udp.ProtocolNumber, peerIP, ownIP, uint16(len(datagram)))
		u.SetChecksum(^checksum.Checksum(datagram, xsum) ^ wrong)
		for _, part := range []struct {
			at   int
			more uint8
		}{{0, header.IPv4FlagMoreFragments}, {16, 0}} {
			data := datagram[part.at:min(part.at+16, len(datagram))]
			ip := header.IPv4(make([]byte, header.IPv4MinimumSize))
			ip.Encode(&header.IPv4Fields{
				TotalLength: uint16(len(ip) + len(data)), ID: uint16(7 + i), Flags: part.more, FragmentOffset: uint16(part.at),
				TTL: 64, Protocol: uint8(udp.ProtocolNumber), SrcAddr: peerIP, DstAddr: ownIP,
			})
			ip.SetChecksum(^ip.CalculateChecksum())
			send(t, queue, frame(ownMAC, 0x0800, append(ip, data...)), link.Offload{})
		}
	}
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		t.Fatal("the good datagram was not delivered")
	}
	if n := s.Stats().UDP.ChecksumErrors.Value(); n != 1 {
		t.Errorf("%d checksum errors, want 1: the bad datagram passed unverified", n)
	}
}

func TestSend(t *testing.T) {
	ep, _, far := start(t, link.PipeConfig{Offloads: vouching})
	if ep.SupportedGSO() != gstack.HostGSOSupported {
		t.Error("a device that takes TSO is not used for it")
	}
	payload := bytes.Repeat([]byte("payload."), 1000)
	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{
		ReserveHeaderBytes: int(ep.MaxHeaderLength()) + header.IPv4MinimumSize + header.TCPMinimumSize,
		Payload:            buffer.MakeWithData(payload),
	})
	defer pkt.DecRef()
	pkt.TransportHeader().Push(header.TCPMinimumSize)
	pkt.NetworkHeader().Push(header.IPv4MinimumSize)
	pkt.NetworkProtocolNumber = ipv4.ProtocolNumber
	pkt.EgressRoute.LocalLinkAddress = tcpip.LinkAddress(ownMAC)
	pkt.EgressRoute.RemoteLinkAddress = tcpip.LinkAddress(peerMAC)
	pkt.GSOOptions = gstack.GSO{Type: gstack.GSOTCPv4, NeedsCsum: true, CsumOffset: header.TCPChecksumOffset, MSS: 1460}
	ep.AddHeader(pkt)
	var list gstack.PacketBufferList
	list.PushBack(pkt)
	if n, terr := ep.WritePackets(list); n != 1 || terr != nil {
		t.Fatalf("WritePackets: %d, %v", n, terr)
	}
	got := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
	if n, err := far.Read(got); n != 1 || err != nil {
		t.Fatalf("read from the wire: %d, %v", n, err)
	}
	f := got[0].Buf[:got[0].N]
	if want := append(append(bytes.Clone(peerMAC), ownMAC...), 8, 0); !bytes.Equal(f[:14], want) {
		t.Errorf("Ethernet header % x, want % x", f[:14], want)
	}
	if len(f) != 14+20+20+len(payload) || !bytes.Equal(f[54:], payload) {
		t.Errorf("frame of %d bytes, want %d with the payload", len(f), 54+len(payload))
	}
	want := link.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 16, GSOType: link.GSOTCPv4, GSOSize: 1460, HdrLen: 54}
	if got[0].Offload != want {
		t.Errorf("offload %+v, want %+v", got[0].Offload, want)
	}
}

func TestCopyFrame(t *testing.T) {
	for _, n := range []int{14, 60, 1514, 4096, 4097, 9014, 33000, 40000, 65440, 65536, 65550, link.MaxFrame} {
		frame := make([]byte, n)
		for i := range frame {
			frame[i] = byte(i ^ i>>8)
		}
		b := copyFrame(frame)
		if !bytes.Equal(b.Flatten(), frame) {
			t.Errorf("%d bytes: content changed", n)
		}
		first := b.AsViewList()
		if v := first.Front(); v.Size() < min(n, 128) {
			t.Errorf("%d bytes: first piece of %d bytes cannot hold the headers", n, v.Size())
		}
		b.Release()
	}
}

func TestARPIsSeen(t *testing.T) {
	wire, far := link.Pipe(link.PipeConfig{})
	defer far.Close()
	type sender struct {
		ip  [4]byte
		mac [6]byte
	}
	seen := make(chan sender, 8)
	ep, err := New(Config{Device: wire, HardwareAddr: ownMAC, OnARP: func(ip [4]byte, mac [6]byte) { seen <- sender{ip, mac} }})
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{more: make(chan struct{}, 8), ep: ep}
	ep.Attach(r)
	ep.Start()
	defer ep.Stop()
	arp := header.ARP(make([]byte, header.ARPSize))
	arp.SetIPv4OverEthernet()
	arp.SetOp(header.ARPRequest)
	copy(arp.HardwareAddressSender(), peerMAC)
	copy(arp.ProtocolAddressSender(), peerIP.AsSlice())
	queue := far.Queues()[0]
	send(t, queue, frame(ownMAC, 0x0806, arp[:10]), link.Offload{}) // cut short
	r.next(t)
	send(t, queue, frame(ownMAC, 0x0806, arp), link.Offload{})
	r.next(t)
	if got := <-seen; got != (sender{[4]byte{10, 0, 0, 2}, [6]byte(peerMAC)}) || len(seen) > 0 {
		t.Errorf("saw %v", got)
	}
}

func TestEnds(t *testing.T) {
	wire, far := link.Pipe(link.PipeConfig{})
	ep, err := New(Config{Device: wire, HardwareAddr: ownMAC})
	if err != nil {
		t.Fatal(err)
	}
	ep.Attach(&recorder{ep: ep})
	ep.Start()
	if err := ep.Err(); err != nil {
		t.Errorf("Err of a running endpoint: %v", err)
	}
	far.Close()
	<-ep.Done()
	if err := ep.Err(); !errors.Is(err, link.ErrGone) {
		t.Errorf("Err after the wire went away: %v", err)
	}
	if err := ep.Stop(); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if err := ep.Stop(); err != nil {
		t.Errorf("Stop again: %v", err)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(frame(ownMAC, 0x0800, []byte{0x45}), false)
	f.Add(frame(ownMAC, 0x0806, make([]byte, 28)), true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, b []byte, vouched bool) {
		if len(b) > link.MaxFrame {
			return
		}
		wire, far := link.Pipe(link.PipeConfig{Offloads: vouching})
		defer far.Close()
		ep, err := New(Config{Device: wire, HardwareAddr: ownMAC, OnARP: func([4]byte, [6]byte) {}})
		if err != nil {
			t.Fatal(err)
		}
		defer ep.Stop()
		s := gstack.New(gstack.Options{NetworkProtocols: []gstack.NetworkProtocolFactory{ipv4.NewProtocol}})
		if terr := s.CreateNIC(1, ep); terr != nil {
			t.Fatal(terr)
		}
		defer func() { s.Close(); ep.Stop(); s.Wait() }()
		ep.receive([]link.Frame{{Buf: b, N: len(b), Offload: link.Offload{DataValid: vouched}}})
	})
}

func BenchmarkReceive(b *testing.B) {
	wire, far := link.Pipe(link.PipeConfig{})
	defer far.Close()
	ep, err := New(Config{Device: wire, HardwareAddr: ownMAC})
	if err != nil {
		b.Fatal(err)
	}
	defer ep.Stop()
	ep.dispatcher = discard{}
	f := link.Frame{Buf: frame(ownMAC, binary.BigEndian.Uint16([]byte{8, 0}), make([]byte, 1500))}
	f.N = len(f.Buf)
	in := []link.Frame{f}
	b.ReportAllocs()
	b.SetBytes(int64(f.N))
	for b.Loop() {
		ep.receive(in)
	}
}

type discard struct{}

func (discard) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *gstack.PacketBuffer) {}
func (discard) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *gstack.PacketBuffer)    {}
