package trace

import "fmt"

// summary is a frame in one line.
func (p *packet) summary(size int) string {
	if len(p.frame) < 14 {
		return fmt.Sprintf("%d bytes, no Ethernet header", size)
	}
	switch {
	case p.arp && p.arpOp == 1:
		return fmt.Sprintf("ARP, who has %v tell %v", p.targetIP, p.senderIP)
	case p.arp && p.arpOp == 2:
		return fmt.Sprintf("ARP, %v is at %s", p.senderIP, macText(p.senderMAC))
	case p.arp:
		return fmt.Sprintf("ARP, operation %d", p.arpOp)
	case !p.src.IsValid():
		return fmt.Sprintf("EtherType 0x%04x, %d bytes", p.ether, size)
	case p.ports && p.proto == protoTCP:
		return fmt.Sprintf("%v > %v: TCP %s, seq %d, ack %d, %d bytes", p.source(), p.destination(), flagText(p.flags), p.seq, p.ack, p.payload())
	case p.ports && p.fragment:
		return fmt.Sprintf("%v > %v: UDP, first fragment", p.source(), p.destination())
	case p.ports:
		return fmt.Sprintf("%v > %v: UDP, %d bytes", p.source(), p.destination(), p.payload())
	case p.icmp && (p.icmpType == icmpEcho && p.proto == protoICMP || p.icmpType == icmp6Echo):
		return fmt.Sprintf("%v > %v: ICMP echo request, id %d, seq %d", p.src, p.dst, p.icmpID, p.icmpSeq)
	case p.icmp && (p.icmpType == icmpEchoReply && p.proto == protoICMP || p.icmpType == icmp6EchoReply):
		return fmt.Sprintf("%v > %v: ICMP echo reply, id %d, seq %d", p.src, p.dst, p.icmpID, p.icmpSeq)
	case p.icmp:
		if _, ok := p.icmpError(); ok {
			return fmt.Sprintf("%v > %v: %s", p.src, p.dst, icmpName(p))
		}
		return fmt.Sprintf("%v > %v: ICMP type %d, code %d", p.src, p.dst, p.icmpType, p.icmpCd)
	case p.fragment:
		return fmt.Sprintf("%v > %v: protocol %d, fragment from byte %d", p.src, p.dst, p.proto, p.offset)
	}
	return fmt.Sprintf("%v > %v: protocol %d, %d bytes", p.src, p.dst, p.proto, size)
}

func macText(b []byte) string {
	if len(b) != 6 {
		return "?"
	}
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
}

// flagText is TCP's flags as tcpdump has them.
func flagText(flags uint8) string {
	text := ""
	for i, c := range []byte("FSRP.U") {
		if flags&(1<<i) != 0 {
			text += string(c)
		}
	}
	if text == "" {
		return "none"
	}
	return text
}
