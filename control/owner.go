package control

import (
	"net"
	"net/netip"
	"strings"
)

// newOwnerKey writes addresses the one way in which they compare: IPv4 where they
// are IPv4-mapped, and "*" for any address and for port 0.
func newOwnerKey(network, local, remote string) ownerKey {
	return ownerKey{strings.TrimRight(network, "46"), plainAddr(local), plainAddr(remote)}
}

func plainAddr(s string) string {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		host, port, err := net.SplitHostPort(s)
		if err != nil || (port == "0" || port == "*") && (host == "" || host == "*") {
			return ""
		}
		if host == "" || host == "*" {
			return "*:" + port
		}
		return s
	}
	a := ap.Addr().Unmap().WithZone("")
	if !a.IsUnspecified() {
		return netip.AddrPortFrom(a, ap.Port()).String()
	}
	if ap.Port() == 0 {
		return ""
	}
	_, port, _ := net.SplitHostPort(s)
	return "*:" + port
}
