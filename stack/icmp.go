package stack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/ustack/ustack/link"
)

// An ICMPMessage is one ICMP message as it arrived.
type ICMPMessage struct {
	// Data begins with the ICMP type. Its checksum has been verified.
	Data     []byte
	From, To netip.Addr
	TTL      int // TTL or hop limit it arrived with
	At       time.Time
}

// An ICMPConn sends any ICMP message and receives every one that arrives,
// replies and errors alike: the reader picks its own by their identifier.
type ICMPConn struct {
	pollable
	s       *Stack
	network string // "ip4" or "ip6"
	proto   tcpip.NetworkProtocolNumber

	arrival
	account

	readMu sync.Mutex

	receiveMu sync.Mutex
	buf       bytes.Buffer // what is being taken from the endpoint

	// Messages that were not read, of the endpoint and those made here: see unreachable
	// and icmp6Conns.
	queueMu sync.Mutex
	queue   []ICMPMessage
	held    int // bytes of them, messageHead for each included
	// How many were queued so far, and taken.
	arrived, left uint64
}

// messageHead is what a message needs in the queue besides its bytes: the size of an
// ICMPMessage, twice because queue grows so, and the rest of an allocation.
const messageHead = 256

// maxICMP is the largest ICMP message in bytes: what an IPv4 packet without
// options holds (RFC 791 section 3.1).
const maxICMP = 65535 - header.IPv4MinimumSize

// ICMP makes an ICMP socket; network is "ip4" or "ip6".
func (s *Stack) ICMP(network string) (*ICMPConn, error) {
	c := &ICMPConn{s: s, network: network}
	trans := header.ICMPv4ProtocolNumber
	switch network {
	case "ip4":
		c.proto = ipv4.ProtocolNumber
	case "ip6":
		c.proto, trans = ipv6.ProtocolNumber, header.ICMPv6ProtocolNumber
	default:
		return nil, fmt.Errorf("socket: %w", net.UnknownNetworkError(network))
	}
	if isClosed(s.closed) {
		return nil, c.opErr("listen", net.ErrClosed)
	}
	wq := new(waiter.Queue)
	ep, terr := s.ns.NewRawEndpoint(trans, c.proto, wq, true)
	if terr != nil {
		return nil, c.opErr("listen", sysErr("socket", terr))
	}
	if c.proto == ipv6.ProtocolNumber { // no IP header comes along, so ask for what parse needs of it
		ep.SocketOptions().SetIPv6ReceivePacketInfo(true)
		ep.SocketOptions().SetReceiveHopLimit(true)
	}
	c.pollable.init(ep, wq, s.closed)
	c.arrival.watch(wq, func() { c.receive() })
	if terr := ep.Bind(tcpip.FullAddress{}); terr != nil {
		ep.Close()
		return nil, c.opErr("listen", sysErr("bind", terr))
	}
	c.pollable.account = &c.account
	s.mem.open(&c.account, c, udpBuffer, 0)
	if c.proto == ipv6.ProtocolNumber {
		s.icmp6.add(c)
	}
	s.icmpOpen.Add(1)
	return c, nil
}

func (c *ICMPConn) opErr(op string, err error) error {
	return opErr(op, c.network+":icmp", nil, nil, err)
}

// ReadICMP waits for the next message. Its Data is valid until the next call.
func (c *ICMPConn) ReadICMP() (ICMPMessage, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for {
		if err := c.checkRead(); err != nil {
			return ICMPMessage{}, c.opErr("read", err)
		}
		if m, ok := c.take(); ok {
			return m, nil
		}
		if terr := c.receive(); terr != nil {
			if c.isClosed() {
				return ICMPMessage{}, c.opErr("read", net.ErrClosed)
			}
			return ICMPMessage{}, c.opErr("read", sysErr("recvmsg", terr))
		}
		if m, ok := c.take(); ok {
			return m, nil
		}
		if err := c.waitRead(); err != nil {
			return ICMPMessage{}, c.opErr("read", err)
		}
	}
}

// receive takes everything out of the endpoint, see inbox.
func (c *ICMPConn) receive() tcpip.Error {
	c.receiveMu.Lock()
	defer c.receiveMu.Unlock()
	for {
		c.buf.Reset()
		res, terr := c.ep.Read(&c.buf, tcpip.ReadOptions{NeedRemoteAddr: true})
		switch terr.(type) {
		case nil:
			if m, ok := c.parse(res); ok {
				c.put(m)
			}
		case *tcpip.ErrWouldBlock:
			return nil
		default:
			return terr
		}
	}
}

// parse makes a message of what a raw endpoint gave: with the IP header for
// IPv4, without it for IPv6. The second result is false for a damaged one: raw
// endpoints see packets before their ICMP checksum is verified.
func (c *ICMPConn) parse(res tcpip.ReadResult) (ICMPMessage, bool) {
	b := c.buf.Bytes()
	m := ICMPMessage{From: fromAddress(res.RemoteAddr.Addr), At: time.Now()}
	if c.proto == ipv6.ProtocolNumber {
		m.To = fromAddress(res.ControlMessages.IPv6PacketInfo.Addr)
		m.TTL = int(res.ControlMessages.HopLimit)
		m.Data = b
		if len(b) < header.ICMPv6MinimumSize {
			return m, false
		}
		return m, header.ICMPv6(b).Checksum() == header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
			Header: b, Src: res.RemoteAddr.Addr, Dst: toAddress(m.To),
		})
	}
	ip := header.IPv4(b)
	if len(b) < header.IPv4MinimumSize || int(ip.HeaderLength()) < header.IPv4MinimumSize ||
		len(b) < int(ip.HeaderLength())+header.ICMPv4MinimumSize {
		return m, false
	}
	m.TTL = int(ip.TTL())
	m.To = fromAddress(ip.DestinationAddress())
	m.Data = b[ip.HeaderLength():]
	return m, checksum.Checksum(m.Data, 0) == 0xffff
}

// WriteICMP sends a message that begins with the ICMP type, and fills in its
// checksum (RFC 792, RFC 4443 section 2.3). When the destination's link address
// cannot be found, an ICMP "destination unreachable" from the stack's own address
// can be read afterwards, as Linux makes one.
func (c *ICMPConn) WriteICMP(data []byte, to netip.Addr) error {
	fail := func(err error) error {
		return opErr("write", c.network+":icmp", nil, &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()}, err)
	}
	if err := c.checkWrite(); err != nil {
		return fail(err)
	}
	if len(data) < header.ICMPv4MinimumSize || to.Is4() != (c.proto == ipv4.ProtocolNumber) {
		return fail(syscall.EINVAL)
	}
	full := toFull(netip.AddrPortFrom(to, 0))
	route, terr := c.s.ns.FindRoute(full.NIC, tcpip.Address{}, full.Addr, c.proto, false)
	if terr != nil {
		return fail(sysErr("sendto", terr))
	}
	defer route.Release()
	msg := bytes.Clone(data)
	if c.proto == ipv4.ProtocolNumber {
		header.ICMPv4(msg).SetChecksum(0)
		header.ICMPv4(msg).SetChecksum(^checksum.Checksum(msg, 0))
	} else {
		header.ICMPv6(msg).SetChecksum(0)
		header.ICMPv6(msg).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
			Header: msg, Src: route.LocalAddress(), Dst: full.Addr,
		}))
	}
	c.watch(route, msg, to)
	if c.ownEcho(msg, to) {
		return nil
	}
	c.observe(link.StepSocketWrite, len(msg), fromAddress(route.LocalAddress()), to, 0, "")
	if err := c.send(route, msg); err != nil {
		return fail(err)
	}
	return nil
}

// send puts a message on the wire, in fragments where it exceeds the MTU and the
// option "ip.mtu_discover" allows it. A raw endpoint's own Write never fragments.
func (c *ICMPConn) send(route *gstack.Route, msg []byte) error {
	if route.IsOutboundBroadcast() && !c.ep.SocketOptions().GetBroadcast() {
		return os.NewSyscallError("sendto", syscall.EACCES)
	}
	if len(msg) > maxICMP {
		return os.NewSyscallError("sendto", syscall.EMSGSIZE)
	}
	params := gstack.NetworkHeaderParams{Protocol: header.ICMPv4ProtocolNumber, TTL: route.DefaultTTL()}
	ttl, tos, unset := tcpip.IPv4TTLOption, tcpip.IPv4TOSOption, tcpip.UseDefaultIPv4TTL
	if c.proto == ipv6.ProtocolNumber {
		params.Protocol = header.ICMPv6ProtocolNumber
		ttl, tos, unset = tcpip.IPv6HopLimitOption, tcpip.IPv6TrafficClassOption, tcpip.UseDefaultIPv6HopLimit
	}
	if header.IsV4MulticastAddress(route.RemoteAddress()) || header.IsV6MulticastAddress(route.RemoteAddress()) {
		ttl, unset = tcpip.MulticastTTLOption, -1
	}
	if v, terr := c.ep.GetSockOptInt(ttl); terr == nil && v != unset {
		params.TTL = uint8(v)
	}
	if v, terr := c.ep.GetSockOptInt(tos); terr == nil {
		params.TOS = uint8(v)
	}
	fits := len(msg) <= int(route.MTU())
	if mode, terr := getMTUDiscover(c.ep); terr == nil {
		if mode == pmtuDo && !fits {
			return os.NewSyscallError("sendto", syscall.EMSGSIZE)
		}
		params.DF = mode != pmtuDont && fits
	}
	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{
		ReserveHeaderBytes: int(route.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(msg),
	})
	defer pkt.DecRef()
	pkt.TransportProtocolNumber = params.Protocol
	if terr := route.WritePacket(params, pkt); terr != nil {
		return sysErr("sendto", terr)
	}
	return nil
}

// watch asks for the link address of the next hop, which sending needs anyhow,
// and puts an ICMP error into the queue if it is not found.
func (c *ICMPConn) watch(route *gstack.Route, msg []byte, to netip.Addr) {
	if !route.IsResolutionRequired() {
		return
	}
	next := route.NextHop()
	if next == (tcpip.Address{}) {
		next = toAddress(to)
	}
	local := route.LocalAddress()
	c.s.ns.GetLinkAddress(nicID, next, local, c.proto, func(r gstack.LinkResolutionResult) {
		if r.Err != nil {
			c.putLocal(unreachable(msg, fromAddress(local), to))
		}
	})
}

// ownEcho answers an echo request to the stack's own IPv4 address, and reports
// whether it did. netstack loops it over the loopback interface, where that
// address counts as a temporary one, and to those it makes no reply.
func (c *ICMPConn) ownEcho(msg []byte, to netip.Addr) bool {
	own, ok := c.s.orig.get(to)
	if !ok || own.origin == OriginLoopback || to.Is6() || msg[0] != byte(header.ICMPv4Echo) {
		return false
	}
	reply := bytes.Clone(msg)
	reply[0] = byte(header.ICMPv4EchoReply)
	header.ICMPv4(reply).SetChecksum(0)
	header.ICMPv4(reply).SetChecksum(^checksum.Checksum(reply, 0))
	c.putLocal(ICMPMessage{Data: reply, From: to, To: to, TTL: ipv4.DefaultTTL, At: time.Now()})
	return true
}

// put queues a copy of a message, or counts it where there is no room.
func (c *ICMPConn) put(m ICMPMessage) {
	size := messageHead + len(m.Data)
	c.queueMu.Lock()
	defer c.queueMu.Unlock()
	if c.held > 0 && c.held+size > int(max(c.recv.Load(), leastBuffer)) || c.shut.Load() {
		c.s.ns.Stats().DroppedPackets.Increment()
		c.observe(link.StepSocketIn, len(m.Data), m.To, m.From, 0, CounterICMPFull)
		return
	}
	m.Data = bytes.Clone(m.Data)
	c.queue = append(c.queue, m)
	c.held += size
	c.arrived++
	c.observe(link.StepSocketIn, len(m.Data), m.To, m.From, c.arrived, "")
}

// putLocal is put of a message that did not come from the endpoint.
func (c *ICMPConn) putLocal(m ICMPMessage) {
	c.put(m)
	c.reading.kick()
}

func (c *ICMPConn) take() (ICMPMessage, bool) {
	c.queueMu.Lock()
	defer c.queueMu.Unlock()
	if len(c.queue) == 0 {
		return ICMPMessage{}, false
	}
	m := c.queue[0]
	c.queue[0] = ICMPMessage{}
	if c.queue = c.queue[1:]; len(c.queue) == 0 {
		c.queue = nil
	}
	c.held -= messageHead + len(m.Data)
	c.left++
	c.observe(link.StepSocketRead, len(m.Data), m.To, m.From, c.left, "")
	return m, true
}

// size implements accountOwner.
func (c *ICMPConn) size(recv bool, bytes int64) {
	if recv {
		c.ep.SocketOptions().SetReceiveBufferSize(bytes, false)
	}
}

// ordinary implements accountOwner.
func (c *ICMPConn) ordinary() bool { return true }

// review implements accountOwner.
func (c *ICMPConn) review(look *look) (gone bool) {
	if look.share > 0 && !c.fixedRecv.Load() {
		c.shrink(true, look.share)
	}
	return false
}

// unreachable makes the ICMP error that says so, quoting the packet that could
// not be delivered: type 3 code 1 (RFC 792), or type 1 code 3 (RFC 4443
// section 3.1).
func unreachable(msg []byte, from, to netip.Addr) ICMPMessage {
	const icmpHeader = 8
	quoted := msg[:min(len(msg), 512)]
	m := ICMPMessage{From: from, To: from, TTL: 64, At: time.Now()}
	if to.Is4() {
		b := make([]byte, icmpHeader+header.IPv4MinimumSize+len(quoted))
		b[0], b[1] = byte(header.ICMPv4DstUnreachable), byte(header.ICMPv4HostUnreachable)
		ip := header.IPv4(b[icmpHeader:])
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(header.IPv4MinimumSize + len(msg)), TTL: 64,
			Protocol: uint8(header.ICMPv4ProtocolNumber), SrcAddr: toAddress(from), DstAddr: toAddress(to),
		})
		ip.SetChecksum(^ip.CalculateChecksum())
		copy(b[icmpHeader+header.IPv4MinimumSize:], quoted)
		binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, 0))
		m.Data = b
		return m
	}
	b := make([]byte, icmpHeader+header.IPv6MinimumSize+len(quoted))
	b[0], b[1] = byte(header.ICMPv6DstUnreachable), byte(header.ICMPv6AddressUnreachable)
	header.IPv6(b[icmpHeader:]).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(msg)), TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit: 64, SrcAddr: toAddress(from), DstAddr: toAddress(to),
	})
	copy(b[icmpHeader+header.IPv6MinimumSize:], quoted)
	header.ICMPv6(b).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: b, Src: toAddress(from), Dst: toAddress(from),
	}))
	m.Data = b
	return m
}

// Close closes the socket.
func (c *ICMPConn) Close() error {
	if !c.release(func() { c.s.icmp6.remove(c); c.ep.Close(); c.mem.close(&c.account, false); c.s.icmpOpen.Add(-1) }) {
		return c.opErr("close", net.ErrClosed)
	}
	return nil
}
