package stack

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// The receive buffer of a connection. netstack tunes it to what arrives in one
// round trip, which on a short path is what waits in the wire's queue, ahead of
// everybody else's frames: there it would grow without end; and it never shrinks it. So
// it is tuned here, while the application reads.
//
// On a path whose round trip is not above longWay, a connection that is fast gets
// shortBuffer bytes: half of it, the window, fills any such wire (2 MiB cost a tenth of a
// stream's rate, 4 MiB a third more time for round trips beside it). On longer ones it
// gets perTrip times what was read in one round trip: netstack advertises half, a sender
// doubles its rate with each round trip, and recovery from loss needs as much again. The
// path is measured after every measureAfter bytes.
const (
	longWay      = 1500 * time.Microsecond // netstack measures no less than 1 ms
	shortBuffer  = 3 << 20
	measureAfter = 1 << 20
	perTrip      = 8
	// fastFor is how long measureAfter bytes may take on a short path to count as fast;
	// above slowFor the connection is slow again.
	fastFor = 10 * time.Millisecond
	slowFor = 2 * fastFor
	// firstReceive is the buffer of a connection that has not received anything: half of
	// it, the window, is a little more than a handshake promises. It grows with what is
	// read faster than a sender in slow start does (RFC 5681 section 3.1).
	firstReceive = 64 << 10
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

// A moderator is what tuning the buffers of a connection needs to know.
type moderator struct {
	taken     atomic.Int64 // bytes read so far; changes under readMu
	measureAt atomic.Int64 // value of taken at which the path is measured next
	waiting   atomic.Bool  // Read waits
	rtt       atomic.Int64 // the path's in nanoseconds; 0 on a short one

	// Of readMu.
	since time.Time // when trip, or the bytes before the next measurement, began
	trip  int64     // value of taken then

	// Of memory.mu.
	last  int64 // value of taken at the last review that ended a period
	rate  int64 // bytes read in the period before it
	edge  int64 // the byte up to which the peer may have been invited
	wrote int64 // value of written at the last such review
}

func (m *moderator) path() time.Duration { return time.Duration(m.rtt.Load()) }

// moderate tunes the receive buffer after n bytes were read. readMu is held.
func (c *TCPConn) moderate(n int) {
	c.traffic.see(n, &c.conns.company)
	total := c.taken.Add(int64(n))
	switch {
	case total >= c.measureAt.Load():
		c.measure(total)
	case c.path() > 0:
		if now := time.Now(); now.Sub(c.since) >= c.path() {
			c.tune(now, total)
		}
	}
}

// infos spares measure an allocation for each MiB: a TCPInfoOption escapes.
var infos = sync.Pool{New: func() any { return new(tcpip.TCPInfoOption) }}

// measure measures the path, and lets the buffer of a connection that moves data grow to
// the ordinary size.
func (c *TCPConn) measure(total int64) {
	have, most := c.recv.Load(), int64(receiveBuffers.Default)
	if c.path() == 0 {
		most = min(most, c.wantBuffer())
	}
	if have < most && !c.fixedRecv.Load() {
		c.grow(true, min(4*have, most))
		c.measureAt.Store(total + min(measureAfter, c.recv.Load()/4))
		c.since, c.trip = time.Now(), total
		return
	}
	c.measureAt.Store(total + measureAfter)
	info := infos.Get().(*tcpip.TCPInfoOption)
	defer infos.Put(info)
	if terr := c.ep.GetSockOpt(info); terr != nil || c.fixedRecv.Load() {
		return
	}
	now, was := time.Now(), c.path()
	if info.RTT > longWay {
		c.rtt.Store(int64(info.RTT))
		if was > 0 {
			if now.Sub(c.since) >= info.RTT {
				c.tune(now, total)
			}
			return
		}
	} else {
		c.rtt.Store(0)
		fast := (total-c.trip)*int64(fastFor) >= measureAfter*int64(now.Sub(c.since))
		switch want := c.wantBuffer(); {
		case want < have:
			c.mem.mu.Lock()
			c.giveBack(want, total, have, true)
			c.mem.mu.Unlock()
		case fast && want > have:
			c.grow(true, want)
		}
	}
	c.since, c.trip = now, total
}

// tune gives the buffer the size for what was read in the round trip that now ends.
func (c *TCPConn) tune(now time.Time, total int64) {
	// Longer than a round trip: nothing was read for some time.
	read := float64(total-c.trip) * min(1, 4*float64(c.path())/float64(now.Sub(c.since)))
	c.since, c.trip = now, total
	want := min(perTrip*int64(read), int64(receiveBuffers.Max))
	if want > c.recv.Load() && !c.fixedRecv.Load() {
		c.grow(true, want)
	}
}

// wanted is the size for what was read in the last period.
func (c *TCPConn) wanted(look *look) int64 {
	base := int64(receiveBuffers.Default)
	rate := float64(c.rate) / look.elapsed.Seconds()
	if rtt := c.path(); rtt > 0 {
		return max(base, perTrip*int64(rate*rtt.Seconds()))
	}
	if rate >= measureAfter/slowFor.Seconds() {
		return max(base, shortBuffer)
	}
	return base
}

// size implements accountOwner.
func (c *TCPConn) size(recv bool, bytes int64) {
	opts := c.ep.SocketOptions()
	if !recv {
		opts.SetSendBufferSize(bytes, c.fixedSend.Load())
	} else {
		// With true it tells the peer when that opens the window.
		opts.SetReceiveBufferSize(bytes, c.fixedRecv.Load() || bytes > opts.GetReceiveBufferSize())
	}
}

// ordinary implements accountOwner.
func (c *TCPConn) ordinary() bool {
	return !c.closed && c.recv.Load() <= int64(receiveBuffers.Default) && c.send.Load() <= firstSend
}

// review implements accountOwner.
func (c *TCPConn) review(look *look) (gone bool) {
	if c.closed {
		return !delivering(c.ep.(*tcp.Endpoint))
	}
	c.reviewReceive(look)
	c.reviewSend(look)
	return false
}

func (c *TCPConn) reviewReceive(look *look) {
	total, have := c.taken.Load(), c.recv.Load()
	read := total - c.last
	if look.elapsed > 0 {
		c.last, c.rate = total, read
	}
	busy, idle := max(read, c.rate) >= have/8, read == 0 && c.rate == 0 && c.waiting.Load()
	want := have
	switch {
	case look.share > 0 && busy:
		want = look.fair
	case look.share > 0:
		want = look.share
	case look.elapsed > 0 && !c.fixedRecv.Load():
		if want = c.wanted(look); want > have/2 && want > int64(receiveBuffers.Default) {
			return // not worth to grow it again soon
		}
	}
	if want >= have {
		return
	}
	c.giveBack(want, total, have, !idle)
}

// giveBack shrinks the receive buffer of a connection that has read total bytes from
// have to want bytes. memory.mu is held.
//
// Where promised is true, what the peer was invited to send is not refused (RFC 9293
// section 3.8.6); half as much again is for what netstack needs besides the bytes. Only a
// connection that nothing came on for a whole period, while the application waits for it,
// gives back what it has promised: the sender begins with a small window after that
// (RFC 5681 section 4.1), and the application takes away what comes.
func (c *TCPConn) giveBack(want, total, have int64, promised bool) {
	edge := max(c.edge, total+have/2)
	if promised {
		want = max(want, (edge-total)*3/2)
	}
	if c.closed || want > have-bookStep {
		return
	}
	c.edge = edge
	c.shrink(true, want)
	c.measureAt.Store(total + min(measureAfter, want/4))
}

func (c *TCPConn) reviewSend(look *look) {
	have := c.send.Load()
	if have <= leastBuffer || look.share == 0 && (look.elapsed == 0 || c.fixedSend.Load()) || !c.writeMu.TryLock() {
		return
	}
	defer c.writeMu.Unlock()
	wrote := c.written - c.wrote
	if look.elapsed > 0 {
		c.wrote = c.written
	}
	if wrote >= have/8 {
		return
	}
	want := int64(firstSend)
	if look.share > 0 {
		want = min(want, look.share)
	}
	if want > have-bookStep {
		return
	}
	// netstack does not tell what is in the buffer, but whether there is room.
	c.ep.SocketOptions().SetSendBufferSize(want, false)
	if c.ep.Readiness(waiter.WritableEvents)&waiter.WritableEvents == 0 {
		c.ep.SocketOptions().SetSendBufferSize(have, false)
		return
	}
	c.shrink(false, want)
}

// checkSend books what netstack has added to the send buffer, which it tunes to the
// congestion window, or takes it back. writeMu is held.
func (c *TCPConn) checkSend() {
	if size := c.ep.SocketOptions().GetSendBufferSize(); size != c.send.Load() {
		c.grow(false, size)
	}
}

// growSend makes a send buffer larger that has no room for left bytes, and reports
// whether it has some now. writeMu is held.
func (c *TCPConn) growSend(left int) bool {
	have := c.send.Load()
	if have >= quickSend || c.fixedSend.Load() {
		return false
	}
	return c.grow(false, min(4*max(have, int64(left)), quickSend))
}

// wantBuffer is the receive buffer of a fast stream on a short path, in bytes.
func (c *TCPConn) wantBuffer() int64 {
	switch {
	case !c.conns.company.at(c.traffic.bulk):
		return shortBuffer
	case c.relay:
		return relayBuffer
	}
	return companyBuffer
}
