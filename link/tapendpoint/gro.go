package tapendpoint

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/ustack/ustack/link"
)

// Bounds of a merger.
const (
	groBatch = 64 // frames of one Read: a super-frame of 1448-byte segments has 45
	groFlows = 8  // flows of which segments are held
)

// A merger makes super-packets of consecutive TCP segments, where the wire does not
// (generic receive offload): netstack's cost is by packet, not by byte. It does for
// one batch of frames, of one queue, what Linux does in net/core/gro.c,
// net/ipv4/tcp_offload.c (tcp_gro_receive) and the inet and ipv6 counterparts:
// segments are merged that differ only in sequence number, checksums, IPv4
// identification, FIN and PSH, that follow each other without a gap, and of which only
// the last is shorter. FIN and PSH end a super-packet.
//
// Everything else is delivered as it came. Packets of one flow stay in order; a frame
// that might be of any flow, such as a fragment, lets all that is held go first.
// Nothing is held beyond its batch, so that merging adds no wait.
//
// A segment is merged only after its checksums were verified. Those of the
// super-packet are not right, except IPv4's: it is delivered as vouched for.
type merger struct {
	e      *Endpoint
	frames []link.Frame
	after  [groBatch]uint8  // the next frame of the same flow
	packet [groBatch]packet // of frames held
	flows  [groFlows]flow   // oldest first
	held   int              // of flows
	pieces [][]byte
}

// A flow is a super-packet in the making.
type flow struct {
	in          incoming // of the first frame
	first, last uint8    // frames
	segments    int
	next        uint32 // sequence number that may follow
	size        int    // payload of all but the last, in bytes
	total       int    // IP packet's length so far
	flags       header.TCPFlags
}

// receive delivers a batch of at most groBatch frames.
func (m *merger) receive(frames []link.Frame) {
	m.frames = frames
	for i := range frames {
		if in, drop := m.e.accept(&frames[i]); drop == "" {
			m.add(uint8(i), in)
		}
	}
	for m.held > 0 {
		m.flush(0)
	}
}

func (m *merger) add(i uint8, in incoming) {
	o := &m.frames[i].Offload
	p := parse(in.frame)
	if o.GSOType != link.GSONone || in.pktType != tcpip.PacketHost && p.kind == kindTCP {
		p.kind = kindOdd
	}
	switch p.kind {
	case kindOdd:
		for m.held > 0 {
			m.flush(0)
		}
		m.e.deliver(in, o.Vouched())
		return
	case kindOther:
		m.e.deliver(in, o.Vouched() || verified(in.frame, &p))
		return
	}
	m.packet[i] = p
	good := o.Vouched() || verified(in.frame, &p)
	at := m.find(in.frame, &p)
	if at >= 0 {
		if good && m.join(&m.flows[at], i, in.frame) {
			if m.flows[at].ended(&p) {
				m.flush(at)
			}
			return
		}
		m.flush(at)
	}
	if !good || !mayGrow(in.frame, &p) {
		m.e.deliver(in, good)
		return
	}
	if m.held == groFlows {
		m.flush(0)
	}
	tcp := header.TCP(in.frame[p.l4:p.data])
	m.flows[m.held] = flow{
		in: in, first: i, last: i, segments: 1,
		next: tcp.SequenceNumber() + uint32(p.end-p.data),
		size: p.end - p.data, total: p.end - atIP, flags: tcp.Flags(),
	}
	m.held++
}

// find returns the flow that a segment is of, or -1.
func (m *merger) find(frame []byte, p *packet) int {
	addrs, ports := atIPv6Addrs, p.l4+4 // where they end
	if p.v4 {
		addrs = atIPv4Addrs
	}
	for at := range m.held {
		f := &m.flows[at]
		if m.packet[f.first].v4 == p.v4 && string(f.in.frame[addrs:ports]) == string(frame[addrs:ports]) {
			return at
		}
	}
	return -1
}

// mayGrow reports whether others may be merged with a segment.
func mayGrow(frame []byte, p *packet) bool {
	return p.end > p.data && header.TCP(frame[p.l4:]).Flags()&^header.TCPFlagEce == header.TCPFlagAck
}

// join merges frame i with those of its flow, if that is allowed.
func (m *merger) join(f *flow, i uint8, frame []byte) bool {
	p, one := &m.packet[i], f.in.frame
	n := p.end - p.data
	if string(frame[:atIP]) != string(one[:atIP]) || p.data != m.packet[f.first].data || n == 0 || n > f.size || binary.BigEndian.Uint32(frame[p.l4+header.TCPSeqNumOffset:]) != f.next {
		return false
	}
	longest := header.IPv6MinimumSize + 65535
	if p.v4 {
		longest = 65535
		if frame[atIPv4TOS] != one[atIPv4TOS] || frame[atIPv4TTL] != one[atIPv4TTL] || frame[atIPv4Frag] != one[atIPv4Frag] {
			return false
		}
	} else if string(frame[atIP:atIPv6Len]) != string(one[atIP:atIPv6Len]) || frame[atIPv6Hops] != one[atIPv6Hops] {
		return false
	}
	const (
		ack     = header.TCPAckNumOffset
		flags   = header.TCPFlagsOffset
		window  = header.TCPWinSizeOffset
		options = header.TCPMinimumSize
		mayEnd  = byte(header.TCPFlagFin | header.TCPFlagPsh)
	)
	a, b := one[p.l4:p.data], frame[p.l4:p.data]
	switch {
	case f.total+n > longest,
		string(a[ack:flags]) != string(b[ack:flags]), // and data offset, reserved bits
		(a[flags]^b[flags])&^mayEnd != 0,
		string(a[window:window+2]) != string(b[window:window+2]),
		string(a[options:]) != string(b[options:]):
		return false
	}
	m.after[f.last], f.last = i, i
	f.segments++
	f.next += uint32(n)
	f.total += n
	f.flags |= header.TCPFlags(b[flags])
	return true
}

// ended reports whether nothing may follow the segment last merged.
func (f *flow) ended(last *packet) bool {
	return f.flags&(header.TCPFlagFin|header.TCPFlagPsh) != 0 || last.end-last.data < f.size
}

// flush delivers what is held of a flow.
func (m *merger) flush(at int) {
	f := m.flows[at]
	copy(m.flows[at:], m.flows[at+1:m.held])
	m.held--
	m.flows[m.held] = flow{}
	if f.segments == 1 {
		m.e.deliver(f.in, true)
		return
	}
	p := &m.packet[f.first]
	h := f.in.frame[:p.data] // read for the last time
	h[p.l4+header.TCPFlagsOffset] = byte(f.flags)
	if p.v4 {
		binary.BigEndian.PutUint16(h[atIPv4Len:], uint16(f.total))
		binary.BigEndian.PutUint16(h[atIPv4Sum:], 0)
		binary.BigEndian.PutUint16(h[atIPv4Sum:], ^checksum.Checksum(h[atIP:endIPv4], 0))
	} else {
		binary.BigEndian.PutUint16(h[atIPv6Len:], uint16(f.total-header.IPv6MinimumSize))
	}
	m.pieces = append(m.pieces[:0], h)
	for i := f.first; ; i = m.after[i] {
		p := &m.packet[i]
		m.pieces = append(m.pieces, m.frames[i].Buf[p.data:p.end])
		if i == f.last {
			break
		}
	}
	m.e.deliverCopy(f.in, copyPieces(m.pieces, atIP+f.total), true)

}
