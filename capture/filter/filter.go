// Package filter selects Ethernet frames by expressions in the syntax of
// pcap-filter(7), and by what ustack knows of them besides their bytes.
//
// It is a subset of libpcap's language with libpcap's meaning: what it takes selects
// the frames that tcpdump selects, with the exceptions below.
//
//	[ip|ip6|arp|rarp] [src|dst|src or dst|src and dst] host A     also without host
//	[ip|ip6|arp|rarp] [src|dst|…] net A/LEN | A mask M | 10.1
//	[tcp|udp|sctp] [src|dst|…] port P | portrange P-Q
//	ether [src|dst|…] host MAC, ether proto N
//	[ip|ip6] proto N
//	ip, ip6, arp, rarp, tcp, udp, sctp, icmp, icmp6, igmp, ah, esp, pim, vrrp
//	[ether] broadcast, [ether|ip|ip6] multicast
//	vlan [ID]            later primitives look behind the tag
//	less N, greater N    at most, at least N bytes
//	X < > <= >= = != Y   with numbers, len, ether[I:N], ip[…], ip6[…], arp[…], rarp[…],
//	                     tcp[…], udp[…], sctp[…], icmp[…], igmp[…], icmp6[…],
//	                     + - * / % & | ^ << >>, tcpflags, tcp-syn, icmptype, icmp-echo …
//	in, out              also inbound, outbound: received or sent by the stack
//	dropped              some part of ustack has dropped the frame
//
// Primitives are joined by not, and, or (! && ||) and parentheses; and and or have the same
// precedence and go from left to right, as in libpcap. A value without qualifiers has those of
// the one before it: "tcp port 80 or 443", "host (A or B)". As in libpcap, tcp[…], udp[…] and
// the like look at IPv4 only, at the first fragment of a datagram.
//
// What differs from libpcap: a primitive that needs bytes which a frame does not have is
// false there, so that "not port 22" shows a truncated frame, where libpcap gives the whole
// frame up. Names of hosts are resolved only by ParseNames. The primitives in, out
// and dropped are new; gateway, protochain, mpls, pppoe, geneve, ip broadcast, and what
// is not about Ethernet are refused.
package filter

import (
	"fmt"
	"net/netip"
)

// Meta is what is known of a frame besides its bytes.
type Meta struct {
	// In says that the stack received it, or was about to; else the stack sent it.
	In bool
	// NoWay says that neither is known.
	NoWay bool
	// Dropped says that some part of ustack dropped it.
	Dropped bool
	// WireLen is the length of the whole frame in bytes, of which the bytes given
	// to Match may be the beginning.
	WireLen int
}

// A Filter is a compiled expression. It is safe for concurrent use.
type Filter struct {
	text    string
	match   pred // nil matches everything
	verdict bool
}

// A ParseError says what is wrong with an expression, and where.
type ParseError struct {
	Expr string
	// Token is the offending word, "" at the end of the expression.
	Token string
	// Column counts bytes from 1.
	Column int
	// Reason is what is wrong with Token.
	Reason string
}

func (e *ParseError) Error() string {
	if e.Token == "" {
		return fmt.Sprintf("filter %q: at its end: %s", e.Expr, e.Reason)
	}
	return fmt.Sprintf("filter %q: %q at column %d: %s", e.Expr, e.Token, e.Column, e.Reason)
}

// Parse compiles an expression; the empty one matches every frame. Its errors are of type
// *ParseError.
func Parse(expr string) (*Filter, error) { return ParseNames(expr, nil) }

// ParseNames is Parse with names of hosts: lookup returns the addresses of one.
func ParseNames(expr string, lookup func(name string) ([]netip.Addr, error)) (*Filter, error) {
	p := &parser{expr: expr, lookup: lookup}
	m, err := p.parse()
	if err != nil {
		return nil, err
	}
	return &Filter{text: expr, match: m, verdict: p.verdict}, nil
}

// Match reports whether the filter selects a frame, which begins with its Ethernet header.
// A nil Filter matches everything. It allocates nothing.
func (f *Filter) Match(m Meta, frame []byte) bool {
	return f == nil || f.match == nil || f.match(packet{frame, m})
}

// NeedsVerdict reports whether the answer depends on Meta.Dropped.
func (f *Filter) NeedsVerdict() bool { return f != nil && f.verdict }

// String returns the expression.
func (f *Filter) String() string {
	if f == nil {
		return ""
	}
	return f.text
}
