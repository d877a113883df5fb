package stack

import (
	"net"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
)

// SetOption sets an option by name, see OptionNames. "ip.mtu_discover" is for what goes to IPv4
// addresses, "ipv6.mtu_discover" for the others: with IP_PMTUDISC_DO a datagram longer than the route's
// MTU is EMSGSIZE, else it goes in fragments.
func (c *UDPConn) SetOption(name string, value int) error {
	if name == "ipv6.mtu_discover" {
		// netstack knows it for IPv4 alone.
		switch {
		case c.proto != ipv6.ProtocolNumber:
			return opErr("set "+name, "ustack", nil, nil, syscall.ENOPROTOOPT)
		case value != pmtuDont && value != pmtuWant && value != pmtuDo:
			return opErr("set "+name, "ustack", nil, nil, syscall.EINVAL)
		}
		c.whole6.Store(value == pmtuDo)
		return nil
	}
	err := c.pollable.SetOption(name, value)
	if err == nil && name == "ip.mtu_discover" {
		c.whole4.Store(value == pmtuDo)
	}
	return err
}

// fits says whether a datagram of n bytes may go to an address: in one piece, where only that is allowed
// (RFC 8200 section 5, IP_MTU_DISCOVER in ip(7)).
func (c *UDPConn) fits(n int, to net.Addr) bool {
	if !c.whole4.Load() && !c.whole6.Load() {
		return true
	}
	ap, ok := addrPort(to)
	a := ap.Addr().Unmap()
	proto, whole := tcpip.NetworkProtocolNumber(ipv4.ProtocolNumber), c.whole4.Load()
	if a.Is6() {
		proto, whole = ipv6.ProtocolNumber, c.whole6.Load()
	}
	if !ok || !whole {
		return true
	}
	full := toPeer(ap)
	route, terr := c.s.ns.FindRoute(full.NIC, tcpip.Address{}, full.Addr, proto, false)
	if terr != nil {
		return true // the send tells
	}
	defer route.Release()
	return header.UDPMinimumSize+n <= int(route.MTU())
}
