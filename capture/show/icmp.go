package show

import "fmt"

// icmp4 is RFC 792.
func (l *line) icmp4(d datagram, b []byte) {
	if len(b) < 8 {
		l.say("ICMP [|icmp]")
		return
	}
	l.say("ICMP ")
	switch typ, code := b[0], b[1]; typ {
	case 0, 8:
		what := "reply"
		if typ == 8 {
			what = "request"
		}
		l.say("echo %s, id %d, seq %d", what, be16(b[4:]), be16(b[6:]))
	case 3:
		l.unreachable4(code, be16(b[6:]), b[8:])
	case 5:
		kinds := [...]string{"net", "host", "tos-net", "tos-host"}
		if int(code) < len(kinds) {
			about, _ := cited4(b[8:])
			l.say("redirect %s to %s %s", about, kinds[code], addr4(b[4:8]))
		} else {
			l.say("redirect-#%d", code)
		}
	case 11:
		if code == 0 {
			l.say("time exceeded in-transit")
		} else {
			l.say("ip reassembly time exceeded")
		}
	case 12:
		l.say("parameter problem - octet %d", b[4])
	default:
		l.say("type-%d", typ)
	}
	l.say(", length %d", d.length)
	if l.o.Verbose {
		l.say(", %s", l.checksum(d, b, 2, false))
	}
}

// cited4 returns the destination of the datagram that an error cites, and what of it is.
func cited4(b []byte) (dst, port string) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return "[|ip]", "[|ip]"
	}
	header := int(b[0]&0xf) * 4
	dst = addr4(b[16:20]).String()
	return dst, cited(b[9], b, header)
}

// cited names the port of a cited transport.
func cited(proto byte, b []byte, header int) string {
	name := map[byte]string{protoTCP: "tcp", protoUDP: "udp"}[proto]
	if name == "" || len(b) < header+4 {
		return fmt.Sprintf("protocol %d port", proto)
	}
	return fmt.Sprintf("%s port %d", name, be16(b[header+2:]))
}

func (l *line) unreachable4(code byte, mtu uint16, b []byte) {
	dst, port := cited4(b)
	switch code {
	case 0:
		l.say("net %s unreachable", dst)
	case 1:
		l.say("host %s unreachable", dst)
	case 2:
		proto := byte(0)
		if len(b) > 9 {
			proto = b[9]
		}
		l.say("%s protocol %d unreachable", dst, proto)
	case 3:
		l.say("%s %s unreachable", dst, port)
	case 4:
		if mtu == 0 {
			l.say("%s unreachable - need to frag", dst)
		} else {
			l.say("%s unreachable - need to frag (mtu %d)", dst, mtu)
		}
	case 9:
		l.say("net %s unreachable - admin prohibited", dst)
	case 10, 13:
		l.say("host %s unreachable - admin prohibited", dst)
		if code == 13 {
			l.say(" filter")
		}
	default:
		l.say("%s unreachable - #%d", dst, code)
	}
}

// icmp6 is RFC 4443, RFC 4861 and RFC 3810.
func (l *line) icmp6(d datagram, b []byte) {
	if len(b) < 8 {
		l.say("ICMP6 [|icmp6]")
		return
	}
	l.say("ICMP6, ")
	target := func() string {
		if len(b) < 24 {
			return "[|icmp6]"
		}
		return l.host(addr6(b[8:24]))
	}
	switch typ, code := b[0], b[1]; typ {
	case 1:
		kinds := [...]string{"unreachable route", "unreachable prohibited", "beyond scope", "unreachable address", "unreachable port"}
		dst, port := "[|ip6]", ""
		if len(b) >= 48 {
			dst, port = addr6(b[32:48]).String(), cited(b[14], b[8:], 40)
		}
		switch {
		case code == 4:
			l.say("destination unreachable, unreachable port, %s %s", dst, port)
		case int(code) < len(kinds):
			l.say("destination unreachable, %s %s", kinds[code], dst)
		default:
			l.say("destination unreachable, unknown code (%d)", code)
		}
	case 2:
		l.say("packet too big, mtu %d", be32(b[4:]))
	case 3:
		l.say("time exceeded in-transit")
	case 4:
		l.say("parameter problem, octet %d", be32(b[4:]))
	case 128:
		l.say("echo request, id %d, seq %d", be16(b[4:]), be16(b[6:]))
	case 129:
		l.say("echo reply, id %d, seq %d", be16(b[4:]), be16(b[6:]))
	case 130:
		l.say("multicast listener query")
	case 131:
		l.say("multicast listener report %s", target())
	case 132:
		l.say("multicast listener done %s", target())
	case 133:
		l.say("router solicitation")
	case 134:
		l.say("router advertisement")
	case 135:
		l.say("neighbor solicitation, who has %s", target())
	case 136:
		l.say("neighbor advertisement, tgt is %s", target())
	case 137:
		l.say("redirect, %s", target())
	case 143:
		l.say("multicast listener report v2, %d group record(s)", be16(b[6:]))
	default:
		l.say("unknown icmp6 type (%d)", typ)
	}
	l.say(", length %d", d.length)
	if l.o.Verbose {
		l.say(", %s", l.checksum(d, b, 2, true))
	}
}
