package stack

import (
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A slowWriter writes a packet when somebody takes it from wrote.
type slowWriter struct{ wrote chan header.TCPFlags }

func (w slowWriter) WritePackets(list gstack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range list.AsSlice() {
		w.wrote <- header.TCP(pkt.TransportHeader().Slice()).Flags()
	}
	return list.Len(), nil
}

func segment(flags header.TCPFlags) *gstack.PacketBuffer {
	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{ReserveHeaderBytes: header.TCPMinimumSize})
	header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize)).Encode(&header.TCPFields{DataOffset: header.TCPMinimumSize, Flags: flags})
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	return pkt
}

const synAck = header.TCPFlagSyn | header.TCPFlagAck

// TestSynAckDoesNotWait has a device that takes nothing yet.
func TestSynAckDoesNotWait(t *testing.T) {
	w := slowWriter{make(chan header.TCPFlags)}
	q := newSynAcks(w)
	pkt := segment(synAck)
	const n = maxSynAcks
	for range n {
		if terr := q.WritePacket(pkt); terr != nil {
			t.Fatal(terr)
		}
	}
	for range n {
		if f := <-w.wrote; f != synAck {
			t.Errorf("wrote a segment with flags %v", f)
		}
	}
	q.Close()
	q.Close()
	if n := pkt.ReadRefs(); n != 1 {
		t.Errorf("%d references to the packet, want that of the test", n)
	}
	pkt.DecRef()
}

// TestOthersAreWrittenAtOnce looks for what WritePacket has written when it returns.
func TestOthersAreWrittenAtOnce(t *testing.T) {
	w := slowWriter{make(chan header.TCPFlags, 1)}
	q := newSynAcks(w)
	defer q.Close()
	for _, flags := range []header.TCPFlags{header.TCPFlagAck, header.TCPFlagSyn, header.TCPFlagRst | header.TCPFlagAck} {
		pkt := segment(flags)
		if terr := q.WritePacket(pkt); terr != nil {
			t.Fatal(terr)
		}
		select {
		case f := <-w.wrote:
			if f != flags {
				t.Errorf("wrote flags %v for %v", f, flags)
			}
		default:
			t.Errorf("flags %v: not written", flags)
		}
		pkt.DecRef()
	}
}
