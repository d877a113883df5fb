package tapendpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/ustack/ustack/link"
)

const (
	fin = header.TCPFlagFin
	syn = header.TCPFlagSyn
	rst = header.TCPFlagRst
	psh = header.TCPFlagPsh
	ack = header.TCPFlagAck
	urg = header.TCPFlagUrg
	ece = header.TCPFlagEce
	cwr = header.TCPFlagCwr
)

// A seg is a TCP segment to be made. The zero value is of port 0 with an ACK.
type seg struct {
	v6       bool
	port     uint16 // the flow
	seq, ack uint32
	n        int             // payload, of the stream's bytes
	flags    header.TCPFlags // besides ACK
	noACK    bool
	window   uint16
	tos, ttl uint8
	label    uint32 // IPv6
	noDF     bool
	options  string // of TCP
	ipOption bool
	fragment bool
	padding  int
	badTCP   bool   // checksum
	badIP    bool   // the same
	udp      bool   // no TCP at all
	peer     byte   // last byte of the sender's address, added
	to       uint16 // destination port, added to 80
	reserved byte   // bits beside the data offset (RFC 9293 section 3.1)
	station  byte   // last byte of the sender's hardware address, changed
	all      bool   // for everybody's hardware address
	extend   uint8  // IPv6: the number of an extension header of 8 bytes
	vlan     bool   // with a tag (IEEE 802.1Q)
}

// streamByte is what a stream has at a sequence number.
func streamByte(port uint16, seq uint32) byte { return byte(seq ^ seq>>7 ^ seq>>15 + uint32(port)*31) }

func (s seg) frame() []byte {
	t := make([]byte, header.TCPMinimumSize+len(s.options)+s.n)
	copy(t[header.TCPMinimumSize:], s.options)
	flags := s.flags | ack
	if s.noACK {
		flags &^= ack
	}
	header.TCP(t).Encode(&header.TCPFields{
		SrcPort: s.port, DstPort: 80 + s.to, SeqNum: s.seq, AckNum: s.ack, Flags: flags, WindowSize: s.window,
		DataOffset: uint8(header.TCPMinimumSize + len(s.options)),
	})
	t[header.TCPDataOffset] |= s.reserved
	for i := range s.n {
		t[header.TCPMinimumSize+len(s.options)+i] = streamByte(s.port, s.seq+uint32(i))
	}
	proto, at := header.TCPProtocolNumber, header.TCPChecksumOffset
	if s.udp {
		proto, at = header.UDPProtocolNumber, 6
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
		t[6], t[7] = 0, 0
	}
	src, dst := tcpip.AddrFrom4([4]byte{10, 0, 0, 2 + s.peer}), ownIP
	if s.v6 {
		src, dst = tcpip.AddrFrom16([16]byte{0xfd, 15: 2 + s.peer}), ownIP6
	}
	c := ^checksum.Checksum(t, header.PseudoHeaderChecksum(proto, src, dst, uint16(len(t))))
	if s.badTCP {
		c ^= 0x0101
	}
	binary.BigEndian.PutUint16(t[at:], c)
	var ip []byte
	etherType := uint16(0x0800)
	if s.v6 {
		etherType = 0x86dd
		ip = make([]byte, header.IPv6MinimumSize)
		header.IPv6(ip).Encode(&header.IPv6Fields{
			TrafficClass: s.tos, FlowLabel: s.label, PayloadLength: uint16(len(t)), TransportProtocol: proto, HopLimit: 64 + s.ttl, SrcAddr: src, DstAddr: dst,
		})
		if s.extend != 0 {
			h := header.IPv6(ip)
			h.SetNextHeader(s.extend)
			h.SetPayloadLength(uint16(8 + len(t)))
			ip = append(ip, byte(proto), 0, 1, 4, 0, 0, 0, 0) // padding, RFC 8200 section 4.2
		}
	} else {
		ip = make([]byte, header.IPv4MinimumSize)
		h := header.IPv4(ip)
		f := &header.IPv4Fields{TOS: s.tos, TotalLength: uint16(len(ip) + len(t)), ID: uint16(s.seq), TTL: 64 + s.ttl, Protocol: uint8(proto), SrcAddr: src, DstAddr: dst}
		if !s.noDF {
			f.Flags = header.IPv4FlagDontFragment
		}
		if s.fragment {
			f.Flags = header.IPv4FlagMoreFragments
		}
		h.Encode(f)
		if s.ipOption {
			ip = append(ip, 1, 1, 1, 1)
			h = ip
			h[0]++
			h.SetTotalLength(uint16(len(ip) + len(t)))
		}
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
		if s.badIP {
			h[atIPv4Sum-atIP] ^= 1
		}
	}
	f := append(frame(ownMAC, etherType, append(ip, t...)), make([]byte, s.padding)...)
	f[2*header.EthernetAddressSize-1] ^= s.station
	if s.all {
		copy(f, header.EthernetBroadcastAddress)
	}
	if s.vlan {
		f = slices.Insert(f, atEtherType, 0x81, 0x00, 0, 7)
	}
	return f
}

// A collector is a dispatcher that keeps what it is given, as frames.
type collector struct {
	ep       *Endpoint
	frames   [][]byte
	verified []bool
}

func (c *collector) DeliverNetworkPacket(proto tcpip.NetworkProtocolNumber, pkt *gstack.PacketBuffer) {
	c.frames = append(c.frames, frame(ownMAC, uint16(proto), pkt.Data().AsRange().ToSlice()))
	c.verified = append(c.verified, c.ep.Capabilities()&gstack.CapabilityRXChecksumOffload != 0)
}

func (c *collector) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *gstack.PacketBuffer) {}

// newCollector returns an endpoint, not started, that delivers to a collector.
func newCollector(t testing.TB) (*Endpoint, *collector) {
	wire, far := link.Pipe(link.PipeConfig{})
	ep, err := New(Config{Device: wire, HardwareAddr: ownMAC})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ep.Stop(); far.Close() })
	c := &collector{ep: ep}
	ep.Attach(c)
	return ep, c
}

// inBatches hands frames to a merger.
func inBatches(ep *Endpoint, batch int, frames ...[]byte) {
	m := &merger{e: ep}
	for some := range slices.Chunk(frames, batch) {
		in := make([]link.Frame, len(some))
		for i, f := range some {
			in[i] = link.Frame{Buf: bytes.Clone(f), N: len(f)}
		}
		m.receive(in)
	}
}

// line describes a packet: port, sequence number, length and what is special.
func line(f []byte, verified bool) string {
	p := parse(f)
	s := ""
	switch {
	case p.kind == kindTCP:
		t := header.TCP(f[p.l4:p.end])
		s = fmt.Sprintf("%d:%d+%d", t.SourcePort(), t.SequenceNumber(), p.end-p.data)
		if fl := t.Flags() &^ ack; fl != 0 {
			s += " " + strings.ReplaceAll(strings.TrimSpace(fl.String()), " ", "")
		}
		for i, b := range f[p.data:p.end] {
			if want := streamByte(t.SourcePort(), t.SequenceNumber()+uint32(i)); b != want {
				return s + fmt.Sprintf(" has byte %#x at %d, want %#x", b, i, want)
			}
		}
		if p.v4 && verified && !header.IPv4(f[atIP:]).IsChecksumValid() {
			s += " wrong IPv4 checksum"
		}
	case p.kind == kindOther:
		s = "other"
	default:
		s = "odd"
	}
	if !verified {
		s += " unverified"
	}
	return s
}
