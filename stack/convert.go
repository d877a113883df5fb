package stack

import (
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
)

// toAddress converts an IP; IPv4-mapped IPv6 addresses become IPv4.
func toAddress(ip netip.Addr) tcpip.Address {
	ip = ip.Unmap().WithZone("")
	if !ip.IsValid() {
		return tcpip.Address{}
	}
	return tcpip.AddrFromSlice(ip.AsSlice())
}

func fromAddress(a tcpip.Address) netip.Addr {
	ip, _ := netip.AddrFromSlice(a.AsSlice())
	return ip
}

// protocolOf returns the network protocol of an IP.
func protocolOf(ip netip.Addr) tcpip.NetworkProtocolNumber {
	if ip.Unmap().Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// toFull converts an address to bind or connect to. The unspecified address
// becomes netstack's empty one. An IPv6 link-local or multicast address is bound to the one
// interface that there is.
func toFull(ap netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{Port: ap.Port()}
	ip := ap.Addr().Unmap()
	if !ip.IsValid() || ip.IsUnspecified() {
		return f
	}
	f.Addr = toAddress(ip)
	if ip.IsLinkLocalUnicast() && ip.Is6() || ip.IsMulticast() {
		f.NIC = nicID
	}
	return f
}

// fromFull converts an address of an endpoint of the given network protocol;
// an empty one becomes the unspecified address.
func fromFull(f tcpip.FullAddress, proto tcpip.NetworkProtocolNumber) netip.AddrPort {
	ip, ok := netip.AddrFromSlice(f.Addr.AsSlice())
	switch {
	case ok:
		ip = ip.Unmap()
	case proto == ipv4.ProtocolNumber:
		ip = netip.IPv4Unspecified()
	default:
		ip = netip.IPv6Unspecified()
	}
	return netip.AddrPortFrom(ip, f.Port)
}

// addrPort converts an address of package net. The second result is false for one
// that is neither TCP nor UDP.
func addrPort(a net.Addr) (netip.AddrPort, bool) {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort(), true
	case *net.TCPAddr:
		return a.AddrPort(), true
	}
	return netip.AddrPort{}, false
}
