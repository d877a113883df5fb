package stack

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"time"
)

// fallbackDelay is how long a dial waits for the preferred address family before
// it tries the other one as well (RFC 8305 section 5; net.Dialer's default).
const fallbackDelay = 300 * time.Millisecond

// Dial is DialContext without a time limit of its own.
func (s *Stack) Dial(network, address string) (net.Conn, error) {
	return s.DialContext(context.Background(), network, address)
}

// DialContext connects to "host:port". network is "tcp", "tcp4", "tcp6", "udp",
// "udp4" or "udp6"; a host that is a name is resolved through the stack's own
// name servers, and its addresses are tried as net.Dialer does. It returns a
// *TCPConn or *UDPConn.
func (s *Stack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	addrs, err := s.resolve(ctx, network, address)
	if err != nil {
		return nil, opErr("dial", network, nil, nil, err)
	}
	if strings.HasPrefix(network, "udp") {
		if ctx.Err() != nil {
			return nil, opErr("dial", network, nil, net.UDPAddrFromAddrPort(addrs[0]), ctxErr(ctx))
		}
		c, err := s.UDP(udpNetwork(addrs[0]), netip.AddrPort{}, addrs[0])
		if err != nil {
			return nil, err
		}
		c.ep.SocketOptions().SetBroadcast(true) // as package net does
		return c, nil
	}
	c, err := s.dialTCP(ctx, addrs)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// resolve returns the addresses that "host:port" stands for, preferred first.
func (s *Stack) resolve(ctx context.Context, network, address string) ([]netip.AddrPort, error) {
	ipNetwork := "ip"
	switch network {
	case "tcp", "udp":
	case "tcp4", "udp4":
		ipNetwork = "ip4"
	case "tcp6", "udp6":
		ipNetwork = "ip6"
	default:
		return nil, net.UnknownNetworkError(network)
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, network, service) // numbers, or /etc/services: asks no server
	if err != nil {
		return nil, err
	}
	if host == "" { // this host, as for package net
		host = "127.0.0.1"
		if ipNetwork == "ip6" {
			host = "::1"
		}
	}
	ips, err := s.LookupNetIP(ctx, ipNetwork, host)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip, uint16(port))
	}
	return addrs, nil
}

// dialTCP tries the addresses of the first one's family in order, and after
// fallbackDelay, or once they have failed, those of the other family beside them.
func (s *Stack) dialTCP(ctx context.Context, addrs []netip.AddrPort) (*TCPConn, error) {
	var first, second []netip.AddrPort
	for _, a := range addrs {
		if a.Addr().Is4() == addrs[0].Addr().Is4() {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	if len(second) == 0 {
		return s.dialSerial(ctx, first)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c       *TCPConn
		err     error
		primary bool
	}
	results := make(chan result)
	returned := make(chan struct{})
	defer close(returned)
	race := func(addrs []netip.AddrPort, primary bool) {
		c, err := s.dialSerial(ctx, addrs)
		select {
		case results <- result{c, err, primary}:
		case <-returned:
			if c != nil { // the other family won
				c.Close()
			}
		}
	}
	go race(first, true)
	delay := time.NewTimer(fallbackDelay)
	defer delay.Stop()
	var firstErr error
	running, started := 1, false
	for {
		select {
		case <-delay.C:
			if !started {
				started = true
				running++
				go race(second, false)
			}
		case r := <-results:
			if r.err == nil {
				return r.c, nil
			}
			running--
			if r.primary {
				firstErr = r.err
			}
			if !started {
				started = true
				running++
				go race(second, false)
			} else if running == 0 {
				if firstErr == nil {
					firstErr = r.err
				}
				return nil, firstErr
			}
		}
	}
}

// dialSerial tries addresses one after the other and returns the first error if
// all fail. The time that ctx leaves is shared out, so that one dead address does
// not use all of it up.
func (s *Stack) dialSerial(ctx context.Context, addrs []netip.AddrPort) (*TCPConn, error) {
	var firstErr error
	for i, a := range addrs {
		c, err := s.dialOne(ctx, a, len(addrs)-i)
		if err == nil {
			return c, nil
		}
		if firstErr == nil {
			firstErr = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, firstErr
}

func (s *Stack) dialOne(ctx context.Context, a netip.AddrPort, remaining int) (*TCPConn, error) {
	if deadline, ok := ctx.Deadline(); ok && remaining > 1 {
		const least = 2 * time.Second // less is no fair chance
		left := time.Until(deadline)
		share := min(max(left/time.Duration(remaining), least), left)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, share)
		defer cancel()
	}
	network := "tcp6"
	if a.Addr().Is4() {
		network = "tcp4"
	}
	k, err := s.Socket(network)
	if err != nil {
		return nil, err
	}
	c, err := k.Connect(ctx, a)
	if err != nil {
		return nil, err
	}
	c.setDefaults()
	return c, nil
}

// Listen accepts TCP connections on "host:port", where an empty host means every
// address. network is "tcp", "tcp4" or "tcp6". It returns a *TCPListener.
func (s *Stack) Listen(network, address string) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, opErr("listen", network, nil, nil, err)
	}
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return fail(net.UnknownNetworkError(network))
	}
	local, v6only, err := s.localAddr(network, address)
	if err != nil {
		return fail(err)
	}
	family := "tcp6"
	if local.Addr().Is4() {
		family = "tcp4"
	}
	k, err := s.Socket(family)
	if err != nil {
		return nil, err
	}
	if err := k.SetOption("ipv6.v6only", btoi(v6only)); err != nil {
		k.Close()
		return fail(err)
	}
	if err := k.Bind(local); err != nil {
		k.Close()
		return fail(err)
	}
	l, err := k.Listen(0)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// ListenPacket opens a UDP socket on "host:port", where an empty host means every
// address. network is "udp", "udp4" or "udp6". It returns a *UDPConn.
func (s *Stack) ListenPacket(network, address string) (net.PacketConn, error) {
	fail := func(err error) (net.PacketConn, error) {
		return nil, opErr("listen", network, nil, nil, err)
	}
	switch network {
	case "udp", "udp4", "udp6":
	default:
		return fail(net.UnknownNetworkError(network))
	}
	local, v6only, err := s.localAddr(network, address)
	if err != nil {
		return fail(err)
	}
	c, err := s.udp(udpNetwork(local), local, netip.AddrPort{}, map[string]int{"ipv6.v6only": btoi(v6only)})
	if err != nil {
		return nil, err
	}
	c.ep.SocketOptions().SetBroadcast(true)
	return c, nil
}

func udpNetwork(a netip.AddrPort) string {
	if a.Addr().Is4() {
		return "udp4"
	}
	return "udp6"
}

// localAddr parses an address to listen on. v6only says that it is for IPv6
// alone although it is unspecified.
func (s *Stack) localAddr(network, address string) (local netip.AddrPort, v6only bool, err error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return local, false, err
	}
	port, err := net.DefaultResolver.LookupPort(context.Background(), network, service)
	if err != nil {
		return local, false, err
	}
	v4, v6 := strings.HasSuffix(network, "4"), strings.HasSuffix(network, "6")
	var ip netip.Addr
	switch {
	case host == "" && v4:
		ip = netip.IPv4Unspecified()
	case host == "":
		ip = netip.IPv6Unspecified()
	case host == "localhost":
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if v6 {
			ip = netip.IPv6Loopback()
		}
	default:
		if ip, err = netip.ParseAddr(host); err != nil {
			return local, false, &net.AddrError{Err: "listen on an IP address, not on a name", Addr: host}
		}
		ip = ip.Unmap()
	}
	if ip.Is4() && v6 || ip.Is6() && v4 {
		return local, false, &net.AddrError{Err: "no suitable address for " + network, Addr: host}
	}
	return netip.AddrPortFrom(ip, uint16(port)), v6 && ip.IsUnspecified(), nil
}
