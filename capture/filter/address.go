package filter

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// station is an Ethernet address.
func (p *parser) station(q quals) (pred, error) {
	t, err := p.take()
	if err != nil {
		return nil, err
	}
	mac, ok := station(t.text)
	if !ok {
		return nil, p.failTok(t, "an Ethernet address is six bytes, such as 02:00:00:00:00:01")
	}
	at := func(off int) pred {
		return func(k packet) bool { return len(k.b) >= off+6 && [6]byte(k.b[off:]) == mac }
	}
	return directed(q.dir, at(6), at(0)), nil
}

// station parses an Ethernet address; each byte may have one digit or two.
func station(text string) (mac [6]byte, ok bool) {
	parts := strings.Split(text, ":")
	if len(parts) != 6 {
		m, err := net.ParseMAC(text)
		if err != nil || len(m) != 6 {
			return mac, false
		}
		return [6]byte(m), true
	}
	for i, part := range parts {
		v, err := strconv.ParseUint(part, 16, 8)
		if err != nil || len(part) > 2 {
			return mac, false
		}
		mac[i] = byte(v)
	}
	return mac, true
}

// directed joins conditions on the source and on the destination.
func directed(dir string, src, dst pred) pred {
	switch dir {
	case "src":
		return src
	case "dst":
		return dst
	case "and":
		return allOf(src, dst)
	}
	return anyOf(src, dst)
}

// host is an IP address or a name.
func (p *parser) host(q quals) (pred, error) {
	t, err := p.take()
	if err != nil {
		return nil, err
	}
	if p.tok.is("/") {
		return nil, p.failTok(t, "a prefix length goes with net, not with host")
	}
	if _, ok := station(t.text); ok && t.kind == tokAddr {
		return nil, p.failTok(t, "this is an Ethernet address: write ether host, ether src or ether dst")
	}
	a, err := netip.ParseAddr(t.text)
	if err == nil {
		return p.in(q, t, netip.PrefixFrom(a, a.BitLen()))
	}
	if t.kind == tokAddr || t.text[0] >= '0' && t.text[0] <= '9' && strings.Trim(t.text, "0123456789.") == "" {
		return nil, p.failTok(t, "not an IP address")
	}
	if p.lookup == nil {
		return nil, p.failTok(t, "not an IP address")
	}
	addrs, err := p.lookup(t.text)
	if err != nil {
		return nil, p.failTok(t, "%v", err)
	}
	var list []pred
	for _, a := range addrs {
		a = a.Unmap()
		if q.proto == "ip6" == a.Is4() && q.proto != "" {
			continue
		}
		c, err := p.in(q, t, netip.PrefixFrom(a, a.BitLen()))
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, p.failTok(t, "it has no such address")
	}
	return anyOf(list...), nil
}

// net is a network: A/LEN, A mask M, or the leading numbers of an IPv4 one.
func (p *parser) net(q quals) (pred, error) {
	t, err := p.take()
	if err != nil {
		return nil, err
	}
	text, bits := t.text, -1
	if t.kind == tokWord {
		if parts := strings.Split(text, "."); len(parts) < 4 {
			bits = 8 * len(parts)
			text += strings.Repeat(".0", 4-len(parts))
		}
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return nil, p.failTok(t, "a network is written 10.0.0.0/8, 10.1 or 2001:db8::/32")
	}
	if bits < 0 {
		bits = a.BitLen()
	}
	if ok, err := p.accept("/"); err != nil {
		return nil, err
	} else if ok {
		n, isNumber := p.tok.number()
		if !isNumber || n > uint32(a.BitLen()) {
			return nil, p.fail("a prefix length from 0 to %d is wanted here", a.BitLen())
		}
		bits = int(n)
		if err := p.next(); err != nil {
			return nil, err
		}
	} else if ok, err := p.accept("mask"); err != nil {
		return nil, err
	} else if ok {
		m, err := netip.ParseAddr(p.tok.text)
		if err == nil && m.Is4() && a.Is4() {
			bits, _ = net.IPMask(m.AsSlice()).Size()
		}
		if err != nil || !m.Is4() || !a.Is4() || bits == 0 && !m.IsUnspecified() {
			return nil, p.fail("a netmask such as 255.255.255.0 is wanted here")
		}
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	prefix := netip.PrefixFrom(a, bits)
	if prefix.Masked() != prefix {
		return nil, p.failTok(t, "bits are set behind the prefix of %d bits: write %v", bits, prefix.Masked())
	}
	return p.in(q, t, prefix)
}

// in matches frames with an address in a network.
func (p *parser) in(q quals, t token, n netip.Prefix) (pred, error) {
	switch q.proto {
	case "", "ip", "arp", "rarp", "ip6":
	default:
		return nil, p.failTok(t, "%s is no qualifier of an address: write %s and host %s", q.proto, q.proto, t.text)
	}
	a := n.Addr().Unmap()
	if a.Is4() == (q.proto == "ip6") && q.proto != "" || a.Is6() && (q.proto == "ip" || q.proto == "arp" || q.proto == "rarp") {
		return nil, p.failTok(t, "not an address of %s", q.proto)
	}
	l3 := ethLen + p.tags*tagLen
	pair := func(name string, src, dst int) pred {
		return allOf(etherType(p.tags, etherTypes[name]), directed(q.dir, within(n, l3+src), within(n, l3+dst)))
	}
	if a.Is6() {
		return pair("ip6", ip6Src, ip6Dst), nil
	}
	var list []pred
	for _, proto := range []struct {
		name     string
		src, dst int
	}{{"ip", ip4Src, ip4Dst}, {"arp", arpSPA, arpTPA}, {"rarp", arpSPA, arpTPA}} {
		if q.proto == "" || q.proto == proto.name {
			list = append(list, pair(proto.name, proto.src, proto.dst))
		}
	}
	return anyOf(list...), nil
}

// within matches frames that have an address of n at an offset.
func within(n netip.Prefix, at int) pred {
	if n.Addr().Is4() {
		return func(k packet) bool {
			return len(k.b) >= at+4 && n.Contains(netip.AddrFrom4([4]byte(k.b[at:])))
		}
	}
	return func(k packet) bool {
		return len(k.b) >= at+16 && n.Contains(netip.AddrFrom16([16]byte(k.b[at:])))
	}
}
