package ping

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// text says what an ICMP message reports, in iputils' words.
func (m message) text(v6 bool) string {
	if v6 {
		return m.text6()
	}
	return m.text4()
}

func (m message) text4() string {
	switch m.typ {
	case typeEchoReply:
		return "Echo Reply"
	case typeEcho:
		return "Echo Request"
	case typeUnreachable:
		return m.unreachable4()
	case typeSourceQuench:
		return "Source Quench"
	case typeRedirect:
		what := fmt.Sprintf("Redirect, Bad Code: %d", m.code)
		switch m.code {
		case 0:
			what = "Redirect Network"
		case 1:
			what = "Redirect Host"
		case 2:
			what = "Redirect Type of Service and Network"
		case 3:
			what = "Redirect Type of Service and Host"
		}
		var gateway [4]byte
		binary.BigEndian.PutUint32(gateway[:], m.info)
		return fmt.Sprintf("%s(New nexthop: %s)", what, netip.AddrFrom4(gateway))
	case typeTimeExceeded:
		switch m.code {
		case 0:
			return "Time to live exceeded"
		case 1:
			return "Frag reassembly time exceeded"
		}
		return fmt.Sprintf("Time exceeded, Bad Code: %d", m.code)
	case typeParameter:
		return fmt.Sprintf("Parameter problem: pointer = %d", m.info>>24)
	case 13:
		return "Timestamp"
	case 14:
		return "Timestamp Reply"
	case 17:
		return "Address Mask Request"
	case 18:
		return "Address Mask Reply"
	}
	return fmt.Sprintf("Bad ICMP type: %d", m.typ)
}

// unreachable4 names the codes of RFC 792 and RFC 1812 section 5.2.7.1.
func (m message) unreachable4() string {
	codes := [...]string{
		0:  "Destination Net Unreachable",
		1:  "Destination Host Unreachable",
		2:  "Destination Protocol Unreachable",
		3:  "Destination Port Unreachable",
		4:  fmt.Sprintf("Frag needed and DF set (mtu = %d)", m.info&0xffff),
		5:  "Source Route Failed",
		6:  "Destination Net Unknown",
		7:  "Destination Host Unknown",
		8:  "Source Host Isolated",
		9:  "Destination Net Prohibited",
		10: "Destination Host Prohibited",
		11: "Destination Net Unreachable for Type of Service",
		12: "Destination Host Unreachable for Type of Service",
		13: "Packet filtered",
		14: "Precedence Violation",
		15: "Precedence Cutoff",
	}
	if int(m.code) < len(codes) {
		return codes[m.code]
	}
	return fmt.Sprintf("Dest Unreachable, Bad Code: %d", m.code)
}

func (m message) text6() string {
	switch m.typ {
	case type6Unreachable:
		codes := [...]string{
			0: "No route",
			1: "Administratively prohibited",
			2: "Beyond scope of source address",
			3: "Address unreachable",
			4: "Port unreachable",
			5: "Source address failed ingress/egress policy",
			6: "Reject route to destination",
		}
		if int(m.code) < len(codes) {
			return "Destination unreachable: " + codes[m.code]
		}
		return fmt.Sprintf("Destination unreachable: Unknown code %d", m.code)
	case type6TooBig:
		if m.code != 0 {
			return fmt.Sprintf("Packet too big: mtu=%d, code=%d", m.info, m.code)
		}
		return fmt.Sprintf("Packet too big: mtu=%d", m.info)
	case type6TimeExceeded:
		switch m.code {
		case 0:
			return "Time exceeded: Hop limit"
		case 1:
			return "Time exceeded: Defragmentation failure"
		}
		return fmt.Sprintf("Time exceeded: code %d", m.code)
	case type6Parameter:
		what := fmt.Sprintf("code %d", m.code)
		switch m.code {
		case 0:
			what = "Wrong header field"
		case 1:
			what = "Unknown header"
		case 2:
			what = "Unknown option"
		}
		return fmt.Sprintf("Parameter problem: %s at %d", what, m.info)
	case type6Echo:
		return "Echo request"
	case type6EchoReply:
		return "Echo reply"
	case 130:
		return "MLD Query"
	case 131:
		return "MLD Report"
	case 132:
		return "MLD Reduction"
	}
	return fmt.Sprintf("unknown icmp type: %d", m.typ)
}
