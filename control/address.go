package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// resolve looks a name up; an address stands for itself. network is "", "ip", "ip4" or "ip6".
func resolve(ctx context.Context, b Backend, network, name string) ([]netip.Addr, error) {
	switch network {
	case "":
		network = "ip"
	case "ip", "ip4", "ip6":
	default:
		return nil, invalid(fmt.Sprintf("network %q: resolve takes ip, ip4 or ip6", network))
	}
	if name == "" {
		return nil, invalid("no name to resolve")
	}
	if a, err := netip.ParseAddr(name); err == nil {
		a = a.Unmap()
		if network == "ip4" && !a.Is4() || network == "ip6" && a.Is4() {
			return nil, &net.DNSError{Err: "no suitable address", Name: name, IsNotFound: true}
		}
		return []netip.Addr{a}, nil
	}
	addrs, err := b.LookupNetIP(ctx, network, name)
	if err == nil && len(addrs) == 0 {
		err = &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return addrs, err
}

// splitAddress splits host:port; the port may be a service name.
func splitAddress(proto, address string) (host string, port uint16, err error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, invalid(fmt.Sprintf("address %q: give HOST:PORT: %v", address, plainAddrError(err)))
	}
	if service == "" {
		return host, 0, nil
	}
	if n, err := strconv.ParseUint(service, 10, 16); err == nil {
		return host, uint16(n), nil
	}
	n, err := net.LookupPort(proto, service)
	if err != nil {
		return "", 0, invalid(fmt.Sprintf("address %q: no such port: %q", address, service))
	}
	return host, uint16(n), nil
}

func plainAddrError(err error) string {
	var a *net.AddrError
	if errors.As(err, &a) {
		return a.Err
	}
	return err.Error()
}

// splitNetwork takes "tcp6" apart into "tcp" and the family suffix "6".
func splitNetwork(network, proto string) (family string, err error) {
	switch network {
	case proto, proto + "4", proto + "6":
		return network[len(proto):], nil
	}
	return "", invalid(fmt.Sprintf("network %q: take %s, %s4 or %s6", network, proto, proto, proto))
}

// familyOf is "4" or "6".
func familyOf(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

// remotes turns the address of a dial into the addresses to try, in order. An empty host is
// the stack itself.
func remotes(ctx context.Context, b Backend, proto, family, address string) ([]netip.AddrPort, error) {
	host, port, err := splitAddress(proto, address)
	if err != nil {
		return nil, err
	}
	if host == "" {
		host = "127.0.0.1"
		if family == "6" {
			host = "::1"
		}
	}
	addrs, err := resolve(ctx, b, "ip"+family, host)
	if err != nil {
		return nil, err
	}
	out := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		out[i] = netip.AddrPortFrom(a.Unmap(), port)
	}
	return out, nil
}

// locals turns the address of a listener into the addresses to try, in order: for any address
// of any family that is [::], which takes IPv4 too, and 0.0.0.0 where IPv6 is missing.
func locals(ctx context.Context, b Backend, proto, family, address string) ([]netip.AddrPort, error) {
	host, port, err := splitAddress(proto, address)
	if err != nil {
		return nil, err
	}
	any4, any6 := netip.AddrPortFrom(netip.IPv4Unspecified(), port), netip.AddrPortFrom(netip.IPv6Unspecified(), port)
	if host == "" || host == "*" {
		switch family {
		case "4":
			return []netip.AddrPort{any4}, nil
		case "6":
			return []netip.AddrPort{any6}, nil
		}
		return []netip.AddrPort{any6, any4}, nil
	}
	addrs, err := resolve(ctx, b, "ip"+family, host)
	if err != nil {
		return nil, err
	}
	return []netip.AddrPort{netip.AddrPortFrom(addrs[0].Unmap(), port)}, nil
}

// noFamily says that err means "this address family is not there", so that another one is tried.
func noFamily(err error) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EPROTONOSUPPORT)
}

// setOptions sets options in no particular order.
func setOptions(o Options, options map[string]int) error {
	for name, v := range options {
		if err := o.SetOption(name, v); err != nil {
			return fmt.Errorf("option %s: %w", name, err)
		}
	}
	return nil
}

// dialTCP connects as r asks: from sock when there is one. using, unless nil, learns of each socket that is
// about to connect.
func dialTCP(ctx context.Context, b Backend, sock Socket, r Request, using func(Socket)) (Conn, error) {
	if r.Network == "" {
		r.Network = "tcp"
	}
	family, err := splitNetwork(r.Network, "tcp")
	if err != nil {
		return nil, err
	}
	if using == nil {
		using = func(Socket) {}
	}
	if sock == nil && r.Local == "" && len(r.Options) == 0 && r.Skip == 0 {
		if _, _, err := splitAddress("tcp", r.Address); err != nil {
			return nil, err
		}
		c, err := b.DialContext(ctx, r.Network, r.Address)
		if err != nil {
			return nil, err
		}
		conn, ok := c.(Conn)
		if !ok {
			c.Close()
			return nil, fmt.Errorf("backend's connection is a %T, not a Conn: %w", c, errors.ErrUnsupported)
		}
		return conn, nil
	}
	addrs, err := remotes(ctx, b, "tcp", family, r.Address)
	if err != nil {
		return nil, err
	}
	if sock != nil {
		if err := setOptions(sock, r.Options); err != nil {
			return nil, err
		}
		using(sock)
		return sock.Connect(ctx, addrs[0])
	}
	var first error
	for _, a := range addrs {
		conn, err := dialFrom(ctx, b, a, r, using)
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

func dialFrom(ctx context.Context, b Backend, remote netip.AddrPort, r Request, using func(Socket)) (Conn, error) {
	var local netip.AddrPort
	if r.Local != "" {
		all, err := locals(ctx, b, "tcp", familyOf(remote.Addr()), r.Local)
		if err != nil {
			return nil, err
		}
		local = all[0]
	}
	sock, err := b.Socket("tcp" + familyOf(remote.Addr()))
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	if err := setOptions(sock, r.Options); err != nil {
		return nil, err
	}
	if local.IsValid() {
		if err := sock.Bind(local); err != nil {
			return nil, err
		}
	}
	using(sock)
	return sock.Connect(ctx, remote)
}

// listenTCP makes a listener as r asks: from sock when there is one.
func listenTCP(ctx context.Context, b Backend, sock Socket, r Request) (Listener, error) {
	backlog := r.Backlog
	if backlog <= 0 {
		backlog = 1024
	}
	if sock != nil {
		if err := setOptions(sock, r.Options); err != nil {
			return nil, err
		}
		return sock.Listen(backlog)
	}
	if r.Network == "" {
		r.Network = "tcp"
	}
	family, err := splitNetwork(r.Network, "tcp")
	if err != nil {
		return nil, err
	}
	addrs, err := locals(ctx, b, "tcp", family, r.Address)
	if err != nil {
		return nil, err
	}
	for i, a := range addrs {
		l, err := listenOn(b, a, backlog, r.Options)
		if err == nil || i == len(addrs)-1 || !noFamily(err) {
			return l, err
		}
	}
	return nil, syscall.EADDRNOTAVAIL
}

func listenOn(b Backend, local netip.AddrPort, backlog int, options map[string]int) (Listener, error) {
	sock, err := b.Socket("tcp" + familyOf(local.Addr()))
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	if err := setOptions(sock, options); err != nil {
		return nil, err
	}
	if err := sock.Bind(local); err != nil {
		return nil, err
	}
	return sock.Listen(backlog)
}

// openUDP makes a UDP socket as r asks.
func openUDP(ctx context.Context, b Backend, r Request) (PacketConn, error) {
	if r.Network == "" {
		r.Network = "udp"
	}
	family, err := splitNetwork(r.Network, "udp")
	if err != nil {
		return nil, err
	}
	var remote netip.AddrPort
	if r.Address != "" {
		addrs, err := remotes(ctx, b, "udp", family, r.Address)
		if err != nil {
			return nil, err
		}
		remote = addrs[0]
		family = familyOf(remote.Addr())
	}
	addrs := []netip.AddrPort{{}}
	if r.Local != "" || !remote.IsValid() {
		local := r.Local
		if local == "" {
			local = ":0"
		}
		if addrs, err = locals(ctx, b, "udp", family, local); err != nil {
			return nil, err
		}
	}
	for i, a := range addrs {
		f := family
		if a.IsValid() {
			f = familyOf(a.Addr())
		}
		pc, err := b.UDP("udp"+f, a, remote, r.Options)
		if err == nil {
			return pc, nil
		}
		if i == len(addrs)-1 || !noFamily(err) {
			return nil, err
		}
	}
	return nil, syscall.EADDRNOTAVAIL
}
