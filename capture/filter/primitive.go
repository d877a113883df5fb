package filter

import "strings"

// quals are the qualifiers of a value.
type quals struct {
	proto string // "", "ether", "ip", "ip6", "arp", "rarp", or a transport
	dir   string // "", "src", "dst", "and"
	typ   string // "", "host", "net", "port", "portrange", "proto"
}

// primitive is one condition that is no comparison.
func (p *parser) primitive() (pred, error) {
	if p.startsValue() {
		return p.value(p.quals)
	}
	if c, ok, err := p.alone(); ok || err != nil {
		return c, err
	}
	var q quals
	if p.isProto() {
		q.proto = p.tok.text
		if err := p.next(); err != nil {
			return nil, err
		}
		if c, ok, err := p.cast(q.proto); ok || err != nil {
			return c, err
		}
	}
	if err := p.direction(&q); err != nil {
		return nil, err
	}
	if p.tok.is("host", "net", "port", "portrange", "proto") {
		q.typ = p.tok.text
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	switch {
	case q == quals{}:
		return nil, p.fail("not a condition that is known: see ustack help capture")
	case q.typ == "" && q.dir == "" && !p.startsValue():
		if q.proto == "ether" {
			return nil, p.fail("ether needs host, src, dst, proto, broadcast or multicast")
		}
		p.quals = q
		return p.protocol(q.proto), nil
	}
	return p.values(q)
}

func (p *parser) isProto() bool {
	if p.tok.kind != tokWord || p.tok.quoted {
		return false
	}
	_, l4 := ipProtos[p.tok.text]
	return l4 || p.tok.is("ether", "ip", "ip6", "arp", "rarp")
}

// keywords are the words that are no values.
var keywords = map[string]bool{
	"and": true, "or": true, "not": true, "src": true, "dst": true, "host": true, "net": true,
	"mask": true, "port": true, "portrange": true, "proto": true, "ether": true, "vlan": true, "less": true,
	"greater": true, "len": true, "broadcast": true, "multicast": true, "in": true, "out": true,
	"inbound": true, "outbound": true, "dropped": true,
	"gateway": true, "protochain": true, "mpls": true, "pppoed": true, "pppoes": true, "geneve": true,
}

// startsValue reports whether the next token is a value: an address, a number or a name.
func (p *parser) startsValue() bool {
	switch p.tok.kind {
	case tokAddr:
		return true
	case tokWord:
		if p.tok.quoted {
			return true
		}
		if keywords[p.tok.text] || p.isProto() {
			return false
		}
		// Without qualifiers a lone word is more likely a misspelt one than a host's name.
		c := p.tok.text[0]
		return p.quals.typ != "" || p.quals.dir != "" || '0' <= c && c <= '9' || strings.Contains(p.tok.text, ".")
	}
	return false
}

// alone parses the primitives that have no qualifiers.
func (p *parser) alone() (c pred, ok bool, err error) {
	switch {
	case p.tok.is("in", "inbound"):
		c = func(k packet) bool { return k.m.In }
	case p.tok.is("out", "outbound"):
		c = func(k packet) bool { return !k.m.In && !k.m.NoWay }
	case p.tok.is("dropped"):
		p.verdict = true
		c = func(k packet) bool { return k.m.Dropped }
	case p.tok.is("broadcast"):
		c = broadcast
	case p.tok.is("multicast"):
		c = multicast
	case p.tok.is("less", "greater"):
		less := p.tok.is("less")
		if err := p.next(); err != nil {
			return nil, false, err
		}
		n, isNumber := p.tok.number()
		if !isNumber {
			return nil, false, p.fail("a number of bytes is wanted here")
		}
		if c = func(k packet) bool { return uint64(k.m.WireLen) >= uint64(n) }; less {
			c = func(k packet) bool { return uint64(k.m.WireLen) <= uint64(n) }
		}
	case p.tok.is("vlan"):
		c, err = p.vlan()
		return c, err == nil, err
	case p.tok.is("gateway", "protochain", "mpls", "pppoed", "pppoes", "geneve"):
		return nil, false, p.fail("ustack's filters do not have it")
	default:
		return nil, false, nil
	}
	return c, true, p.next()
}

func broadcast(k packet) bool {
	return len(k.b) >= 6 && [6]byte(k.b) == [6]byte{255, 255, 255, 255, 255, 255}
}

func multicast(k packet) bool { return len(k.b) > 0 && k.b[0]&1 != 0 }

// vlan is vlan [ID]; what follows looks behind the tag.
func (p *parser) vlan() (pred, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	at := ethLen - 2 + p.tags*tagLen
	p.tags++
	tagged := func(k packet) bool {
		t, ok := k.u16(at)
		return ok && (t == 0x8100 || t == 0x88a8 || t == 0x9100)
	}
	if p.tok.kind != tokWord || p.tok.text[0] < '0' || p.tok.text[0] > '9' {
		return tagged, nil
	}
	id, ok := p.tok.number()
	if !ok || id > 4095 {
		return nil, p.fail("a VLAN is a number from 0 to 4095")
	}
	return allOf(tagged, func(k packet) bool {
		tci, ok := k.u16(at + 2)
		return ok && uint32(tci&0xfff) == id
	}), p.next()
}

// cast is the broadcast or multicast behind a protocol.
func (p *parser) cast(proto string) (c pred, ok bool, err error) {
	switch l3 := ethLen + p.tags*tagLen; {
	case p.tok.is("broadcast") && proto == "ether":
		c = broadcast
	case p.tok.is("multicast") && proto == "ether":
		c = multicast
	case p.tok.is("multicast") && proto == "ip":
		c = allOf(etherType(p.tags, typeIP4), func(k packet) bool { v, ok := k.u8(l3 + ip4Dst); return ok && v >= 224 })
	case p.tok.is("multicast") && proto == "ip6":
		c = allOf(etherType(p.tags, typeIP6), func(k packet) bool { v, ok := k.u8(l3 + ip6Dst); return ok && v == 255 })
	case p.tok.is("broadcast", "multicast"):
		return nil, false, p.fail("%s has no %s that could be told: use ether %s", proto, p.tok.text, p.tok.text)
	default:
		return nil, false, nil
	}
	return c, true, p.next()
}

// direction parses src, dst, src or dst, src and dst.
func (p *parser) direction(q *quals) error {
	if !p.tok.is("src", "dst") {
		return nil
	}
	first := p.tok
	if err := p.next(); err != nil {
		return err
	}
	q.dir = first.text
	if !p.tok.is("or", "and", "||", "&&") {
		return nil
	}
	second, err := p.peek()
	if err != nil || !second.is("src", "dst") || second.text == first.text {
		return err
	}
	q.dir = ""
	if p.tok.is("and", "&&") {
		q.dir = "and"
	}
	if err := p.next(); err != nil {
		return err
	}
	return p.next()
}

// values is {not} a value, or several in parentheses.
func (p *parser) values(q quals) (pred, error) {
	p.quals = q
	not, err := p.accept("not", "!")
	if err != nil {
		return nil, err
	}
	if not {
		c, err := p.values(q)
		return func(k packet) bool { return !c(k) }, err
	}
	start := p.tok
	if !p.tok.is("(") {
		return p.value(q)
	}
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail("nested deeper than %d", maxDepth)
	}
	defer func() { p.depth-- }()
	if err := p.next(); err != nil {
		return nil, err
	}
	all, err := p.values(q)
	for err == nil && p.tok.is("and", "&&", "or", "||") {
		join := oneOf
		if p.tok.is("and", "&&") {
			join = allOf
		}
		if err = p.next(); err != nil {
			break
		}
		var c pred
		c, err = p.values(q)
		all = join(all, c)
	}
	if err != nil {
		return nil, err
	}
	return all, p.expect(")", "to close "+p.place(start))
}

// value is one value with qualifiers.
func (p *parser) value(q quals) (pred, error) {
	p.quals = q
	if p.tok.kind != tokWord && p.tok.kind != tokAddr {
		return nil, p.fail("%s is missing", valueNames[q.typ])
	}
	if !p.tok.quoted && (keywords[p.tok.text] || p.isProto() && q.typ != "proto") {
		return nil, p.fail("%s is missing before it", valueNames[q.typ])
	}
	switch q.typ {
	case "net":
		return p.net(q)
	case "port", "portrange":
		return p.ports(q)
	case "proto":
		return p.proto(q)
	}
	if q.proto == "ether" {
		return p.station(q)
	}
	return p.host(q)
}

var valueNames = map[string]string{
	"": "an address", "host": "an address", "net": "a network", "port": "a port", "portrange": "a range of ports", "proto": "a protocol",
}

// protocol is a protocol's name alone.
func (p *parser) protocol(name string) pred {
	if t, ok := etherTypes[name]; ok {
		return etherType(p.tags, t)
	}
	proto := ipProtos[name]
	var list []pred
	if proto.v4 {
		list = append(list, protocol4(p.tags, proto.number))
	}
	if proto.v6 {
		list = append(list, protocol6(p.tags, proto.number))
	}
	return anyOf(list...)
}

// proto is a protocol by number or name.
func (p *parser) proto(q quals) (pred, error) {
	if q.dir != "" {
		return nil, p.fail("a protocol has no %s", q.dir)
	}
	t, err := p.take()
	if err != nil {
		return nil, err
	}
	n, isNumber := t.number()
	switch q.proto {
	case "ether":
		v, ok := etherTypes[t.text]
		if isNumber {
			v, ok = uint16(n), n <= 0xffff
		}
		if !ok {
			return nil, p.failTok(t, "an EtherType is a number up to 0xffff, or ip, ip6, arp, rarp, lldp or loopback")
		}
		return etherType(p.tags, v), nil
	case "", "ip", "ip6":
		v, ok := ipProtos[t.text]
		if isNumber {
			v.number, ok = byte(n), n <= 255
		}
		if !ok {
			return nil, p.failTok(t, "an IP protocol is a number up to 255, or a name such as tcp or icmp6")
		}
		var list []pred
		if q.proto != "ip6" {
			list = append(list, protocol4(p.tags, v.number))
		}
		if q.proto != "ip" {
			list = append(list, protocol6(p.tags, v.number))
		}
		return anyOf(list...), nil
	}
	return nil, p.failTok(t, "proto goes with ether, ip or ip6, not with %s", q.proto)
}
