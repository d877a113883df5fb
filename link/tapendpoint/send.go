package tapendpoint

import (
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/ustack/ustack/link"
)

// A sendBatch is the scratch space of one WritePackets call.
type sendBatch struct {
	frames []link.OutFrame
	pieces [][]byte
}

var batches = sync.Pool{New: func() any { return new(sendBatch) }}

// WritePackets implements gstack.LinkWriter. Packets of one call that belong to
// the same flow leave in order. What the device does not take it has dropped and
// counted: transports treat that as loss, so it is no error here.
func (e *Endpoint) WritePackets(pkts gstack.PacketBufferList) (int, tcpip.Error) {
	list := pkts.AsSlice()
	if w := e.observers.Watching(); w != nil {
		return e.writeObserved(w, list), nil
	}
	b := batches.Get().(*sendBatch)
	for i := 0; i < len(list); {
		q := e.queueFor(list[i])
		b.frames, b.pieces = b.frames[:0], b.pieces[:0]
		for ; i < len(list) && e.queueFor(list[i]) == q; i++ {
			b.add(list[i])
		}
		b.cut()
		if _, err := e.queues[q].Write(b.frames); err != nil {
			e.stats.txEnded.Add(uint64(len(b.frames)))
		}
	}
	b.release()
	return len(list), nil
}

// queueFor returns the queue of a packet's flow. Only TCP sets Hash; all else
// shares the first queue, which keeps its order.
func (e *Endpoint) queueFor(pkt *gstack.PacketBuffer) int {
	return int(pkt.Hash % uint32(len(e.queues)))
}

// add appends a packet's views as one frame. Its pieces are counted first and
// cut by cut, since pieces may move while it grows.
func (b *sendBatch) add(pkt *gstack.PacketBuffer) {
	start := len(b.pieces)
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		s := v.AsSlice()
		if skip >= len(s) {
			skip -= len(s)
			continue
		}
		b.pieces = append(b.pieces, s[skip:])
		skip = 0
	}
	b.frames = append(b.frames, link.OutFrame{
		Pieces:  b.pieces[start:len(b.pieces):len(b.pieces)],
		Offload: offload(pkt),
	})
}

// cut points every frame at its pieces again, after the last of them was added.
func (b *sendBatch) cut() {
	at := 0
	for i := range b.frames {
		n := len(b.frames[i].Pieces)
		b.frames[i].Pieces = b.pieces[at : at+n : at+n]
		at += n
	}
}

// release forgets the packets' memory and returns the scratch space.
func (b *sendBatch) release() {
	clear(b.frames[:cap(b.frames)])
	clear(b.pieces[:cap(b.pieces)])
	batches.Put(b)
}

// offload translates netstack's GSO options.
func offload(pkt *gstack.PacketBuffer) link.Offload {
	gso := &pkt.GSOOptions
	if gso.Type == gstack.GSONone || gso.Type == gstack.GSOGvisor || !gso.NeedsCsum {
		return link.Offload{}
	}
	network := len(pkt.NetworkHeader().Slice())
	headers := header.EthernetMinimumSize + network + len(pkt.TransportHeader().Slice())
	o := link.Offload{
		NeedsCsum:  true,
		CsumStart:  uint16(header.EthernetMinimumSize + network),
		CsumOffset: gso.CsumOffset,
	}
	if pkt.Size()-headers > int(gso.MSS) {
		o.GSOType = link.GSOTCPv4
		if gso.Type == gstack.GSOTCPv6 {
			o.GSOType = link.GSOTCPv6
		}
		o.GSOSize = gso.MSS
		o.HdrLen = uint16(headers)
	}
	return o
}
