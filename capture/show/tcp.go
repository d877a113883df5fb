package show

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"sync"
)

// maxStreams bounds how many connections Streams knows.
const maxStreams = 8192

// Streams makes TCP sequence numbers count from the beginning of each connection, or from
// the first segment that was seen of it, which is told in full. The zero value is ready; it
// is safe for concurrent use.
type Streams struct {
	mu    sync.Mutex
	bases map[streamKey]streamBase
}

type streamKey struct{ a, b netip.AddrPort }

// A streamBase is what the numbers of both sides are told relative to.
type streamBase struct{ a, b uint32 }

// relative returns what to tell of a segment with ACK.
func (s *Streams) relative(src, dst netip.AddrPort, seq, ack uint32, syn bool) (uint32, uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key, base := streamKey{src, dst}, streamBase{seq, ack - 1}
	turned := dst.Compare(src) < 0
	if turned {
		key, base = streamKey{dst, src}, streamBase{ack - 1, seq}
	}
	known, ok := s.bases[key]
	if !ok || syn {
		if s.bases == nil || len(s.bases) >= maxStreams {
			s.bases = make(map[streamKey]streamBase)
		}
		s.bases[key] = base
		return seq, ack
	}
	if turned {
		return seq - known.b, ack - known.a
	}
	return seq - known.a, ack - known.b
}

// tcp is RFC 9293 section 3.1.
func (l *line) tcp(d datagram, b []byte) {
	if len(b) < 4 {
		l.say("%s > %s: %s[|tcp]", l.host(d.src), l.host(d.dst), l.words)
		return
	}
	sport, dport := be16(b), be16(b[2:])
	l.say("%s.%s > %s.%s: %s", l.host(d.src), l.port("tcp", sport), l.host(d.dst), l.port("tcp", dport), l.words)
	if len(b) < 20 {
		l.say("[|tcp]")
		return
	}
	header, flags := int(b[12]>>4)*4, b[13]
	seq, ack := be32(b[4:]), be32(b[8:])
	data := d.length - header
	if header < 20 || data < 0 {
		l.say("Flags [%s], bad header length %d", flagNames(flags), header)
		return
	}
	syn, hasAck := flags&2 != 0, flags&0x10 != 0
	if l.o.Streams != nil && hasAck {
		seq, ack = l.o.Streams.relative(netip.AddrPortFrom(d.src, sport), netip.AddrPortFrom(d.dst, dport), seq, ack, syn)
	}
	l.say("Flags [%s]", flagNames(flags))
	if l.o.Verbose {
		l.say(", %s", l.checksum(d, b, 16, true))
	}
	if data > 0 || flags&7 != 0 {
		l.say(", seq %d", seq)
		if data > 0 {
			l.say(":%d", seq+uint32(data))
		}
	}
	if hasAck {
		l.say(", ack %d", ack)
	}
	l.say(", win %d", be16(b[14:]))
	if flags&0x20 != 0 {
		l.say(", urg %d", be16(b[18:]))
	}
	if header > 20 {
		l.say(", options [%s]", tcpOptions(b[20:min(header, len(b))]))
	}
	l.say(", length %d", data)
	if header < len(b) {
		l.http(b[header:])
	}
}

func flagNames(flags byte) string {
	var b strings.Builder
	for i, c := range "FSRP.UEW" {
		if flags&(1<<i) != 0 {
			b.WriteRune(c)
		}
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()
}

// tcpOptions lists options: RFC 9293 section 3.2, RFC 7323, RFC 2018, RFC 7413.
func tcpOptions(b []byte) string {
	var list []string
	for len(b) > 0 {
		kind := b[0]
		if kind <= 1 {
			b = b[1:]
			if kind == 0 {
				list = append(list, "eol")
				break
			}
			list = append(list, "nop")
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			list = append(list, "[|tcp]")
			break
		}
		o := b[2:b[1]]
		b = b[b[1]:]
		switch {
		case kind == 2 && len(o) == 2:
			list = append(list, fmt.Sprintf("mss %d", be16(o)))
		case kind == 3 && len(o) == 1:
			list = append(list, fmt.Sprintf("wscale %d", o[0]))
		case kind == 4 && len(o) == 0:
			list = append(list, "sackOK")
		case kind == 5 && len(o)%8 == 0 && len(o) > 0:
			text := fmt.Sprintf("sack %d ", len(o)/8)
			for ; len(o) > 0; o = o[8:] {
				text += fmt.Sprintf("{%d:%d}", be32(o), be32(o[4:]))
			}
			list = append(list, text)
		case kind == 8 && len(o) == 8:
			list = append(list, fmt.Sprintf("TS val %d ecr %d", be32(o), be32(o[4:])))
		case kind == 34:
			list = append(list, fmt.Sprintf("tfo  cookie %x", o))
		default:
			list = append(list, fmt.Sprintf("unknown-%d 0x%x", kind, o))
		}
	}
	return strings.Join(list, ",")
}

// http adds the first line of a request or an answer.
func (l *line) http(b []byte) {
	const most = 120
	first, _, _ := bytes.Cut(b[:min(len(b), most)], []byte("\r\n"))
	for _, begin := range []string{"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "CONNECT ", "HTTP/1."} {
		if bytes.HasPrefix(first, []byte(begin)) {
			l.say(": HTTP: %s", clean(first))
			return
		}
	}
}

// clean replaces what would disturb a terminal.
func clean(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f {
			return '.'
		}
		return r
	}, string(b))
}
