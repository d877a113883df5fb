package filter

import (
	"fmt"
	"net/netip"
)

const (
	// maxLen bounds an expression in bytes, maxDepth its nesting.
	maxLen   = 16 << 10
	maxDepth = 100
)

// A parser compiles one expression by recursive descent.
type parser struct {
	expr   string
	lookup func(string) ([]netip.Addr, error)
	at     int   // behind tok
	tok    token // the next to be taken
	depth  int
	// quals are those of the last value, which the next may be without.
	quals quals
	// tags counts the VLAN tags that are behind, for all that follows.
	tags    int
	verdict bool
}

// A node is either a condition or a number.
type node struct {
	pred pred
	num  num
	tok  token // where it began
}

// fail reports the next token.
func (p *parser) fail(format string, args ...any) error {
	return p.failTok(p.tok, format, args...)
}

func (p *parser) failTok(t token, format string, args ...any) error {
	return p.failAt(t.text, t.at, format, args...)
}

func (p *parser) failAt(text string, at int, format string, args ...any) error {
	return &ParseError{Expr: p.expr, Token: text, Column: at + 1, Reason: fmt.Sprintf(format, args...)}
}

// take consumes the next token.
func (p *parser) take() (token, error) {
	t := p.tok
	return t, p.next()
}

// accept consumes the next token if it is one of words.
func (p *parser) accept(words ...string) (bool, error) {
	if !p.tok.is(words...) {
		return false, nil
	}
	return true, p.next()
}

func (p *parser) expect(what, after string) error {
	ok, err := p.accept(what)
	if err == nil && !ok {
		return p.fail("%q is missing %s", what, after)
	}
	return err
}

func (p *parser) parse() (pred, error) {
	if len(p.expr) > maxLen {
		return nil, &ParseError{Expr: p.expr[:32] + "…", Reason: fmt.Sprintf("%d bytes are too many, the limit is %d", len(p.expr), maxLen)}
	}
	if err := p.next(); err != nil || p.tok.kind == tokEnd {
		return nil, err
	}
	n, err := p.expression()
	if err != nil {
		return nil, err
	}
	if p.tok.kind != tokEnd {
		return nil, p.fail("not expected here: join conditions with and, or")
	}
	return p.condition(n)
}

// condition returns the condition of a node.
func (p *parser) condition(n node) (pred, error) {
	if n.pred == nil {
		return nil, p.failTok(n.tok, "a number is no condition: compare it with another one, as in tcp[13] & 2 != 0")
	}
	return n.pred, nil
}

// expression is term {and|or term}, from left to right. It may be a single number.
func (p *parser) expression() (node, error) {
	if p.depth++; p.depth > maxDepth {
		return node{}, p.fail("nested deeper than %d", maxDepth)
	}
	defer func() { p.depth-- }()
	left, err := p.term()
	for err == nil && p.tok.is("and", "&&", "or", "||") {
		var a, b pred
		and := p.tok.is("and", "&&")
		if a, err = p.condition(left); err != nil {
			break
		}
		if err = p.next(); err != nil {
			break
		}
		var right node
		if right, err = p.term(); err != nil {
			break
		}
		if b, err = p.condition(right); err != nil {
			break
		}
		if and {
			left.pred = func(k packet) bool { return a(k) && b(k) }
		} else {
			left.pred = func(k packet) bool { return a(k) || b(k) }
		}
	}
	return left, err
}

// term is {not} primary.
func (p *parser) term() (node, error) {
	start, not := p.tok, false
	for p.tok.is("not", "!") {
		not = !not
		if err := p.next(); err != nil {
			return node{}, err
		}
	}
	n, err := p.primary()
	if err != nil || !start.is("not", "!") {
		return n, err
	}
	c, err := p.condition(n)
	if not {
		n.pred = func(k packet) bool { return !c(k) }
	}
	return n, err
}

// primary is a condition or number in parentheses, a comparison or a primitive.
func (p *parser) primary() (node, error) {
	start := p.tok
	if p.tok.kind == tokEnd {
		return node{}, p.fail("a condition is missing")
	}
	if ok, err := p.accept("("); err != nil {
		return node{}, err
	} else if ok {
		n, err := p.expression()
		if err != nil {
			return n, err
		}
		if err := p.expect(")", "to close "+p.place(start)); err != nil || n.pred != nil {
			return n, err
		}
		return p.comparison(n)
	}
	if numeric, err := p.beginsNumber(); err != nil {
		return node{}, err
	} else if numeric {
		n, err := p.operand()
		if err != nil {
			return n, err
		}
		return p.comparison(n)
	}
	c, err := p.primitive()
	return node{pred: c, tok: start}, err
}

func (p *parser) place(t token) string { return fmt.Sprintf("%q at column %d", t.text, t.at+1) }

// peek returns the token behind the next one.
func (p *parser) peek() (token, error) {
	at, tok := p.at, p.tok
	err := p.next()
	after := p.tok
	p.at, p.tok = at, tok
	return after, err
}
