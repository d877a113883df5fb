package stack

import (
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// maxSynAcks is how many SYN-ACKs may wait to be written; those beyond are written
// by whoever made them.
const maxSynAcks = 256

// synAcks writes what the interface sends at once, except for SYN-ACKs, which a
// goroutine of its own writes. netstack makes a SYN-ACK while it holds the
// listener's lock, and its other processors spin until that is free: a write that
// the kernel answers before it returns, as one to a tap does, costs them all.
type synAcks struct {
	lower gstack.LinkWriter
	queue chan *gstack.PacketBuffer
	done  chan struct{} // closed by Close
	once  sync.Once
	wg    sync.WaitGroup
}

var _ gstack.QueueingDiscipline = (*synAcks)(nil)

func newSynAcks(lower gstack.LinkWriter) *synAcks {
	q := &synAcks{lower: lower, queue: make(chan *gstack.PacketBuffer, maxSynAcks), done: make(chan struct{})}
	q.wg.Go(q.run)
	return q
}

// WritePacket implements gstack.QueueingDiscipline.
func (q *synAcks) WritePacket(pkt *gstack.PacketBuffer) tcpip.Error {
	if isSynAck(pkt) {
		select {
		case q.queue <- pkt.IncRef():
			return nil
		default:
			pkt.DecRef()
		}
	}
	return q.write(pkt)
}

func isSynAck(pkt *gstack.PacketBuffer) bool {
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber {
		return false
	}
	h := header.TCP(pkt.TransportHeader().Slice())
	return len(h) >= header.TCPMinimumSize && h.Flags().Contains(header.TCPFlagSyn|header.TCPFlagAck)
}

func (q *synAcks) write(pkt *gstack.PacketBuffer) tcpip.Error {
	var list gstack.PacketBufferList
	list.PushBack(pkt)
	_, terr := q.lower.WritePackets(list)
	return terr
}

func (q *synAcks) run() {
	for {
		select {
		case pkt := <-q.queue:
			q.write(pkt) // what the device does not take it has counted
			pkt.DecRef()
		case <-q.done:
			return
		}
	}
}

// Close implements gstack.QueueingDiscipline.
func (q *synAcks) Close() {
	q.once.Do(func() { close(q.done) })
	q.wg.Wait()
	for {
		select {
		case pkt := <-q.queue:
			pkt.DecRef()
		default:
			return
		}
	}
}
