package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// parseInterfacePrefix parses the address of an interface with the length of its
// network: 10.0.0.4/24. The address must be one that a host can have.
func parseInterfacePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		if a, aerr := netip.ParseAddr(text); aerr == nil {
			return p, fmt.Errorf("the prefix length is missing: write %s/%d", a.WithZone(""), map[bool]int{true: 24, false: 64}[a.Is4()])
		}
		if i := strings.IndexByte(text, '/'); i > 0 {
			if a, aerr := netip.ParseAddr(text[:i]); aerr == nil {
				return p, fmt.Errorf("the prefix length must be 1 to %d", a.BitLen())
			}
		}
		return p, errors.New("not an address with a prefix length: write one such as 10.0.0.4/24 or 2001:db8::4/64")
	}
	a := p.Addr()
	switch {
	case a.Is4In6():
		return p, fmt.Errorf("an IPv4-mapped address: write %s", a.Unmap())
	case p.Bits() == 0:
		return p, fmt.Errorf("the prefix length must be 1 to %d", a.BitLen())
	case !unicast(a):
		return p, errors.New("not an address that a host can have")
	case a.Is4() && p.Bits() < 31 && a == p.Masked().Addr():
		return p, fmt.Errorf("the address of the network itself: write a host's, such as %s/%d", a.Next(), p.Bits())
	case a.Is4() && p.Bits() < 31 && !p.Contains(a.Next()):
		return p, fmt.Errorf("the broadcast address of the network: write a host's, such as %s/%d", a.Prev(), p.Bits())
	}
	return p, nil
}

// unicast reports whether a host other than this one can have the address.
func unicast(a netip.Addr) bool {
	a = a.Unmap()
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != broadcast
}

// onLink reports whether an address is in the network of any of prefixes.
func onLink(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// listOf prints prefixes for the end of an error message: " (10.0.0.4/24)".
func listOf(prefixes []netip.Prefix) string {
	if len(prefixes) == 0 {
		return ""
	}
	var texts []string
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	return " (" + strings.Join(texts, ", ") + ")"
}

// parseServer parses IP, IP:PORT or [IP]:PORT; the port is 53 where it is absent.
func parseServer(text string) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	server := netip.AddrPortFrom(a, 53)
	if err != nil {
		if server, err = netip.ParseAddrPort(text); err != nil {
			return server, errors.New("not a server: write IP or IP:PORT, such as 192.0.2.53 or [2001:db8::53]:5353")
		}
	}
	if server.Port() == 0 {
		return server, errors.New("port 0: write 1 to 65535")
	}
	if a := server.Addr(); !unicast(a) && !a.IsLoopback() {
		return server, errors.New("not the address of a host")
	}
	return netip.AddrPortFrom(server.Addr().Unmap(), server.Port()), nil
}

// checkIfName holds name to what the kernel allows for an interface
// (dev_valid_name in net/core/dev.c).
func checkIfName(name string) error {
	bad := func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r > '~' }
	if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsFunc(name, bad) {
		return errors.New("not the name of an interface: use 1 to 15 printable characters without '/' and ':'")
	}
	return nil
}

// isDomain reports whether d is a domain name of letters, digits, hyphens and
// underscores (RFC 1035 section 2.3.1, relaxed as resolvers are).
func isDomain(d string) bool {
	d = strings.TrimSuffix(d, ".")
	if d == "" || len(d) > 253 {
		return false
	}
	for _, label := range strings.Split(d, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
				return false
			}
		}
	}
	return true
}
