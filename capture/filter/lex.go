package filter

import "strings"

// A kind tells tokens apart.
type kind uint8

const (
	tokEnd kind = iota
	tokWord
	tokAddr // has at least two colons: a MAC or an IPv6 address
	tokOp
)

// A token is one word or operator of an expression.
type token struct {
	kind kind
	text string
	at   int // its place in the expression, in bytes
	// quoted says that a backslash stood before it, so that it is no keyword.
	quoted bool
}

func (t *token) is(words ...string) bool {
	if t.quoted || t.kind != tokWord && t.kind != tokOp {
		return false
	}
	for _, w := range words {
		if t.text == w {
			return true
		}
	}
	return false
}

// operators, longest first.
var operators = []string{"&&", "||", "<<", ">>", "<=", ">=", "!=", "==",
	"(", ")", "[", "]", "!", "<", ">", "=", "+", "-", "*", "/", "%", "&", "|", "^", ":"}

func isLetter(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
}

func isAddress(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' || c == ':' || c == '.'
}

// run returns how many bytes at the beginning of s are in.
func run(s string, in func(byte) bool) int {
	n := 0
	for n < len(s) && in(s[n]) {
		n++
	}
	return n
}

// next cuts the token at the beginning of p.expr[p.at:].
func (p *parser) next() error {
	p.at += run(p.expr[p.at:], func(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' })
	s := p.expr[p.at:]
	p.tok = token{at: p.at}
	if s == "" {
		return nil
	}
	if s[0] == '\\' {
		p.tok.quoted = true
		p.at, s = p.at+1, s[1:]
	}
	if n := run(s, isAddress); strings.Count(s[:n], ":") >= 2 {
		// The zone or anything else that makes it no address is reported with it.
		n += run(s[n:], func(c byte) bool { return isLetter(c) || c == ':' })
		return p.cut(tokAddr, n)
	}
	if n := run(s, func(c byte) bool { return isLetter(c) || c == '-' || c == '.' }); n > 0 && isLetter(s[0]) {
		for s[n-1] == '-' { // it belongs to what follows
			n--
		}
		return p.cut(tokWord, n)
	}
	if !p.tok.quoted {
		for _, op := range operators {
			if strings.HasPrefix(s, op) {
				return p.cut(tokOp, len(op))
			}
		}
	}
	n := 1
	for n < len(s) && s[n]&0xc0 == 0x80 { // the rest of a character in UTF-8
		n++
	}
	if s == "" {
		return p.failAt("\\", p.at-1, "a word must follow the backslash")
	}
	return p.failAt(s[:n], p.at, "no such character in a filter")
}

func (p *parser) cut(k kind, n int) error {
	p.tok.kind, p.tok.text = k, p.expr[p.at:p.at+n]
	p.at += n
	return nil
}
