package tapendpoint

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/ustack/ustack/link"
)

var (
	ownIP6  = tcpip.AddrFrom16([16]byte{0xfd, 15: 1})
	peerIP6 = tcpip.AddrFrom16([16]byte{0xfd, 15: 2})
)

// A victim is a stack with all protocols, a TCP port that listens, a TCP connection
// and a UDP port, on an endpoint whose device vouches for checksums.
type victim struct {
	ep       *Endpoint
	far      link.Queue
	udp, tcp tcpip.Endpoint
	accept   chan struct{} // a connection can be accepted
	synAcks  chan []byte   // the TCP headers that the stack has sent with SYN

	port     uint16 // the peer's of the connection
	seq, ack uint32 // of the peer's next segment
}

const victimPort = 80

func newVictim(t testing.TB) *victim {
	t.Helper()
	wire, far := link.Pipe(link.PipeConfig{Offloads: vouching})
	ep, err := New(Config{
		Device: wire, HardwareAddr: ownMAC,
		OnARP: func([4]byte, [6]byte) {}, OnNeighbourAdvert: func([16]byte, [6]byte) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := gstack.New(gstack.Options{
		NetworkProtocols:   []gstack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	var readers sync.WaitGroup
	t.Cleanup(func() { ep.Stop(); s.Destroy(); far.Close(); readers.Wait() })
	must := func(err tcpip.Error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.CreateNIC(1, ep))
	for proto, a := range map[tcpip.NetworkProtocolNumber][2]tcpip.Address{
		ipv4.ProtocolNumber: {ownIP, peerIP}, ipv6.ProtocolNumber: {ownIP6, peerIP6},
	} {
		must(s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: a[0].WithPrefix()}, gstack.AddressProperties{}))
		must(s.AddStaticNeighbor(1, proto, a[1], tcpip.LinkAddress(peerMAC)))
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}, {Destination: header.IPv6EmptySubnet, NIC: 1}})

	v := &victim{ep: ep, far: far.Queues()[0], synAcks: make(chan []byte, 64), port: 4000}
	listen := func(proto tcpip.TransportProtocolNumber, wq *waiter.Queue) tcpip.Endpoint {
		sock, err := s.NewEndpoint(proto, ipv6.ProtocolNumber, wq) // both families
		must(err)
		t.Cleanup(sock.Close)
		must(sock.Bind(tcpip.FullAddress{Port: victimPort}))
		return sock
	}
	v.udp = listen(udp.ProtocolNumber, new(waiter.Queue))
	accepts := new(waiter.Queue)
	var entry waiter.Entry
	entry, v.accept = waiter.NewChannelEntry(waiter.ReadableEvents)
	accepts.EventRegister(&entry)
	v.tcp = listen(tcp.ProtocolNumber, accepts)
	must(v.tcp.Listen(10))
	readers.Go(v.watch)
	v.connect(t)
	return v
}

// watch reads what the stack sends, until the wire ends.
func (v *victim) watch() {
	in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
	for {
		if _, err := v.far.Read(in); err != nil {
			return
		}
		f := in[0].Buf[:in[0].N]
		if len(f) < 54 || f[12] != 8 || f[13] != 0 || f[14+9] != uint8(tcp.ProtocolNumber) || !header.TCP(f[34:]).Flags().Contains(header.TCPFlagSyn) {
			continue
		}
		select {
		case v.synAcks <- bytes.Clone(f[34:]):
		default:
		}
	}
}

// connect makes a connection to the listening port by hand.
func (v *victim) connect(t testing.TB) {
	t.Helper()
	vouched := link.Offload{DataValid: true}
	patience := time.After(10 * time.Second)
	v.port++
	v.seq, v.ack = 0, 0
	v.deliver(v.segment(header.TCPFlagSyn, nil), vouched)
	for v.ack == 0 {
		select {
		case h := <-v.synAcks:
			if header.TCP(h).DestinationPort() == v.port {
				v.ack = header.TCP(h).SequenceNumber() + 1
			}
		case <-patience:
			t.Fatal("the stack does not answer a SYN")
		}
	}
	v.seq = 1
	v.deliver(v.segment(header.TCPFlagAck, nil), vouched)
	for {
		var peer tcpip.FullAddress
		if conn, _, err := v.tcp.Accept(&peer); err == nil {
			t.Cleanup(conn.Close)
			if peer.Port == v.port {
				return
			}
			continue
		}
		select {
		case <-v.accept:
		case <-patience:
			t.Fatal("the stack has not accepted a connection")
		}
	}
}

// deliver is what a Read of the device would do, without its checks.
func (v *victim) deliver(f []byte, o link.Offload) {
	v.ep.receive([]link.Frame{{Buf: f, N: len(f), Offload: o}})
}

// ipv4Frame and ipv6Frame return a frame from the peer; no transport checksum is
// right.
func ipv4Frame(proto uint8, payload []byte, fragment uint16, flags uint8) []byte {
	b := make([]byte, header.IPv4MinimumSize)
	header.IPv4(b).Encode(&header.IPv4Fields{
		TotalLength: uint16(len(b) + len(payload)), TTL: 64, Protocol: proto, ID: 7,
		FragmentOffset: fragment, Flags: flags, SrcAddr: peerIP, DstAddr: ownIP,
	})
	header.IPv4(b).SetChecksum(^header.IPv4(b).CalculateChecksum())
	return frame(ownMAC, uint16(ipv4.ProtocolNumber), append(b, payload...))
}

func ipv6Frame(next uint8, payload []byte) []byte {
	b := make([]byte, header.IPv6MinimumSize)
	b[0], b[6], b[7] = 6<<4, next, 255
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], peerIP6.AsSlice())
	copy(b[24:], ownIP6.AsSlice())
	return frame(ownMAC, uint16(ipv6.ProtocolNumber), append(b, payload...))
}

func (v *victim) tcpSegment(flags header.TCPFlags, payload []byte) []byte {
	b := make([]byte, header.TCPMinimumSize)
	header.TCP(b).Encode(&header.TCPFields{
		SrcPort: v.port, DstPort: victimPort, SeqNum: v.seq, AckNum: v.ack,
		DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 65535,
	})
	return append(b, payload...)
}

func (v *victim) segment(flags header.TCPFlags, payload []byte) []byte {
	return ipv4Frame(uint8(tcp.ProtocolNumber), v.tcpSegment(flags, payload), 0, 0)
}

func datagram(payload []byte) []byte {
	b := make([]byte, header.UDPMinimumSize)
	header.UDP(b).Encode(&header.UDPFields{SrcPort: 4000, DstPort: victimPort, Length: uint16(len(b) + len(payload))})
	return append(b, payload...)
}

// frames returns frames of all kinds, which are right but for their checksums.
func (v *victim) frames() [][]byte {
	const nextTCP, nextUDP, nextICMP, nextICMPv6 = 6, 17, 1, 58
	data := bytes.Repeat([]byte("ustack"), 2000)
	solicit := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, ownIP6.AsSlice()...)
	advert := append([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, peerIP6.AsSlice()...)
	hopByHop := append([]byte{nextTCP, 0, 1, 4, 0, 0, 0, 0}, v.tcpSegment(header.TCPFlagSyn, nil)...)
	fragment6 := append([]byte{nextUDP, 0, 0, 1, 0, 0, 0, 9}, datagram(data[:64])...)
	return [][]byte{
		v.segment(header.TCPFlagSyn, nil),
		v.segment(header.TCPFlagAck|header.TCPFlagPsh, data[:1000]),
		v.segment(header.TCPFlagAck, data), // a super-frame
		v.segment(header.TCPFlagAck|header.TCPFlagFin, data[:10]),
		v.segment(header.TCPFlagRst, nil),
		ipv6Frame(nextTCP, v.tcpSegment(header.TCPFlagSyn, nil)),
		ipv6Frame(nextTCP, v.tcpSegment(header.TCPFlagAck, data)),
		ipv6Frame(0, hopByHop),
		ipv4Frame(nextUDP, datagram(data[:100]), 0, 0),
		ipv6Frame(nextUDP, datagram(data[:100])),
		ipv4Frame(nextUDP, datagram(data[:56]), 0, header.IPv4FlagMoreFragments),
		ipv4Frame(nextUDP, data[:40], 64, 0),
		ipv6Frame(44, fragment6),
		ipv4Frame(nextICMP, append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, data[:56]...), 0, 0),
		ipv4Frame(nextICMP, append([]byte{3, 4, 0, 0, 0, 0, 0, 68}, v.segment(header.TCPFlagAck, nil)[14:]...), 0, 0),
		ipv6Frame(nextICMPv6, append([]byte{128, 0, 0, 0, 0, 1, 0, 1}, data[:56]...)),
		ipv6Frame(nextICMPv6, solicit),
		ipv6Frame(nextICMPv6, advert),
		ipv6Frame(nextICMPv6, append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, ipv6Frame(nextTCP, v.tcpSegment(header.TCPFlagAck, nil))[14:]...)),
		frame(ownMAC, 0x0806, make([]byte, 28)),
	}
}

// alive wants the stack to receive one more datagram.
func (v *victim) alive(t testing.TB) {
	t.Helper()
	mark := []byte("still there?")
	v.deliver(ipv4Frame(uint8(udp.ProtocolNumber), datagram(mark), 0, 0), link.Offload{DataValid: true})
	for {
		var b bytes.Buffer
		if _, err := v.udp.Read(&b, tcpip.ReadOptions{}); err != nil {
			if _, empty := err.(*tcpip.ErrWouldBlock); !empty {
				t.Fatal(err)
			}
			t.Fatal("the stack has not received a datagram") // delivery is synchronous
		}
		if bytes.Equal(b.Bytes(), mark) {
			return
		}
	}
}

// forge returns metadata of which nothing needs to fit.
func forge(rng *rand.Rand) link.Offload {
	pick := func() uint16 {
		return []uint16{0, 1, 13, 14, 34, 54, 65535, uint16(rng.Uint32()), uint16(rng.IntN(100))}[rng.IntN(9)]
	}
	return link.Offload{
		NeedsCsum: rng.IntN(4) != 0, DataValid: rng.IntN(2) == 0, ECN: rng.IntN(2) == 0,
		GSOType: []link.GSOType{link.GSONone, link.GSOTCPv4, link.GSOTCPv6, 3, link.GSOType(rng.Uint32())}[rng.IntN(5)],
		HdrLen:  pick(), GSOSize: pick(), CsumStart: pick(), CsumOffset: pick(),
	}
}

// Frames with all kinds of wrong metadata, whole, cut off and damaged, leave the stack
// as it was.
func TestForgedOffload(t *testing.T) {
	v := newVictim(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		if i%3 == 2 {
			v.connect(t) // a frame may have ended the one before
		}
		for _, f := range v.frames() {
			switch rng.IntN(3) {
			case 0:
				f = f[:rng.IntN(len(f)+1)]
			case 1:
				for range 1 + rng.IntN(3) {
					f[12+rng.IntN(min(len(f)-12, 80))] = byte(rng.Uint32())
				}
			}
			v.deliver(f, forge(rng))
		}
		v.drain()
	}
	v.connect(t)
	v.alive(t)
}

// drain empties the UDP socket's buffer.
func (v *victim) drain() {
	for {
		if _, err := v.udp.Read(&bytes.Buffer{}, tcpip.ReadOptions{}); err != nil {
			return
		}
	}
}

// A device that is right drops what is forged before the stack sees it.
func TestForgedOffloadOnTheWire(t *testing.T) {
	v := newVictim(t)
	f := v.frames()[2]
	for _, o := range []link.Offload{
		{NeedsCsum: true, CsumStart: 65535, CsumOffset: 16, GSOType: link.GSOTCPv4, GSOSize: 1448},
		{NeedsCsum: true, CsumStart: 34, CsumOffset: 65535, GSOType: link.GSOTCPv4, GSOSize: 1448},
		{NeedsCsum: true, CsumStart: 34, CsumOffset: 16, GSOType: link.GSOTCPv4},
		{NeedsCsum: true, CsumStart: 34, CsumOffset: 16, GSOType: 5, GSOSize: 1448},
		{ECN: true},
	} {
		if n, err := v.far.Write([]link.OutFrame{{Pieces: [][]byte{f}, Offload: o}}); n != 0 || err != nil {
			t.Errorf("%+v: Write = %d, %v", o, n, err)
		}
	}
	v.alive(t)
}

// One stack receives all frames of a run: building one takes longer than a thousand
// frames.
func FuzzForgedOffload(f *testing.F) {
	v := newVictim(f)
	rng := rand.New(rand.NewPCG(3, 4))
	for _, b := range v.frames() {
		o := forge(rng)
		f.Add(b, uint8(o.GSOType), o.GSOSize, o.HdrLen, o.CsumStart, o.CsumOffset, byte(7))
	}
	f.Fuzz(func(t *testing.T, b []byte, typ uint8, size, hdr, start, offset uint16, flags byte) {
		if len(b) > link.MaxFrame {
			return
		}
		b = bytes.Clone(b)
		copy(b, ownMAC)
		v.deliver(b, link.Offload{
			NeedsCsum: flags&1 != 0, DataValid: flags&2 != 0, ECN: flags&4 != 0,
			GSOType: link.GSOType(typ), GSOSize: size, HdrLen: hdr, CsumStart: start, CsumOffset: offset,
		})
		v.drain()
	})
}
