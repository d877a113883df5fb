package show

import (
	"fmt"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// udp is RFC 768.
func (l *line) udp(d datagram, b []byte) {
	if len(b) < 8 {
		l.say("%s > %s: %s[|udp]", l.host(d.src), l.host(d.dst), l.words)
		return
	}
	sport, dport, length := be16(b), be16(b[2:]), int(be16(b[4:]))
	l.say("%s.%s > %s.%s: %s", l.host(d.src), l.port("udp", sport), l.host(d.dst), l.port("udp", dport), l.words)
	if length < 8 {
		length = d.length // of a super-frame, or wrong
	}
	if l.o.Verbose {
		if be16(b[6:]) == 0 && d.src.Is4() {
			l.say("[no cksum] ")
		} else {
			l.say("[udp %s] ", strings.Replace(l.checksum(d, b, 6, true), "cksum", "sum", 1))
		}
	}
	data := b[8:]
	if n := length - 8; n < len(data) {
		data = data[:n]
	}
	is := func(p uint16) bool { return sport == p || dport == p }
	switch {
	case is(53), is(5353):
		if l.dns(data, is(5353), length-8) {
			return
		}
	case is(67), is(68):
		if l.dhcp(data) {
			return
		}
	}
	l.say("UDP, length %d", length-8)
}

var dnsTypes = map[dnsmessage.Type]string{
	dnsmessage.TypeA: "A", dnsmessage.TypeAAAA: "AAAA", dnsmessage.TypeCNAME: "CNAME", dnsmessage.TypeNS: "NS",
	dnsmessage.TypePTR: "PTR", dnsmessage.TypeMX: "MX", dnsmessage.TypeTXT: "TXT", dnsmessage.TypeSOA: "SOA",
	dnsmessage.TypeSRV: "SRV", dnsmessage.TypeALL: "ANY", 65: "HTTPS",
}

func dnsType(t dnsmessage.Type) string {
	if name := dnsTypes[t]; name != "" {
		return name
	}
	return fmt.Sprintf("Type%d", t)
}

var dnsErrors = map[dnsmessage.RCode]string{
	dnsmessage.RCodeFormatError: "FormErr", dnsmessage.RCodeServerFailure: "ServFail", dnsmessage.RCodeNameError: "NXDomain",
	dnsmessage.RCodeNotImplemented: "NotImp", dnsmessage.RCodeRefused: "Refused",
}

// mostAnswers bounds how many records of an answer are said.
const mostAnswers = 8

// dns is RFC 1035 section 4. It reports whether b is a message.
func (l *line) dns(b []byte, multicast bool, length int) bool {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil {
		return false
	}
	qs, err := p.AllQuestions()
	if err != nil {
		return false
	}
	if !multicast || h.ID != 0 {
		l.say("%d", h.ID)
	} else {
		l.say("0")
	}
	if !h.Response {
		if h.RecursionDesired {
			l.say("+")
		}
		if n := be16(b[10:]); n > 0 {
			l.say(" [%dau]", n)
		}
		for _, q := range qs {
			l.say(" %s? %s", dnsType(q.Type), clean([]byte(q.Name.String())))
		}
		l.say(" (%d)", length)
		return true
	}
	if text := dnsErrors[h.RCode]; text != "" {
		l.say(" %s", text)
	} else if h.RCode != dnsmessage.RCodeSuccess {
		l.say(" Resp%d", h.RCode)
	}
	if h.Authoritative {
		l.say("*")
	}
	if !h.RecursionAvailable {
		l.say("-")
	}
	if h.Truncated {
		l.say("|")
	}
	l.say(" %d/%d/%d", be16(b[6:]), be16(b[8:]), be16(b[10:]))
	for i := range mostAnswers {
		r, err := p.Answer()
		if err != nil {
			break
		}
		if i > 0 {
			l.say(",")
		}
		l.say(" %s", resource(r))
	}
	l.say(" (%d)", length)
	return true
}

func resource(r dnsmessage.Resource) string {
	name := dnsType(r.Header.Type)
	switch body := r.Body.(type) {
	case *dnsmessage.AResource:
		return name + " " + addr4(body.A[:]).String()
	case *dnsmessage.AAAAResource:
		return name + " " + addr6(body.AAAA[:]).String()
	case *dnsmessage.CNAMEResource:
		return name + " " + clean([]byte(body.CNAME.String()))
	case *dnsmessage.NSResource:
		return name + " " + clean([]byte(body.NS.String()))
	case *dnsmessage.PTRResource:
		return name + " " + clean([]byte(body.PTR.String()))
	case *dnsmessage.MXResource:
		return fmt.Sprintf("%s %s %d", name, clean([]byte(body.MX.String())), body.Pref)
	case *dnsmessage.SRVResource:
		return fmt.Sprintf("%s %s:%d %d %d", name, clean([]byte(body.Target.String())), body.Port, body.Priority, body.Weight)
	case *dnsmessage.TXTResource:
		var all []string
		for _, t := range body.TXT {
			all = append(all, `"`+clean([]byte(t))+`"`)
		}
		return name + " " + strings.Join(all, " ")
	}
	return name
}

var dhcpTypes = [...]string{"", "Discover", "Offer", "Request", "Decline", "ACK", "NACK", "Release", "Inform"}

// dhcp is RFC 2131 section 2. It reports whether b is a message.
func (l *line) dhcp(b []byte) bool {
	if len(b) < 240 || b[0] != 1 && b[0] != 2 || b[1] != 1 || be32(b[236:]) != 0x63825363 {
		return false
	}
	what, typ, you := "Request", "", ""
	if b[0] == 2 {
		what = "Reply"
	}
	for o := b[240:]; len(o) >= 2 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		n := 2 + int(o[1])
		if n > len(o) {
			break
		}
		if o[0] == 53 && n == 3 && int(o[2]) < len(dhcpTypes) {
			typ = dhcpTypes[o[2]]
		}
		o = o[n:]
	}
	if a := addr4(b[16:20]); !a.IsUnspecified() {
		you = ", your-ip " + a.String()
	}
	if typ != "" {
		typ = " (" + typ + ")"
	}
	l.say("BOOTP/DHCP, %s%s", what, typ)
	if b[0] == 1 {
		l.say(" from %s", mac(b[28:34]))
	}
	l.say("%s, length %d", you, len(b))
	return true
}
