package stack

import (
	"net"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// A UDPMessage tells of one datagram what ip(7) and ipv6(7) have control messages for.
type UDPMessage struct {
	// N is how many bytes were read.
	N    int
	From netip.AddrPort
	// To is the address it was sent to, not valid if that is not known.
	To netip.Addr
	// TTL is the TTL or hop limit it arrived with, TOS its type of service or traffic class.
	TTL, TOS int
}

// Connect connects the socket to remote, or to none if that is not valid, as connect(2) does
// with AF_UNSPEC. What has arrived stays in the queue.
func (c *UDPConn) Connect(remote netip.AddrPort) error {
	if !remote.IsValid() {
		if terr := c.ep.Disconnect(); terr != nil {
			return c.opErr("connect", nil, sysErr("connect", terr))
		}
		c.remote.Store(nil)
		return nil
	}
	addr := net.UDPAddrFromAddrPort(remote)
	if c.proto == ipv4.ProtocolNumber && !remote.Addr().Unmap().Is4() {
		return c.opErr("connect", addr, syscall.EAFNOSUPPORT)
	}
	if terr := c.ep.Connect(toPeer(remote)); terr != nil {
		return c.opErr("connect", addr, sysErr("connect", terr))
	}
	c.remote.Store(addr)
	return nil
}

// receiveInfo has netstack tell of each datagram what a UDPMessage has.
func (c *UDPConn) receiveInfo() {
	o := c.ep.SocketOptions()
	o.SetReceivePacketInfo(true)
	o.SetReceiveTTL(true)
	o.SetReceiveTOS(true)
	if c.proto == ipv6.ProtocolNumber {
		o.SetIPv6ReceivePacketInfo(true)
		o.SetReceiveHopLimit(true)
		o.SetReceiveTClass(true)
	}
}

// WriteMessage sends a datagram to an address, connected or not, from an address of the stack's
// unless that is not valid, and with a TTL or hop limit unless that is 0.
func (c *UDPConn) WriteMessage(b []byte, to netip.AddrPort, from netip.Addr, ttl int) error {
	addr := net.UDPAddrFromAddrPort(to)
	is4 := to.Addr().Unmap().Is4()
	switch {
	case c.proto == ipv4.ProtocolNumber && !is4:
		return c.opErr("write", addr, syscall.EAFNOSUPPORT)
	case is4 && from.IsValid() && !from.Unmap().Is4(), !is4 && from.Is4():
		return c.opErr("write", addr, syscall.EINVAL)
	case ttl < 0 || ttl > 255:
		return c.opErr("write", addr, syscall.EINVAL)
	}
	full := toPeer(to)
	opts := tcpip.WriteOptions{To: &full}
	if is4 && from.IsValid() && !from.Unmap().IsUnspecified() {
		return c.writeFrom(b, full, from, ttl, addr)
	}
	if ttl > 0 {
		opts.ControlMessages.HasTTL, opts.ControlMessages.TTL = is4, uint8(ttl)
		opts.ControlMessages.HasHopLimit, opts.ControlMessages.HopLimit = !is4, uint8(ttl)
	}
	if from.IsValid() && !from.IsUnspecified() {
		opts.ControlMessages.HasIPv6PacketInfo = true
		opts.ControlMessages.IPv6PacketInfo.Addr = toAddress(from)
	}
	_, err := c.send(b, opts, addr)
	return err
}

// writeFrom sends over IPv4 from a chosen address, which netstack's endpoints cannot.
func (c *UDPConn) writeFrom(b []byte, to tcpip.FullAddress, from netip.Addr, ttl int, addr net.Addr) error {
	if err := c.checkWrite(); err != nil {
		return c.opErr("write", addr, err)
	}
	if len(b) > header.UDPMaximumPacketSize-header.UDPMinimumSize-header.IPv4MinimumSize {
		return c.opErr("write", addr, syscall.EMSGSIZE)
	}
	if !c.fits(len(b), addr) {
		return c.opErr("write", addr, syscall.EMSGSIZE)
	}
	local, terr := c.ep.GetLocalAddress()
	if terr != nil {
		return c.opErr("write", addr, sysErr("sendto", terr))
	}
	route, terr := c.s.ns.FindRoute(to.NIC, toAddress(from), to.Addr, ipv4.ProtocolNumber, c.ep.SocketOptions().GetMulticastLoop())
	if terr != nil {
		return c.opErr("write", addr, sysErr("sendto", terr))
	}
	defer route.Release()
	if route.IsOutboundBroadcast() && !c.ep.SocketOptions().GetBroadcast() {
		return c.opErr("write", addr, syscall.EACCES)
	}
	params := gstack.NetworkHeaderParams{Protocol: udp.ProtocolNumber, TTL: route.DefaultTTL()}
	option := tcpip.IPv4TTLOption
	if header.IsV4MulticastAddress(to.Addr) {
		option = tcpip.MulticastTTLOption
	}
	if v, terr := c.ep.GetSockOptInt(option); terr == nil && v != tcpip.UseDefaultIPv4TTL {
		params.TTL = uint8(v)
	}
	if ttl > 0 {
		params.TTL = uint8(ttl)
	}
	if v, terr := c.ep.GetSockOptInt(tcpip.IPv4TOSOption); terr == nil {
		params.TOS = uint8(v)
	}
	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{
		ReserveHeaderBytes: header.UDPMinimumSize + int(route.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(b),
	})
	defer pkt.DecRef()
	pkt.TransportProtocolNumber = udp.ProtocolNumber
	c.observeSend(len(b), addr, from)
	u := header.UDP(pkt.TransportHeader().Push(header.UDPMinimumSize))
	length := uint16(pkt.Size())
	u.Encode(&header.UDPFields{SrcPort: local.Port, DstPort: to.Port, Length: length})
	sum := route.PseudoHeaderChecksum(udp.ProtocolNumber, length)
	if sum = u.CalculateChecksum(checksum.Combine(sum, pkt.Data().Checksum())); sum != 0xffff {
		sum = ^sum // RFC 768: 0 would mean none
	}
	u.SetChecksum(sum)
	if terr := route.WritePacket(params, pkt); terr != nil {
		return c.opErr("write", addr, sysErr("sendto", terr))
	}
	return nil
}

// Join makes the socket a member of a multicast group, by the interface that has the address
// or the only one; Leave ends that. Errors: EADDRINUSE if it is one already,
// EADDRNOTAVAIL if it was none, EINVAL for an address that is no group's.
func (c *UDPConn) Join(group, local netip.Addr) error {
	return c.membership(group, local, true)
}

// Leave ends what Join began.
func (c *UDPConn) Leave(group, local netip.Addr) error {
	return c.membership(group, local, false)
}

func (c *UDPConn) membership(group, local netip.Addr, join bool) error {
	fail := func(err error) error {
		return c.opErr("membership", &net.UDPAddr{IP: group.AsSlice()}, err)
	}
	if group = group.Unmap(); !group.IsMulticast() {
		return fail(syscall.EINVAL)
	}
	m := tcpip.MembershipOption{NIC: nicID, MulticastAddr: toAddress(group)}
	if local.IsLoopback() {
		m.NIC = loID
	}
	var terr tcpip.Error
	if join {
		add := tcpip.AddMembershipOption(m)
		terr = c.ep.SetSockOpt(&add)
	} else {
		remove := tcpip.RemoveMembershipOption(m)
		terr = c.ep.SetSockOpt(&remove)
	}
	if terr != nil {
		return fail(sysErr("setsockopt", terr))
	}
	return nil
}
