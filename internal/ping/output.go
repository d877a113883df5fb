package ping

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/ustack/ustack/control"
)

func (p *pinger) sendError(err error) {
	tooLong := errors.Is(err, syscall.EMSGSIZE)
	if tooLong {
		p.errors++
	}
	switch {
	case p.o.quiet:
	case p.o.flood:
		p.raw("E")
	case tooLong:
		fmt.Fprintf(p.env.Stderr, "ping: local error: message too long\n")
	default:
		fmt.Fprintf(p.env.Stderr, "ping: sendmsg: %s\n", errText(err))
	}
}

// arrived deals with a message, ours or not.
func (p *pinger) arrived(a control.ICMPMessage) {
	m, ok := decode(a.Data, p.v6)
	if !ok {
		if p.o.verbose && !p.o.quiet && len(a.Data) < icmpHeader {
			fmt.Fprintf(p.env.Stderr, "ping: packet too short (%d bytes) from %s\n", len(a.Data), a.From)
		}
		return
	}
	if m.kind == kindOther {
		p.other(a, m)
		return
	}
	if m.id != p.id || p.sentAt[m.seq].IsZero() {
		return
	}
	if m.kind == kindReply {
		p.replied(a, m)
		return
	}
	if m.dst != p.to.WithZone("") {
		return
	}
	if m.kind == kindNotice {
		if !p.o.quiet && !p.o.flood {
			p.printf("From %s: icmp_seq=%d %s\n", a.From, m.seq, m.text(p.v6))
		}
		return
	}
	p.acknowledge(m.seq)
	p.errors++
	switch {
	case p.o.quiet:
	case p.o.flood:
		p.raw("\bE")
	default:
		p.printf("From %s icmp_seq=%d %s\n", a.From, m.seq, m.text(p.v6))
	}
}

// other shows with -v what is neither a reply nor about a request.
func (p *pinger) other(a control.ICMPMessage, m message) {
	echo := m.typ == typeEcho && !p.v6 || m.typ == type6Echo && p.v6
	if !p.o.verbose || p.o.quiet || p.o.flood || echo {
		return
	}
	p.printf("From %s: %s\n", a.From, m.text(p.v6))
}

func (p *pinger) replied(a control.ICMPMessage, m message) {
	p.acknowledge(m.seq)
	duplicate := p.reply(m.seq)
	var us int64
	if p.o.timed() {
		took := a.At.Sub(p.sentAt[m.seq])
		if took < 0 { // the clock was set back
			took = time.Since(p.sentAt[m.seq])
		}
		us = took.Microseconds()
		p.time(us)
		if p.o.adaptive {
			p.adapt()
		}
	}
	if p.o.quiet {
		return
	}
	if p.o.flood {
		if p.o.audible {
			p.raw("\b \b\a")
		} else {
			p.raw("\b \b")
		}
		return
	}
	p.printf("%s\n", p.line(a, m, us, duplicate))
}

// line describes a reply.
func (p *pinger) line(a control.ICMPMessage, m message, us int64, duplicate bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d bytes from %s: icmp_seq=%d", len(a.Data), a.From, m.seq)
	if a.TTL > 0 {
		fmt.Fprintf(&b, " ttl=%d", a.TTL)
	}
	if len(m.data) < p.o.size {
		b.WriteString(" (truncated)")
		return b.String()
	}
	if p.o.timed() {
		fmt.Fprintf(&b, " time=%s ms", roundTrip(us))
	}
	if duplicate && (!p.group || p.o.verbose) {
		b.WriteString(" (DUP!)")
	}
	if a.From.WithZone("") != p.to.WithZone("") && !p.group {
		b.WriteString(" (DIFFERENT ADDRESS!)")
	}
	p.compare(&b, m.data[:p.o.size])
	if p.o.audible {
		b.WriteByte('\a')
	}
	return b.String()
}

// compare says where the data of a reply differs from what was sent, and shows it.
func (p *pinger) compare(b *strings.Builder, data []byte) {
	from := 0
	if p.o.timed() {
		from = timestampSize
	}
	want := p.packet[icmpHeader:]
	for i := from; i < len(data); i++ {
		if data[i] == want[i] {
			continue
		}
		fmt.Fprintf(b, "\nwrong data byte #%d should be 0x%x but was 0x%x", i, want[i], data[i])
		for j := from; j < len(data); j++ {
			if (j-from)%32 == 0 {
				fmt.Fprintf(b, "\n#%d\t", j)
			}
			fmt.Fprintf(b, "%x ", data[j])
		}
		return
	}
}

func (p *pinger) header() {
	if p.v6 {
		fmt.Fprintf(p.env.Stdout, "PING %s (%s) %d data bytes\n", p.o.host, p.to, p.o.size)
		return
	}
	fmt.Fprintf(p.env.Stdout, "PING %s (%s) %d(%d) bytes of data.\n", p.o.host, p.to, p.o.size, p.o.size+icmpHeader+20)
}

// printf writes one line, behind the time with -D.
func (p *pinger) printf(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if p.o.timestamp {
		now := time.Now()
		line = fmt.Sprintf("[%d.%06d] %s", now.Unix(), now.Nanosecond()/1000, line)
	}
	p.raw(line)
}

func (p *pinger) dot() {
	if p.o.flood && !p.o.quiet {
		p.raw(".")
	}
}

func (p *pinger) raw(s string) { io.WriteString(p.env.Stdout, s) }
