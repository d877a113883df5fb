package tapendpoint

import (
	"errors"
	"math/bits"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/ustack/ustack/link"
)

// readBatch is how many frames one Read may return. Only buffers that a driver
// fills are ever touched, so the others cost no memory.
const readBatch = 16

// read delivers one queue's frames until the device ends.
func (e *Endpoint) read(q link.Queue) {
	frames := make([]link.Frame, readBatch)
	for i := range frames {
		frames[i].Buf = make([]byte, link.MaxFrame)
	}
	for {
		n, err := q.Read(frames)
		if err != nil {
			if !errors.Is(err, link.ErrClosed) {
				e.log.Error("link has ended", "err", err)
			}
			e.end(err)
			return
		}
		for i := range frames[:n] {
			e.receive(&frames[i])
		}
	}
}

// receive hands one frame to the stack, or counts why it does not.
func (e *Endpoint) receive(f *link.Frame) {
	frame := f.Buf[:f.N]
	if len(frame) < header.EthernetMinimumSize {
		e.stats.rxShort.Add(1)
		return
	}
	e.mu.RLock()
	mac, dispatcher := e.mac, e.dispatcher
	e.mu.RUnlock()
	if dispatcher == nil {
		e.stats.rxDetached.Add(1)
		return
	}
	pktType, ours := classify(frame[:header.EthernetAddressSize], mac)
	if !ours {
		e.stats.rxOtherHost.Add(1)
		return
	}
	proto := header.Ethernet(frame).Type()
	if e.onARP != nil && proto == header.ARPProtocolNumber {
		e.seeARP(header.ARP(frame[header.EthernetMinimumSize:]), mac)
	}
	if e.onNA != nil && proto == header.IPv6ProtocolNumber {
		e.seeNeighbourAdvert(frame, mac)
	}

	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: copyFrame(frame)})
	defer pkt.DecRef()
	if _, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize); !ok {
		e.stats.rxShort.Add(1)
		return
	}
	pkt.PktType = pktType
	pkt.NetworkProtocolNumber = proto

	switch {
	case !e.csum: // netstack verifies every packet
		dispatcher.DeliverNetworkPacket(proto, pkt)
	case f.Offload.Vouched():
		e.deliver.RLock()
		dispatcher.DeliverNetworkPacket(proto, pkt)
		e.deliver.RUnlock()
	default:
		// Nobody vouched for this one, and a fragment can only be verified when it
		// has been put together: leave it all to netstack.
		e.deliver.Lock()
		e.verify.Store(true)
		dispatcher.DeliverNetworkPacket(proto, pkt)
		e.verify.Store(false)
		e.deliver.Unlock()
	}
}

// classify returns what a frame's destination means to the station mac.
func classify(dst []byte, mac tcpip.LinkAddress) (t tcpip.PacketType, ours bool) {
	switch {
	case string(dst) == string(mac):
		return tcpip.PacketHost, true
	case string(dst) == string(header.EthernetBroadcastAddress):
		return tcpip.PacketBroadcast, true
	case dst[0]&1 != 0:
		return tcpip.PacketMulticast, true
	}
	return tcpip.PacketOtherHost, false
}

// copyFrame copies a frame into pooled memory. Chunks come in powers of two, so
// a long frame is cut where one chunk would waste much; all headers are in the
// first piece.
func copyFrame(frame []byte) buffer.Buffer {
	const whole = 4096 // no cut below this many bytes
	var b buffer.Buffer
	for len(frame) > whole {
		n := 1 << (bits.Len(uint(len(frame))) - 1) // the largest power of two within
		if len(frame) > n*7/4 {
			n = min(len(frame), buffer.MaxChunkSize)
		}
		if err := b.Append(buffer.NewViewWithData(frame[:n])); err != nil {
			panic("tapendpoint: " + err.Error()) // a Buffer cannot be full here
		}
		frame = frame[n:]
	}
	if len(frame) > 0 {
		if err := b.Append(buffer.NewViewWithData(frame)); err != nil {
			panic("tapendpoint: " + err.Error())
		}
	}
	return b
}

// seeARP reports the sender of an ARP packet (RFC 826) that is not from us.
func (e *Endpoint) seeARP(arp header.ARP, mac tcpip.LinkAddress) {
	if !arp.IsValid() || string(arp.HardwareAddressSender()) == string(mac) {
		return
	}
	e.onARP([4]byte(arp.ProtocolAddressSender()), [6]byte(arp.HardwareAddressSender()))
}

// seeNeighbourAdvert reports the target of a neighbour advertisement that is not
// from us. One that came through a router is none (RFC 4861 section 7.1.2).
func (e *Endpoint) seeNeighbourAdvert(frame []byte, mac tcpip.LinkAddress) {
	const (
		nextHeader = header.EthernetMinimumSize + 6
		hopLimit   = header.EthernetMinimumSize + 7
		icmp       = header.EthernetMinimumSize + header.IPv6MinimumSize
		target     = icmp + header.ICMPv6HeaderSize + 4 // after the flags
	)
	if len(frame) < target+header.IPv6AddressSize || frame[nextHeader] != uint8(header.ICMPv6ProtocolNumber) ||
		frame[hopLimit] != header.NDPHopLimit || frame[icmp] != byte(header.ICMPv6NeighborAdvert) {
		return
	}
	sender := frame[header.EthernetAddressSize : 2*header.EthernetAddressSize]
	if string(sender) != string(mac) {
		e.onNA([16]byte(frame[target:target+header.IPv6AddressSize]), [6]byte(sender))
	}
}
