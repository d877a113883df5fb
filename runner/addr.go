package runner

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sizes of sockaddr_in and sockaddr_in6 in bytes, and the least that the kernel takes of
// the latter (include/net/ipv6.h: SIN6_LEN_RFC2133).
const (
	sizeIn4    = unix.SizeofSockaddrInet4
	sizeIn6    = unix.SizeofSockaddrInet6
	minIn6     = 24
	sizeFamily = 2
	// maxSockaddr is the longest address a call may pass (sockaddr_storage).
	maxSockaddr = 128
)

// A sockaddr is an address as the program passed it.
type sockaddr struct {
	family uint16
	// addr is as it was written: an IPv4-mapped address stays one. Its zone is the number of
	// the scope, if any.
	addr netip.AddrPort
}

// parseSockaddr decodes what a program passed as an address, for a socket of domain. Errors are
// those of inet_bind, inet6_bind and the connects: EINVAL for one too short, EAFNOSUPPORT for
// another family. AF_UNSPEC is not an error: it has no addr.
func parseSockaddr(b []byte, domain int) (sockaddr, syscall.Errno) {
	if len(b) < sizeFamily || len(b) > maxSockaddr {
		return sockaddr{}, unix.EINVAL
	}
	s := sockaddr{family: binary.NativeEndian.Uint16(b)}
	size := sizeIn4
	if domain == unix.AF_INET6 {
		size = minIn6
	}
	switch {
	case s.family == unix.AF_UNSPEC:
	case len(b) < size:
		return sockaddr{}, unix.EINVAL
	case int(s.family) != domain:
		return sockaddr{}, unix.EAFNOSUPPORT
	case domain == unix.AF_INET:
		s.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:]))
	default:
		a := netip.AddrFrom16([16]byte(b[8:24]))
		if len(b) >= sizeIn6 && a.IsLinkLocalUnicast() {
			if scope := binary.NativeEndian.Uint32(b[24:]); scope != 0 {
				a = a.WithZone(strconv.FormatUint(uint64(scope), 10))
			}
		}
		s.addr = netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[2:]))
	}
	return s, 0
}

// appendSockaddr appends an address as a socket of domain tells it: IPv4 addresses are
// IPv4-mapped on an AF_INET6 socket. The zero AddrPort is any address.
func appendSockaddr(b []byte, domain int, a netip.AddrPort) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(domain))
	b = binary.BigEndian.AppendUint16(b, a.Port())
	addr := a.Addr()
	if domain == unix.AF_INET {
		var ip [4]byte
		if addr = addr.Unmap(); addr.Is4() {
			ip = addr.As4()
		}
		b = append(b, ip[:]...)
		return append(b, make([]byte, 8)...)
	}
	b = append(b, 0, 0, 0, 0) // flow label
	var ip [16]byte
	if addr.IsValid() {
		ip = addr.As16()
	}
	b = append(b, ip[:]...)
	scope, _ := strconv.ParseUint(addr.Zone(), 10, 32)
	return binary.NativeEndian.AppendUint32(b, uint32(scope))
}

// readSockaddr reads an address argument of the program's.
func (c *call) readSockaddr(addr, length uint64, domain int) (sockaddr, syscall.Errno) {
	n := int(int32(length))
	if n < 0 || n > maxSockaddr {
		return sockaddr{}, unix.EINVAL
	}
	b := make([]byte, n)
	if errno := c.read(addr, b); errno != 0 {
		return sockaddr{}, errno
	}
	return parseSockaddr(b, domain)
}

// wire is how control's messages write an address: unmapped, with the link instead of a scope.
func (s sockaddr) wire() string {
	a := s.addr.Addr().Unmap()
	return net.JoinHostPort(a.String(), strconv.Itoa(int(s.addr.Port())))
}

// parseWire reads an address of control's messages; the zero AddrPort if there is none.
func parseWire(s string) netip.AddrPort {
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a
	}
	return netip.AddrPort{}
}
