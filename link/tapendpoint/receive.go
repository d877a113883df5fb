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

// readBatch is how many frames one Read may return of a wire that merges segments
// itself, see groBatch for others. Only buffers that a driver fills are ever touched,
// so the others cost no memory.
const readBatch = 16

// read delivers one queue's frames until the device ends.
func (e *Endpoint) read(queue int) {
	receive, batch := e.receive, readBatch
	if e.merge {
		receive, batch = (&merger{e: e}).receive, groBatch
	}
	frames := make([]link.Frame, batch)
	for i := range frames {
		frames[i].Buf = make([]byte, link.MaxFrame)
	}
	if !e.merge {
		var first loan
		first.offer(&frames[0])
		defer first.release()
		receive = func(frames []link.Frame) {
			if first.take(e, &frames[0]) {
				frames = frames[1:]
			}
			e.receive(frames)
		}
	}
	for {
		n, err := e.queues[queue].Read(frames)
		if err != nil {
			if !errors.Is(err, link.ErrClosed) {
				e.log.Error("link has ended", "err", err)
			}
			e.end(err)
			return
		}
		if w := e.observers.Watching(); w != nil {
			e.receiveObserved(w, queue, frames[:n])
			continue
		}
		receive(frames[:n])
	}
}

// receive delivers frames one by one.
func (e *Endpoint) receive(frames []link.Frame) {
	for i := range frames {
		if in, drop := e.accept(&frames[i]); drop == "" {
			e.deliver(in, frames[i].Offload.Vouched())
		}
	}
}

// An incoming is a frame for this station.
type incoming struct {
	frame      []byte // an Ethernet header at least
	pktType    tcpip.PacketType
	dispatcher gstack.NetworkDispatcher
}

// accept returns what to hand to the stack, or counts why it is not and returns the
// counter's name, which it tells the device, too.
func (e *Endpoint) accept(f *link.Frame) (in incoming, drop string) {
	frame := f.Buf[:f.N]
	if len(frame) < header.EthernetMinimumSize {
		e.stats.rxShort.Add(1)
		f.Drop = rxShort
		return in, f.Drop
	}
	e.mu.RLock()
	mac, dispatcher := e.mac, e.dispatcher
	e.mu.RUnlock()
	if dispatcher == nil {
		e.stats.rxDetached.Add(1)
		f.Drop = rxDetached
		return in, f.Drop
	}
	pktType, ours := classify(frame[:header.EthernetAddressSize], mac)
	if !ours {
		e.stats.rxOtherHost.Add(1)
		f.Drop = rxOtherHost
		return in, f.Drop
	}
	proto := header.Ethernet(frame).Type()
	if e.onARP != nil && proto == header.ARPProtocolNumber {
		e.seeARP(header.ARP(frame[header.EthernetMinimumSize:]), mac)
	}
	if e.onNA != nil && proto == header.IPv6ProtocolNumber {
		e.seeNeighbourAdvert(frame, mac)
	}
	return incoming{frame, pktType, dispatcher}, ""
}

// deliver hands a copy of a frame to the stack. Unless its checksums are vouched for,
// netstack verifies them.
func (e *Endpoint) deliver(in incoming, vouched bool) {
	e.deliverCopy(in, copyFrame(in.frame), vouched)
}

// deliverCopy is deliver with the copy made, which it takes over. It may be of other
// content than in.frame, with the same Ethernet header.
func (e *Endpoint) deliverCopy(in incoming, data buffer.Buffer, vouched bool) {
	if vouched {
		e.vouched.RLock()
		e.handOver(in, data)
		e.vouched.RUnlock()
		return
	}
	// Nobody vouched for this one, and a fragment can only be verified when it has
	// been put together: leave it all to netstack.
	e.vouched.Lock()
	e.verify.Store(true)
	e.handOver(in, data)
	e.verify.Store(false)
	e.vouched.Unlock()
}

// handOver makes a packet of a frame's copy, and lets the stack have it.
func (e *Endpoint) handOver(in incoming, data buffer.Buffer) {
	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: data})
	defer pkt.DecRef()
	if _, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize); !ok {
		e.stats.rxShort.Add(1)
		return
	}
	proto := header.Ethernet(in.frame).Type()
	pkt.PktType = in.pktType
	pkt.NetworkProtocolNumber = proto
	in.dispatcher.DeliverNetworkPacket(proto, pkt)
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

// chunkFor returns how many of the n bytes of a frame that are left go into the next
// piece of pooled memory. Chunks come in powers of two, so a long frame is cut where
// one chunk would waste much; all headers are in the first piece.
func chunkFor(n int) int {
	const whole = 4096 // no cut below this many bytes
	if n <= whole {
		return n
	}
	c := 1 << (bits.Len(uint(n)) - 1) // the largest power of two within
	if n > c*7/4 {
		c = min(n, buffer.MaxChunkSize)
	}
	return c
}

// copyFrame copies a frame into pooled memory.
func copyFrame(frame []byte) buffer.Buffer {
	var b buffer.Buffer
	for len(frame) > 0 {
		n := chunkFor(len(frame))
		appendView(&b, buffer.NewViewWithData(frame[:n]))
		frame = frame[n:]
	}
	return b
}

// copyPieces copies a frame in pieces, which have total bytes, in the same way. It
// uses pieces up.
func copyPieces(pieces [][]byte, total int) buffer.Buffer {
	var b buffer.Buffer
	for total > 0 {
		room := chunkFor(total)
		total -= room
		v := buffer.NewView(room)
		for room > 0 {
			n := min(room, len(pieces[0]))
			v.Write(pieces[0][:n])
			if pieces[0], room = pieces[0][n:], room-n; len(pieces[0]) == 0 {
				pieces = pieces[1:]
			}
		}
		appendView(&b, v)
	}
	return b
}

func appendView(b *buffer.Buffer, v *buffer.View) {
	if err := b.Append(v); err != nil {
		panic("tapendpoint: " + err.Error()) // a Buffer cannot be full here
	}
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
