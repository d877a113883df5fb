package filter

import (
	"bytes"
	"net"
	"strconv"
	"strings"
)

// ports is one port or a range.
func (p *parser) ports(q quals) (pred, error) {
	t, err := p.take()
	if err != nil {
		return nil, err
	}
	protos := []byte{protoTCP, protoUDP, protoSCTP}
	if q.proto != "" {
		l4, ok := ipProtos[q.proto]
		if !ok || bytes.IndexByte(protos, l4.number) < 0 {
			return nil, p.failTok(t, "%s has no ports: use tcp, udp or sctp", q.proto)
		}
		protos = []byte{l4.number}
	}
	low, ok := portNumber(t)
	if !ok && q.typ == "port" {
		low, protos, ok = service(t.text, protos)
	}
	high := low
	if q.typ == "portrange" {
		if first, last, isRange := strings.Cut(t.text, "-"); isRange {
			low, ok = portNumber(token{kind: tokWord, text: first})
			var ok2 bool
			high, ok2 = portNumber(token{kind: tokWord, text: last})
			ok = ok && ok2
		}
		if !ok {
			return nil, p.failTok(t, "a range of ports is written 8000-8080")
		}
		low, high = min(low, high), max(low, high)
	}
	if !ok {
		return nil, p.failTok(t, "a port is a number from 0 to 65535, or the name of a service")
	}
	var list []pred
	for _, proto := range protos {
		for _, find := range []header{transport4(p.tags, proto), transport6(p.tags, proto)} {
			at := func(off int) pred {
				return func(k packet) bool {
					l4, ok := find(k)
					if !ok {
						return false
					}
					v, ok := k.u16(l4 + off)
					return ok && low <= v && v <= high
				}
			}
			list = append(list, directed(q.dir, at(0), at(2)))
		}
	}
	return anyOf(list...), nil
}

func portNumber(t token) (uint16, bool) {
	n, err := strconv.ParseUint(t.text, 0, 16)
	return uint16(n), err == nil
}

// service looks the name of a service up, and with which of protos it goes.
func service(name string, protos []byte) (port uint16, with []byte, ok bool) {
	for _, proto := range []struct {
		number byte
		name   string
	}{{protoTCP, "tcp"}, {protoUDP, "udp"}} {
		if bytes.IndexByte(protos, proto.number) < 0 {
			continue
		}
		n, err := net.LookupPort(proto.name, name)
		if err == nil && 0 <= n && n <= 65535 && (!ok || uint16(n) == port) {
			port, with, ok = uint16(n), append(with, proto.number), true
		}
	}
	return port, with, ok
}
