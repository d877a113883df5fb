package tapendpoint

import (
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/ustack/ustack/link"
)

// An orderly dispatcher wants every flow's bytes one after the other.
type orderly struct {
	t    *testing.T
	all  chan struct{} // closed when total bytes have come
	more chan struct{} // has room for one: something came

	mu      sync.Mutex
	next    map[uint16]uint32 // by source port
	left    int
	packets int
	stopped bool // nothing may come any more
}

func newOrderly(t *testing.T, total int) *orderly {
	return &orderly{t: t, all: make(chan struct{}), more: make(chan struct{}, 1), next: make(map[uint16]uint32), left: total}
}

func (o *orderly) DeliverNetworkPacket(proto tcpip.NetworkProtocolNumber, pkt *gstack.PacketBuffer) {
	f := frame(ownMAC, uint16(proto), pkt.Data().AsRange().ToSlice())
	p := parse(f)
	h := header.TCP(f[p.l4:])
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stopped {
		o.t.Error("delivered after Stop")
	}
	port, n := h.SourcePort(), p.end-p.data
	if h.SequenceNumber() != o.next[port] {
		o.t.Errorf("flow %d: bytes from %d on, want %d", port, h.SequenceNumber(), o.next[port])
	}
	o.next[port] = h.SequenceNumber() + uint32(n)
	o.packets++
	if o.left -= n; o.left == 0 {
		close(o.all)
	}
	select {
	case o.more <- struct{}{}:
	default:
	}
}

func (o *orderly) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *gstack.PacketBuffer) {}

// wires with segments that are merged, and without.
func mergedOrNot() map[string]link.Offloads {
	return map[string]link.Offloads{"merged": 0, "as they came": vouching}
}

// feed writes the segments of two flows, in turns, to a queue of their own.
func feed(q link.Queue, port uint16, segments, size int) {
	for i := range segments {
		for k := range uint16(2) {
			f := seg{port: port + k, v6: k == 1, seq: uint32(i * size), n: size}.frame()
			q.Write([]link.OutFrame{{Pieces: [][]byte{f}}}) // whose loss shows
		}
	}
}

// The segments of a flow come in the order of its queue, however many queues are
// read at once.
func TestQueuesKeepOrder(t *testing.T) {
	const queues, segments, size = 2, 500, 200
	for name, offloads := range mergedOrNot() {
		t.Run(name, func(t *testing.T) {
			wire, far := link.Pipe(link.PipeConfig{Queues: queues, Offloads: offloads, Depth: 2 * segments})
			defer far.Close()
			ep, err := New(Config{Device: wire, HardwareAddr: ownMAC})
			if err != nil {
				t.Fatal(err)
			}
			defer ep.Stop()
			o := newOrderly(t, 2*queues*segments*size)
			ep.Attach(o)
			ep.Start()
			var writers sync.WaitGroup
			for i := range queues {
				writers.Go(func() { feed(far.Queues()[i], uint16(2*i), segments, size) })
			}
			select {
			case <-o.all:
			case <-time.After(10 * time.Second):
				t.Fatal("not all came")
			}
			writers.Wait()
			if o.packets < 2*queues*segments && offloads != 0 {
				t.Errorf("%d packets for %d segments", o.packets, 2*queues*segments)
			}
		})
	}
}

// Stop while all queues are busy: nothing is delivered any more when it returns.
func TestStopWithBusyQueues(t *testing.T) {
	const queues = 2
	for name, offloads := range mergedOrNot() {
		t.Run(name, func(t *testing.T) {
			wire, far := link.Pipe(link.PipeConfig{Queues: queues, Offloads: offloads, Depth: 64})
			defer far.Close()
			ep, err := New(Config{Device: wire, HardwareAddr: ownMAC})
			if err != nil {
				t.Fatal(err)
			}
			o := newOrderly(t, -1)
			ep.Attach(o)
			ep.Start()
			var writers sync.WaitGroup
			for i, q := range far.Queues() {
				writers.Go(func() { // until the wire ends
					ack := seg{port: uint16(i)}.frame()
					for err := error(nil); err == nil; {
						_, err = q.Write([]link.OutFrame{{Pieces: [][]byte{ack}}})
					}
				})
			}
			patience := time.After(10 * time.Second)
			for seen := 0; seen < queues; {
				select {
				case <-o.more:
				case <-patience:
					t.Fatalf("frames of %d queues came", seen)
				}
				o.mu.Lock()
				seen = len(o.next)
				o.mu.Unlock()
			}
			stopped := make(chan error, 1)
			go func() { stopped <- ep.Stop() }()
			select {
			case err := <-stopped:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("Stop hangs")
			}
			o.mu.Lock()
			o.stopped = true
			o.mu.Unlock()
			writers.Wait()
			if ep.Err() == nil {
				t.Error("not ended after Stop")
			}
		})
	}
}

// What leaves in one call goes to the queue of its flow, in order.
func TestSendKeepsQueue(t *testing.T) {
	const queues, flows, each = 3, 7, 5
	wire, far := link.Pipe(link.PipeConfig{Queues: queues, Depth: flows * each})
	ep, err := New(Config{Device: wire, HardwareAddr: ownMAC})
	if err != nil {
		t.Fatal(err)
	}
	var pkts gstack.PacketBufferList
	for i := range flows * each {
		pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{
			ReserveHeaderBytes: header.EthernetMinimumSize, Payload: buffer.MakeWithData([]byte{byte(i % flows), byte(i / flows)}),
		})
		pkt.Hash = uint32(i % flows)
		pkt.EgressRoute.RemoteLinkAddress = tcpip.LinkAddress(peerMAC)
		ep.AddHeader(pkt)
		pkts.PushBack(pkt)
	}
	if n, terr := ep.WritePackets(pkts); n != flows*each || terr != nil {
		t.Fatalf("WritePackets = %d, %v", n, terr)
	}
	pkts.Reset()
	ep.Stop() // the far end gets what was written before
	defer far.Close()
	next, total := make(map[byte]byte), 0
	in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
	for i, q := range far.Queues() {
		for {
			if _, err := q.Read(in); err != nil {
				break
			}
			flow, number := in[0].Buf[header.EthernetMinimumSize], in[0].Buf[header.EthernetMinimumSize+1]
			if int(flow)%queues != i || next[flow] != number {
				t.Errorf("queue %d: packet %d of flow %d, want %d on queue %d", i, number, flow, next[flow], int(flow)%queues)
			}
			next[flow]++
			total++
		}
	}
	if total != flows*each {
		t.Errorf("%d of %d packets", total, flows*each)
	}
}
