package stack

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// The receive buffer of a bulk transfer. netstack tunes it to what arrives in one
// round trip, which on a short path is what waits in the wire's queue, ahead of
// everybody else's frames: there it would grow without end. So on a path whose
// round trip is not above longWay it gets shortBuffer bytes instead: half of it,
// the window, fills any such wire (2 MiB cost a tenth of a stream's rate, 4 MiB a
// third more time for round trips beside it). The path is measured after every measureAfter
// bytes.
const (
	longWay      = 1500 * time.Microsecond // netstack measures no less than 1 ms
	shortBuffer  = 3 << 20
	measureAfter = 1 << 20
)

// Round trips of other connections wait behind what a stream has on the wire, and
// behind what its reader does before it looks elsewhere. So while others exchange
// messages, a stream gets less: companyBuffer bytes, or relayBuffer where WriteTo hands
// all to another program, which may share a processor with this one.
const (
	companyBuffer = 2 << 20
	relayBuffer   = 256 << 10
	// smallRead and bulkRead are what one read gives at most in a connection of
	// messages, and at least in a stream, in bytes.
	smallRead = 4 << 10
	bulkRead  = 32 << 10
	// messages in a row make a connection of messages; how soon after one another they
	// come does not matter. What it is counts for companyTime.
	messages    = 4
	companyTime = 50 * time.Millisecond
)

// A traffic is what a connection's reads look like.
type traffic struct {
	small int   // reads of at most smallRead in a row
	bulk  int64 // when there was one of bulkRead last, in Unix nanoseconds
}

// see looks at a read of n bytes.
func (t *traffic) see(n int, with *company) {
	switch {
	case n >= bulkRead:
		t.small, t.bulk = 0, time.Now().UnixNano()
	case n > smallRead:
		t.small = 0
	case t.small < messages:
		t.small++
	default:
		if now := time.Now().UnixNano(); now-t.bulk > int64(companyTime) {
			with.last.Store(now)
		}
	}
}

// A company knows when a connection of messages last had one, in Unix nanoseconds.
type company struct{ last atomic.Int64 }

// at reports whether there are connections of messages at the time now.
func (w *company) at(now int64) bool {
	since := now - w.last.Load()
	return since >= 0 && since < int64(companyTime)
}

// moderate tunes the receive buffer after n bytes were read. readMu is held.
func (c *TCPConn) moderate(n int) {
	if c.longWay {
		c.ep.ModerateRecvBuf(n)
	}
	c.traffic.see(n, &c.conns.company)
	if c.taken += n; c.taken < measureAfter {
		return
	}
	c.taken = 0
	var info tcpip.TCPInfoOption
	if terr := c.ep.GetSockOpt(&info); terr != nil {
		return
	}
	c.longWay = info.RTT > longWay
	opts := c.ep.SocketOptions()
	switch size := opts.GetReceiveBufferSize(); {
	case c.longWay:
	case size == int64(receiveBuffers.Default), size == c.tuned:
		if c.tuned = c.wantBuffer(); c.tuned != size {
			opts.SetReceiveBufferSize(c.tuned, false)
		}
	}
}

// wantBuffer is the receive buffer of a stream on a short path, in bytes.
func (c *TCPConn) wantBuffer() int64 {
	switch {
	case !c.conns.company.at(c.traffic.bulk):
		return shortBuffer
	case c.relay:
		return relayBuffer
	}
	return companyBuffer
}
