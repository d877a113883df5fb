package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// What the server listens on.
const (
	streamPort  = 7000 // TCP: an order, then what it says
	connectPort = 7001 // TCP: one byte from the server, which then closes
	udpPort     = 7002
)

// What a TCP connection to streamPort is for.
const (
	orderSink   = 1 // the client writes
	orderSource = 2 // the server writes
	orderEcho   = 3 // the server returns every byte at once
)

// An order is the first thing a client writes on a connection.
type order struct {
	op    uint32
	write uint32        // bytes a write, by whoever writes
	time  time.Duration // how long the receiver counts; unless total is set
	total uint64        // bytes to be sent and hashed by both sides
	// congestion is the congestion control that the server's socket is to have, if
	// that is the kernel's; "" leaves it as it is.
	congestion string
}

const (
	congestionLen = 16 // TCP_CA_NAME_MAX of include/net/tcp.h
	orderLen      = 24 + congestionLen
)

func (o order) encode() []byte {
	b := make([]byte, 0, orderLen)
	b = binary.BigEndian.AppendUint32(b, o.op)
	b = binary.BigEndian.AppendUint32(b, o.write)
	b = binary.BigEndian.AppendUint64(b, uint64(o.time))
	b = binary.BigEndian.AppendUint64(b, o.total)
	var name [congestionLen]byte
	copy(name[:], o.congestion)
	return append(b, name[:]...)
}

// Bounds of an order, so that a mistake is an error and not a hang.
const (
	maxWrite = 1 << 20
	maxTime  = time.Minute
	maxTotal = 1 << 32
)

func readOrder(r io.Reader) (order, error) {
	var b [orderLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return order{}, err
	}
	o := order{
		op:    binary.BigEndian.Uint32(b[0:]),
		write: binary.BigEndian.Uint32(b[4:]),
		time:  time.Duration(binary.BigEndian.Uint64(b[8:])),
		total: binary.BigEndian.Uint64(b[16:]),

		congestion: string(bytes.TrimRight(b[24:], "\x00")),
	}
	if o.write > maxWrite || o.time < 0 || o.time > maxTime || o.total > maxTotal || o.op != orderEcho && o.write == 0 {
		return order{}, fmt.Errorf("order %+v is out of bounds", o)
	}
	return o, nil
}

// A count is what a receiver has got: for an orderSink the server's answer.
type count struct {
	bytes uint64
	time  time.Duration // from the first byte to the last
	hash  [sha256.Size]byte
}

const countLen = 16 + sha256.Size

func (c count) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, c.bytes)
	b = binary.BigEndian.AppendUint64(b, uint64(c.time))
	return append(b, c.hash[:]...)
}

func readCount(r io.Reader) (c count, err error) {
	var b [countLen]byte
	if _, err = io.ReadFull(r, b[:]); err == nil {
		c.bytes = binary.BigEndian.Uint64(b[0:])
		c.time = time.Duration(binary.BigEndian.Uint64(b[8:]))
		copy(c.hash[:], b[16:])
	}
	return c, err
}

// readBlock is how much a receiver asks for at once, in bytes.
const readBlock = 256 << 10

var readBlocks = sync.Pool{New: func() any { return new([readBlock]byte) }}

// receive counts what comes from r: for o.time from the first byte, or, with
// o.total, exactly so many bytes, hashed.
func receive(r io.Reader, o order) (count, error) {
	block := readBlocks.Get().(*[readBlock]byte)
	defer readBlocks.Put(block)
	var c count
	var sum hash.Hash
	if o.total > 0 {
		sum = sha256.New()
	}
	var began time.Time
	for {
		want := block[:]
		if o.total > 0 {
			want = want[:min(uint64(len(want)), o.total-c.bytes)]
		}
		n, err := r.Read(want)
		now := time.Now()
		if n > 0 && began.IsZero() {
			// What came with the first read came before the time began.
			began = now
			if o.total == 0 {
				n = 0
			}
		}
		c.bytes += uint64(n)
		c.time = now.Sub(began)
		if sum != nil {
			sum.Write(want[:n])
			if c.bytes == o.total {
				sum.Sum(c.hash[:0])
				return c, nil
			}
		} else if !began.IsZero() && c.time >= o.time {
			return c, nil
		}
		if err != nil {
			return c, fmt.Errorf("after %d bytes: %w", c.bytes, err)
		}
	}
}

// payload is what every sender sends, again and again: no byte sequence in it
// repeats, so that what is lost, doubled or moved changes the hash.
var payload = sync.OnceValue(func() []byte {
	b := make([]byte, 1<<20+17) // not a multiple of any write
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(b)
	return b
})

// send writes the payload to w in writes of o.write bytes: o.total of them, or until
// w or stop fails it. It returns the hash of what was written if there is a total.
func send(w io.Writer, o order, stop <-chan struct{}) (sum [sha256.Size]byte, err error) {
	data := payload()
	h := sha256.New()
	at, done := 0, uint64(0)
	for o.total == 0 || done < o.total {
		select {
		case <-stop:
			return sum, nil
		default:
		}
		n := int(o.write)
		if o.total > 0 {
			n = int(min(uint64(n), o.total-done))
		}
		if at+n > len(data) {
			at = 0
		}
		if _, err := w.Write(data[at : at+n]); err != nil {
			return sum, fmt.Errorf("after %d bytes: %w", done, err)
		}
		if o.total > 0 {
			h.Write(data[at : at+n])
		}
		at += n
		done += uint64(n)
	}
	h.Sum(sum[:0])
	return sum, nil
}
