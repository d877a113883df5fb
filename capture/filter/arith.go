package filter

import "strconv"

// A num computes an unsigned 32-bit number; ok is false when the frame has no such bytes.
type num func(k packet) (v uint32, ok bool)

// constants are the named numbers of pcap-filter(7).
var constants = map[string]uint32{
	"tcpflags": 13, "icmptype": 0, "icmpcode": 1, "icmp6type": 0, "icmp6code": 1,

	// RFC 9293 section 3.1, RFC 3168 section 6.1.
	"tcp-fin": 0x01, "tcp-syn": 0x02, "tcp-rst": 0x04, "tcp-push": 0x08,
	"tcp-ack": 0x10, "tcp-urg": 0x20, "tcp-ece": 0x40, "tcp-cwr": 0x80,

	// RFC 792, RFC 950, RFC 1256.
	"icmp-echoreply": 0, "icmp-unreach": 3, "icmp-sourcequench": 4, "icmp-redirect": 5,
	"icmp-echo": 8, "icmp-routeradvert": 9, "icmp-routersolicit": 10, "icmp-timxceed": 11,
	"icmp-paramprob": 12, "icmp-tstamp": 13, "icmp-tstampreply": 14, "icmp-ireq": 15,
	"icmp-ireqreply": 16, "icmp-maskreq": 17, "icmp-maskreply": 18,

	// RFC 4443, RFC 2710, RFC 4861, RFC 3810.
	"icmp6-destinationunreach": 1, "icmp6-packettoobig": 2, "icmp6-timeexceeded": 3,
	"icmp6-parameterproblem": 4, "icmp6-echo": 128, "icmp6-echoreply": 129,
	"icmp6-multicastlistenerquery": 130, "icmp6-multicastlistenerreportv1": 131,
	"icmp6-multicastlistenerdone": 132, "icmp6-routersolicit": 133, "icmp6-routeradvert": 134,
	"icmp6-neighborsolicit": 135, "icmp6-neighboradvert": 136, "icmp6-redirect": 137,
	"icmp6-multicastlistenerreportv2": 143,
}

// An operation is a binary operator with its precedence, as in C.
type operation struct {
	prec int
	do   func(a, b uint32) (uint32, bool)
}

var binaries = map[string]operation{
	"|":  {1, func(a, b uint32) (uint32, bool) { return a | b, true }},
	"^":  {2, func(a, b uint32) (uint32, bool) { return a ^ b, true }},
	"&":  {3, func(a, b uint32) (uint32, bool) { return a & b, true }},
	"<<": {4, func(a, b uint32) (uint32, bool) { return a << b, true }},
	">>": {4, func(a, b uint32) (uint32, bool) { return a >> b, true }},
	"+":  {5, func(a, b uint32) (uint32, bool) { return a + b, true }},
	"-":  {5, func(a, b uint32) (uint32, bool) { return a - b, true }},
	"*":  {6, func(a, b uint32) (uint32, bool) { return a * b, true }},
	"/": {6, func(a, b uint32) (uint32, bool) {
		if b == 0 {
			return 0, false
		}
		return a / b, true
	}},
	"%": {6, func(a, b uint32) (uint32, bool) {
		if b == 0 {
			return 0, false
		}
		return a % b, true
	}},
}

var relations = map[string]func(a, b uint32) bool{
	"<": func(a, b uint32) bool { return a < b }, ">": func(a, b uint32) bool { return a > b },
	"<=": func(a, b uint32) bool { return a <= b }, ">=": func(a, b uint32) bool { return a >= b },
	"=": func(a, b uint32) bool { return a == b }, "==": func(a, b uint32) bool { return a == b },
	"!=": func(a, b uint32) bool { return a != b },
}

// operator reports whether t is an operator that joins or compares numbers.
func (t *token) operator() bool {
	if t.kind != tokOp {
		return false
	}
	_, joins := binaries[t.text]
	_, compares := relations[t.text]
	return joins || compares
}

// number returns the value of a decimal, octal or hexadecimal number.
func (t *token) number() (uint32, bool) {
	if t.kind != tokWord || t.text[0] < '0' || t.text[0] > '9' {
		return 0, false
	}
	v, err := strconv.ParseUint(t.text, 0, 32)
	return uint32(v), err == nil
}

// beginsNumber reports whether a comparison begins here, and not a primitive.
func (p *parser) beginsNumber() (bool, error) {
	if p.tok.is("-", "len") {
		return true, nil
	}
	if p.tok.kind != tokWord || p.tok.quoted {
		return false, nil
	}
	if _, ok := constants[p.tok.text]; ok {
		return true, nil
	}
	_, isNumber := p.tok.number()
	_, isProto := loads[p.tok.text]
	if !isNumber && !isProto {
		return false, nil
	}
	after, err := p.peek()
	if isProto {
		return after.is("["), err
	}
	// "net 10" with 10/8, and "port 80 or 443", are values of primitives. Within
	// parentheses that close at once it is a number, unless a value is meant.
	return after.operator() || after.is(")") && p.quals == quals{}, err
}

// comparison is number, or number relation number, of which left is the beginning.
func (p *parser) comparison(left node) (node, error) {
	left, err := p.arithmetic(left, 1)
	if err != nil {
		return left, err
	}
	if p.tok.kind != tokOp {
		return left, nil
	}
	holds, ok := relations[p.tok.text]
	if !ok {
		return left, nil
	}
	if err := p.next(); err != nil {
		return left, err
	}
	right, err := p.operand()
	if err == nil {
		right, err = p.arithmetic(right, 1)
	}
	if err != nil {
		return left, err
	}
	a, b := left.num, right.num
	return node{tok: left.tok, pred: func(k packet) bool {
		x, ok := a(k)
		if !ok {
			return false
		}
		y, ok := b(k)
		return ok && holds(x, y)
	}}, nil
}

// arithmetic continues left with operators of at least the precedence prec.
func (p *parser) arithmetic(left node, prec int) (node, error) {
	for p.tok.kind == tokOp {
		op, ok := binaries[p.tok.text]
		if !ok || op.prec < prec {
			break
		}
		at := p.tok
		if err := p.next(); err != nil {
			return left, err
		}
		divisor := p.tok
		right, err := p.operand()
		if err == nil {
			right, err = p.arithmetic(right, op.prec+1)
		}
		if err != nil {
			return left, err
		}
		if v, ok := divisor.number(); ok && v == 0 && at.is("/", "%") {
			return left, p.failTok(divisor, "division by zero")
		}
		a, b := left.num, right.num
		left.num = func(k packet) (uint32, bool) {
			x, ok := a(k)
			if !ok {
				return 0, false
			}
			y, ok := b(k)
			if !ok {
				return 0, false
			}
			return op.do(x, y)
		}
	}
	return left, nil
}

// operand is a number, len, bytes of a header, or something in parentheses.
func (p *parser) operand() (node, error) {
	if p.depth++; p.depth > maxDepth {
		return node{}, p.fail("nested deeper than %d", maxDepth)
	}
	defer func() { p.depth-- }()
	t, err := p.take()
	if err != nil {
		return node{}, err
	}
	if v, ok := constants[t.text]; ok && t.kind == tokWord {
		return constant(t, v), nil
	}
	if v, ok := t.number(); ok {
		return constant(t, v), nil
	}
	switch {
	case t.is("len"):
		return node{tok: t, num: func(k packet) (uint32, bool) { return uint32(k.m.WireLen), true }}, nil
	case t.is("-"):
		n, err := p.operand()
		if err != nil {
			return n, err
		}
		of := n.num
		return node{tok: t, num: func(k packet) (uint32, bool) { v, ok := of(k); return -v, ok }}, nil
	case t.is("("):
		n, err := p.expression()
		if err == nil && n.num == nil {
			err = p.failTok(n.tok, "a condition is no number")
		}
		if err != nil {
			return n, err
		}
		return n, p.expect(")", "to close "+p.place(t))
	}
	if base, ok := loads[t.text]; ok && t.kind == tokWord && p.tok.is("[") {
		return p.load(t, base)
	}
	p.tok = t
	return node{}, p.fail("a number is wanted here, such as 14, len or tcp[13]")
}

func constant(t token, v uint32) node {
	return node{tok: t, num: func(packet) (uint32, bool) { return v, true }}
}

// load is PROTO [ number [: size] ], of which proto was taken.
func (p *parser) load(proto token, base func(tags int) header) (node, error) {
	if err := p.next(); err != nil {
		return node{}, err
	}
	n, err := p.operand()
	if err == nil {
		n, err = p.arithmetic(n, 1)
	}
	if err != nil {
		return n, err
	}
	size := uint32(1)
	if ok, err := p.accept(":"); err != nil {
		return n, err
	} else if ok {
		v, isNumber := p.tok.number()
		if !isNumber || v != 1 && v != 2 && v != 4 {
			return n, p.fail("a size must be 1, 2 or 4 bytes")
		}
		size = v
		if err := p.next(); err != nil {
			return n, err
		}
	}
	if err := p.expect("]", "to close "+proto.text+"["); err != nil {
		return n, err
	}
	at, index := base(p.tags), n.num
	return node{tok: proto, num: func(k packet) (uint32, bool) {
		start, ok := at(k)
		if !ok {
			return 0, false
		}
		i, ok := index(k)
		if !ok || uint64(start)+uint64(i)+uint64(size) > uint64(len(k.b)) {
			return 0, false
		}
		var v uint32
		for _, c := range k.b[start+int(i) : start+int(i)+int(size)] {
			v = v<<8 | uint32(c)
		}
		return v, true
	}}, nil
}
