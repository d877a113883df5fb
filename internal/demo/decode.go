package demo

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// A frame is what decode finds in a record.
type frame struct {
	proto string // "ARP", "ICMP", "DNS", "UDP", "TCP", "IPv6" …
	text  string // the rest of the line
	// What the checks need.
	arpReply  bool
	echoReply bool
	tcp       bool
	fin       bool
	payload   int // bytes of TCP payload
}

// EtherTypes (IEEE 802 numbers, IANA).
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

// decode explains an Ethernet frame in a line. It accepts any bytes.
func decode(b []byte) frame {
	if len(b) < 14 {
		return frame{proto: "?", text: fmt.Sprintf("%d bytes: too short for an Ethernet header", len(b))}
	}
	switch t := binary.BigEndian.Uint16(b[12:]); t {
	case etherARP:
		return decodeARP(b[14:])
	case etherIPv4:
		return decodeIPv4(b[14:])
	case etherIPv6:
		return frame{proto: "IPv6"}
	default:
		return frame{proto: fmt.Sprintf("0x%04x", t), text: fmt.Sprintf("%d bytes", len(b))}
	}
}

// decodeARP reads an ARP packet for IPv4 over Ethernet (RFC 826).
func decodeARP(b []byte) frame {
	f := frame{proto: "ARP"}
	if len(b) < 28 || binary.BigEndian.Uint32(b) != 0x0001_0800 || b[4] != 6 || b[5] != 4 {
		f.text = "not for IPv4 over Ethernet"
		return f
	}
	mac := net.HardwareAddr(b[8:14])
	sender, target := netip.AddrFrom4([4]byte(b[14:])), netip.AddrFrom4([4]byte(b[24:]))
	switch op := binary.BigEndian.Uint16(b[6:]); {
	case op == 1 && sender.IsUnspecified():
		f.text = fmt.Sprintf("does anybody have %s?", target)
	case sender == target:
		f.text = fmt.Sprintf("%s is at %s, for everybody to know", sender, mac)
	case op == 1:
		f.text = fmt.Sprintf("who has %s? tell %s at %s", target, sender, mac)
	case op == 2:
		f.text = fmt.Sprintf("%s is at %s", sender, mac)
		f.arpReply = true
	default:
		f.text = fmt.Sprintf("operation %d", op)
	}
	return f
}

// decodeIPv4 reads an IPv4 packet (RFC 791).
func decodeIPv4(b []byte) frame {
	if len(b) < 20 || b[0]>>4 != 4 || int(b[0]&15)*4 < 20 || len(b) < int(b[0]&15)*4 {
		return frame{proto: "IPv4", text: "damaged header"}
	}
	src, dst := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	header := int(b[0]&15) * 4
	// Beyond the total length there is only Ethernet's padding.
	if total := int(binary.BigEndian.Uint16(b[2:])); total >= header && total < len(b) {
		b = b[:total]
	}
	between := fmt.Sprintf("%s > %s", src, dst)
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return frame{proto: "IPv4", text: between + " fragment"}
	}
	body := b[header:]
	switch proto := b[9]; proto {
	case 1:
		return decodeICMP(between, b[8], body)
	case 6:
		return decodeTCP(src, dst, body)
	case 17:
		return decodeUDP(src, dst, body)
	default:
		return frame{proto: "IPv4", text: fmt.Sprintf("%s protocol %d", between, proto)}
	}
}

// decodeICMP reads an ICMP message (RFC 792).
func decodeICMP(between string, ttl byte, b []byte) frame {
	f := frame{proto: "ICMP"}
	if len(b) < 8 {
		f.text = between + " too short"
		return f
	}
	id, seq := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	switch b[0] {
	case 8:
		f.text = fmt.Sprintf("%s echo request, id %d seq %d, ttl %d", between, id, seq, ttl)
	case 0:
		f.text = fmt.Sprintf("%s echo reply, id %d seq %d, ttl %d", between, id, seq, ttl)
		f.echoReply = true
	default:
		f.text = fmt.Sprintf("%s type %d code %d", between, b[0], b[1])
	}
	return f
}

// decodeUDP reads a UDP datagram (RFC 768), and DNS in it.
func decodeUDP(src, dst netip.Addr, b []byte) frame {
	if len(b) < 8 {
		return frame{proto: "UDP", text: fmt.Sprintf("%s > %s too short", src, dst)}
	}
	from := netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
	to := netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	between := fmt.Sprintf("%s > %s", from, to)
	if from.Port() == 53 || to.Port() == 53 {
		var m dns.Msg
		if m.Unpack(b[8:]) == nil {
			return frame{proto: "DNS", text: between + " " + dnsText(&m)}
		}
	}
	return frame{proto: "UDP", text: fmt.Sprintf("%s %d bytes", between, len(b)-8)}
}

func dnsText(m *dns.Msg) string {
	question := "no question"
	if len(m.Question) > 0 {
		q := m.Question[0]
		question = dns.TypeToString[q.Qtype] + " " + strings.TrimSuffix(q.Name, ".")
	}
	if !m.Response {
		return question + "?"
	}
	var answers []string
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			answers = append(answers, rr.A.String())
		case *dns.AAAA:
			answers = append(answers, rr.AAAA.String())
		default:
			answers = append(answers, dns.TypeToString[rr.Header().Rrtype])
		}
	}
	switch {
	case m.Rcode != dns.RcodeSuccess:
		return question + ": " + dns.RcodeToString[m.Rcode]
	case len(answers) == 0:
		return question + ": there is none"
	}
	return question + " = " + strings.Join(answers, ", ")
}

// decodeTCP reads a TCP segment (RFC 9293 section 3.1).
func decodeTCP(src, dst netip.Addr, b []byte) frame {
	f := frame{proto: "TCP", tcp: true}
	if len(b) < 20 || int(b[12]>>4)*4 < 20 || len(b) < int(b[12]>>4)*4 {
		f.text = fmt.Sprintf("%s > %s damaged header", src, dst)
		return f
	}
	var flags []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"} {
		if b[13]&(1<<i) != 0 {
			flags = append(flags, name)
		}
	}
	payload := b[int(b[12]>>4)*4:]
	f.fin, f.payload = b[13]&1 != 0, len(payload)
	f.text = fmt.Sprintf("%s:%d > %s:%d %s", src, binary.BigEndian.Uint16(b), dst, binary.BigEndian.Uint16(b[2:]), strings.Join(flags, " "))
	if len(payload) > 0 {
		f.text += fmt.Sprintf(", %d bytes: %s", len(payload), firstLine(payload))
	}
	return f
}

// firstLine returns the beginning of text up to the end of its first line, or
// says that it is none.
func firstLine(b []byte) string {
	line, _, _ := strings.Cut(string(b[:min(len(b), 32)]), "\r\n")
	for i := range len(line) {
		if line[i] < ' ' || line[i] > '~' {
			return "not text"
		}
	}
	return line
}
