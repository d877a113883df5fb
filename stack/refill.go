package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// netstack wakes a writer that waits for room when half of the send buffer is empty. On
// a long path what is in the buffer is what is on the way, so that a sender that waits for
// that has no more than between a half and all of it there. So while a writer waits, and
// the congestion window has room for half of the buffer or more, it looks refillParts
// times in each round trip whether there is room, but no more often than refillLeast; and
// half as often after each time that there was none, until that is a whole round trip:
// then the peer does not read, and netstack's word will do.
const (
	refillParts = 8
	refillLeast = time.Millisecond
	// leastSegment is what a segment of a full window has at least: what IPv6's least MTU
	// has room for.
	leastSegment = 1220
)

// A refill is when a writer that waits for room looks for it. writeMu guards it.
type refill struct {
	timer    *time.Timer   // nil before the first wait on a long path
	trip     time.Duration // the path's; 0 where a writer is left to netstack
	measured int64         // value of written when that was measured
	at       int64         // value of written at the last wait
	next     time.Duration // how long that waited
}

// every returns how long a writer waits that has written so many bytes; 0 is until
// netstack wakes it.
func (r *refill) every(written int64) time.Duration {
	if r.trip == 0 {
		return 0
	}
	if written != r.at || r.next == 0 {
		r.at, r.next = written, max(r.trip/refillParts, refillLeast)
		return r.next
	}
	if r.next >= r.trip {
		return 0
	}
	r.next *= 2
	return r.next
}

// awaitRoom returns nil when it is worth to try writing again. writeMu is held.
func (c *TCPConn) awaitRoom() error {
	r := &c.refill
	if send := c.send.Load(); r.measured == 0 || c.written-r.measured >= min(measureAfter, send/4) {
		r.measured, r.trip = c.written, 0
		info := infos.Get().(*tcpip.TCPInfoOption)
		if terr := c.ep.GetSockOpt(info); terr == nil && info.RTT > longWay && int64(info.SndCwnd)*leastSegment >= send/2 {
			r.trip = info.RTT
		}
		infos.Put(info)
	}
	if every := r.every(c.written); every > 0 {
		if r.timer == nil {
			r.timer = time.AfterFunc(every, c.writing.kick)
		} else {
			r.timer.Reset(every)
		}
		defer r.timer.Stop()
	}
	return c.waitWrite()
}
