package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// A DNSAnswer is what came of a question to a server.
type DNSAnswer struct {
	Server netip.AddrPort
	// Code is the server's, such as "NOERROR", "" where it did not answer; then Err says why.
	Code string
	Err  error
}

func (a *DNSAnswer) String() string {
	if a.Err != nil {
		return fmt.Sprintf("asked %s for the root's SOA: %v", a.Server, a.Err)
	}
	return fmt.Sprintf("asked %s for the root's SOA: %s", a.Server, a.Code)
}

// dnsTries is how often a server is asked, and dnsLimit how long each may take: one
// that has to ask others first may take its time.
const (
	dnsTries = 2
	dnsLimit = 1500 * time.Millisecond
	dnsMost  = 8 // servers
)

// probeDNS has the stack ask its servers for something that every server knows.
func probeDNS(ctx context.Context, p *probing) {
	if p.env.Stack == nil {
		return
	}
	servers := p.env.Stack.DNS
	servers = servers[:min(len(servers), dnsMost)]
	answers := make([]DNSAnswer, len(servers))
	p.env.Observed.DNS = answers
	for i, server := range servers {
		answers[i].Server = server
		if server.Addr().IsLoopback() {
			answers[i].Err = errors.New("not asked: it is the stack's own loopback, where nobody listens")
			continue
		}
		p.Go(func() {
			for range dnsTries {
				if answers[i] = askServer(ctx, p.st, server); answers[i].Err == nil || errors.Is(answers[i].Err, unix.ECONNREFUSED) {
					return
				}
			}
			p.again(func(ctx context.Context) { askServer(ctx, p.st, server) })
		})
	}
}

// askServer sends one question through the stack.
func askServer(ctx context.Context, st station, server netip.AddrPort) (a DNSAnswer) {
	a.Server = server
	var q dns.Msg
	q.SetQuestion(".", dns.TypeSOA)
	b, err := q.Pack()
	if err != nil {
		a.Err = err
		return a
	}
	ctx, cancel := context.WithTimeout(ctx, dnsLimit)
	defer cancel()
	conn, err := st.dial(ctx, "udp", server.String())
	if err != nil {
		a.Err = err
		return a
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if _, a.Err = conn.Write(b); a.Err != nil {
		return a
	}
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			a.Err = err
			if os.IsTimeout(err) {
				a.Err = fmt.Errorf("no answer within %v: %w", dnsLimit, os.ErrDeadlineExceeded)
			}
			return a
		}
		// RFC 1035 section 4.1.1: the identifier, then QR and, at the end of the flags, RCODE.
		if n >= 12 && binary.BigEndian.Uint16(buf) == q.Id && buf[2]&0x80 != 0 {
			if a.Code = dns.RcodeToString[int(buf[3]&0xf)]; a.Code == "" {
				a.Code = fmt.Sprintf("RCODE %d", buf[3]&0xf)
			}
			return a
		}
	}
}

// refusedPort reports whether an ICMP error said that nobody listens at a server's port.
func (e *Environment) refusedPort(server netip.AddrPort) bool {
	for i := range e.Observed.Frames {
		f := &e.Observed.Frames[i]
		p, ok := parseIP(f.Data, f.Len)
		if !ok || p.src != server.Addr() || len(p.payload) < 8 {
			continue
		}
		// Port unreachable: RFC 792, and RFC 4443 section 3.1. It quotes the question.
		at := 0
		switch {
		case p.proto == unix.IPPROTO_ICMP && p.payload[0] == unreachable4 && p.payload[1] == 3 && len(p.payload) > 8:
			at = 8 + int(p.payload[8]&0xf)*4
		case p.proto == unix.IPPROTO_ICMPV6 && p.payload[0] == unreachable6 && p.payload[1] == 4:
			at = 8 + 40
		}
		if at > 0 && len(p.payload) >= at+4 && binary.BigEndian.Uint16(p.payload[at+2:]) == server.Port() {
			return true
		}
	}
	return false
}
