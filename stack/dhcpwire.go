package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	dhcpServerPort = 67
	dhcpClientPort = 68

	// maxDHCPMessage is the longest message that is read, in bytes: what fits into
	// a frame of 1500.
	maxDHCPMessage = 1500
)

// A dhcpConn is the client's socket during one exchange of messages.
//
// It only receives: netstack delivers datagrams to 255.255.255.255 to a stack
// without any address. What is sent is built here, source address and all, and
// goes to the link: a socket could send nothing without a temporary address and
// a route, which would let other connections out with 0.0.0.0 as their source.
type dhcpConn struct {
	s    *Stack
	conn *UDPConn // nil if it only sends
	mac  net.HardwareAddr
	buf  []byte
}

func (s *Stack) openDHCP() (*dhcpConn, error) {
	conn, err := s.UDP("udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), dhcpClientPort), netip.AddrPort{})
	if err != nil {
		return nil, err
	}
	d := s.dhcpSender()
	d.conn, d.buf = conn, make([]byte, maxDHCPMessage)
	return d, nil
}

// dhcpSender returns what can only send; it works while the stack is closing.
func (s *Stack) dhcpSender() *dhcpConn {
	return &dhcpConn{s: s, mac: net.HardwareAddr(s.ep.LinkAddress())}
}

func (d *dhcpConn) Close() error { return d.conn.Close() }

// errNoAnswer says that all tries of an exchange were used up.
var errNoAnswer = errors.New("no answer")

// A dhcpExchange is one question and how often it is put.
type dhcpExchange struct {
	msg *dhcpv4.DHCPv4
	// send sends the message; an error counts as a lost message.
	send func([]byte) error
	// wait returns how long to wait for the answer to try 0, 1 …
	wait  func(try int) time.Duration
	tries int // 0: until the context ends
	// accept says whether a reply, sent after asked, ends the exchange.
	accept func(reply *dhcpv4.DHCPv4, asked time.Time) bool
	// sent counts the messages that were sent, if not nil.
	sent *int
}

// exchange sends a message until a reply is accepted.
func (d *dhcpConn) exchange(ctx context.Context, x dhcpExchange) error {
	stop := context.AfterFunc(ctx, func() { d.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	started := time.Now()
	for try := 0; x.tries == 0 || try < x.tries; try++ {
		asked := time.Now()
		x.msg.NumSeconds = uint16(min(asked.Sub(started)/time.Second, 0xffff))
		if err := x.send(x.msg.ToBytes()); err != nil {
			d.s.log.Debug("DHCP message was not sent", "type", x.msg.MessageType(), "err", err)
		}
		if x.sent != nil {
			*x.sent++
		}
		deadline := asked.Add(x.wait(try))
		d.conn.SetReadDeadline(deadline)
		for ctx.Err() == nil && time.Now().Before(deadline) {
			reply, err := d.read(x.msg.TransactionID)
			if err != nil {
				if isClosed(d.s.closed) {
					return net.ErrClosed
				}
				break // the deadline
			}
			if reply != nil && x.accept(reply, asked) {
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctxErr(ctx)
		}
	}
	return errNoAnswer
}

// read returns the next message, or nil if it is not an answer to us.
func (d *dhcpConn) read(xid dhcpv4.TransactionID) (*dhcpv4.DHCPv4, error) {
	n, _, err := d.conn.ReadFromUDPAddrPort(d.buf)
	if err != nil {
		return nil, err
	}
	m, err := dhcpv4.FromBytes(d.buf[:n])
	if err != nil || m.OpCode != dhcpv4.OpcodeBootReply || m.TransactionID != xid || !bytes.Equal(m.ClientHWAddr, d.mac) {
		return nil, nil
	}
	return m, nil
}

// message starts a message from us (RFC 2131 section 4.4.1, table 5).
func (d *dhcpConn) message(cfg DHCPConfig, kind dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.New(
		dhcpv4.WithHwAddr(d.mac),
		dhcpv4.WithHWType(iana.HWTypeEthernet),
		dhcpv4.WithMessageType(kind),
	)
	if err != nil {
		return nil, err
	}
	id := cfg.ClientID
	if id == nil {
		id = append([]byte{byte(iana.HWTypeEthernet)}, d.mac...)
	}
	m.UpdateOption(dhcpv4.OptClientIdentifier(id))
	switch kind {
	case dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest:
		m.UpdateOption(dhcpv4.OptMaxMessageSize(maxDHCPMessage))
		m.UpdateOption(dhcpv4.OptParameterRequestList(
			// RFC 3442: before the routers.
			dhcpv4.OptionClasslessStaticRoute,
			dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
			dhcpv4.OptionDomainName, dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionInterfaceMTU,
			dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue,
		))
		if cfg.Hostname != "" {
			m.UpdateOption(dhcpv4.OptHostName(cfg.Hostname))
		}
	}
	return m, nil
}

// broadcast sends to every server on the link; src may be 0.0.0.0.
func (d *dhcpConn) broadcast(src netip.Addr) func([]byte) error {
	return func(b []byte) error {
		return d.s.sendDHCP(header.EthernetBroadcastAddress, src, netip.AddrFrom4([4]byte{255, 255, 255, 255}), b)
	}
}

// unicast sends to one server, through a router if need be. It waits at most for
// limit until the next hop is resolved.
func (d *dhcpConn) unicast(ctx context.Context, src, server netip.Addr, limit time.Duration) func([]byte) error {
	return func(b []byte) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		mac, err := d.s.nextHop(ctx, src, server)
		if err != nil {
			return fmt.Errorf("reach %v: %w", server, err)
		}
		return d.s.sendDHCP(mac, src, server, b)
	}
}

// nextHop resolves the station that packets to dst are handed to.
func (s *Stack) nextHop(ctx context.Context, src, dst netip.Addr) (tcpip.LinkAddress, error) {
	route, terr := s.ns.FindRoute(nicID, toAddress(src), toAddress(dst), ipv4.ProtocolNumber, false)
	if terr != nil {
		return "", errno(terr)
	}
	defer route.Release()
	resolved := make(chan gstack.ResolvedFieldsResult, 1)
	terr = route.ResolvedFields(func(r gstack.ResolvedFieldsResult) { resolved <- r })
	if _, started := terr.(*tcpip.ErrWouldBlock); terr != nil && !started {
		return "", errno(terr)
	}
	select {
	case r := <-resolved:
		if r.Err != nil {
			return "", errno(r.Err)
		}
		return r.RouteInfo.RemoteLinkAddress, nil
	case <-ctx.Done():
		return "", ctxErr(ctx)
	}
}

// sendDHCP sends a message from the client's port to the server's.
func (s *Stack) sendDHCP(mac tcpip.LinkAddress, src, dst netip.Addr, payload []byte) error {
	b := make([]byte, header.IPv4MinimumSize+header.UDPMinimumSize+len(payload))
	from, to := toAddress(src), toAddress(dst)
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(b)),
		TTL:         ipv4.DefaultTTL,
		Protocol:    uint8(header.UDPProtocolNumber),
		SrcAddr:     from,
		DstAddr:     to,
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	udp := header.UDP(b[header.IPv4MinimumSize:])
	udp.Encode(&header.UDPFields{SrcPort: dhcpClientPort, DstPort: dhcpServerPort, Length: uint16(len(udp))})
	copy(udp.Payload(), payload)
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, from, to, uint16(len(udp)))
	sum = ^udp.CalculateChecksum(checksum.Checksum(payload, sum))
	if sum == 0 { // RFC 768: zero means none
		sum = 0xffff
	}
	udp.SetChecksum(sum)
	if terr := s.ns.WritePacketToRemote(nicID, mac, ipv4.ProtocolNumber, buffer.MakeWithData(b)); terr != nil {
		return errno(terr)
	}
	return nil
}

// backoff returns the wait after try 0, 1 …: doubled from first up to most, and
// spread by a quarter so that stations that start together do not stay together
// (RFC 2131 section 4.1).
func backoff(first, most time.Duration) func(try int) time.Duration {
	return func(try int) time.Duration {
		d := most
		if try < 16 {
			d = min(first<<try, most)
		}
		return d + time.Duration((rand.Float64()-0.5)/2*float64(d))
	}
}
