package link

import (
	"encoding/binary"
	"math/bits"
)

// sum adds b, as 16-bit words in network byte order, to the ones' complement sum s
// (RFC 1071). An odd last byte counts as the high one of its word. The result is for
// fold, or for another sum.
//
// Words are added eight bytes at a time: a ones' complement sum may be taken in words
// of any multiple of its size and folded at the end (RFC 1071 section 2).
func sum(s uint64, b []byte) uint64 {
	var c uint64
	for len(b) >= 64 {
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[8:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[16:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[24:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[32:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[40:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[48:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[56:]), c)
		b = b[64:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b), c)
		b = b[8:]
	}
	var tail uint64 // fewer than 8 bytes: at most three words and one byte
	for len(b) >= 2 {
		tail += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		tail += uint64(b[0]) << 8
	}
	s, c = bits.Add64(s, tail, c)
	s, c = bits.Add64(s, 0, c)
	return s + c
}

// fold brings a sum down to 16 bits.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>16&0xffff + s>>32 + s&0xffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}

// A summer takes the sum of what comes in pieces of any length.
type summer struct {
	s   uint64
	odd bool // the bytes so far end within a word
}

func (m *summer) add(b []byte) {
	if !m.odd {
		m.s = sum(m.s, b)
	} else {
		// The bytes have changed places in their words, and so they have in the sum.
		m.word(bits.ReverseBytes16(fold(sum(0, b))))
	}
	m.odd = m.odd != (len(b)%2 != 0)
}

// word adds one word, whatever the position.
func (m *summer) word(w uint16) {
	s, c := bits.Add64(m.s, uint64(w), 0)
	m.s = s + c
}

// checksum is what goes into a packet's checksum field: the complement of the sum.
// Zero is sent as its other representation, since it means "none" in UDP (RFC 768)
// and is the same to everyone else.
func (m *summer) checksum() uint16 {
	if c := ^fold(m.s); c != 0 {
		return c
	}
	return 0xffff
}

// A cursor walks over the bytes of a frame in pieces.
type cursor struct {
	pieces [][]byte
	off    int // into pieces[0]
}

// take returns the next bytes that are in one piece, at most n of them: none at the
// end of the frame, or for n = 0.
func (c *cursor) take(n int) []byte {
	for len(c.pieces) > 0 {
		p := c.pieces[0]
		if b := p[c.off:]; len(b) > n {
			c.off += n
			return b[:n]
		} else if c.pieces, c.off = c.pieces[1:], 0; len(b) > 0 {
			return b
		}
	}
	return nil
}

// appendTo appends the next n bytes to dst, in the pieces that hold them.
func (c *cursor) appendTo(dst [][]byte, n int) [][]byte {
	for n > 0 {
		b := c.take(n)
		if len(b) == 0 {
			break
		}
		dst, n = append(dst, b), n-len(b)
	}
	return dst
}

// copyTo fills b from the frame and returns how many bytes there were.
func (c *cursor) copyTo(b []byte) int {
	n := 0
	for n < len(b) {
		p := c.take(len(b) - n)
		if len(p) == 0 {
			break
		}
		n += copy(b[n:], p)
	}
	return n
}
