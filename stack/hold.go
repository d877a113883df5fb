package stack

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/ustack/ustack/link/tapendpoint"
)

// superPayload is the most payload that netstack puts into one super-frame, in bytes:
// tapendpoint's GSO size less the room it keeps for all headers
// (TCPTotalHeaderMaximumSize and one, in transport/tcp/snd.go).
const superPayload = tapendpoint.GSOMaxSize - header.TCPTotalHeaderMaximumSize - 1

// netstack makes a segment of every write and merges only whole ones, so that what is
// left of each write after its last full super-frame leaves as a frame of its own. A
// write of 128 KiB is two full ones and 324 bytes, and a frame costs the same whatever
// its size. So a connection that writes without a pause keeps the rest for its next
// write, much as Linux does (tcp_autocorking in ip-sysctl.rst). It does so after
// holdAfter bytes without a pause longer than holdGap, and not longer than holdFor after
// the application has stopped; nor while it waits for an answer.
const (
	holdAfter = 512 << 10
	holdGap   = 200 * time.Microsecond
	holdFor   = 500 * time.Microsecond
)

// A bulk tells which writes follow one another without a pause. writeMu guards it.
type bulk struct {
	run  int // bytes since the last pause
	last time.Time
}

// begin reports whether the write that begins now is one of many.
func (w *bulk) begin() bool {
	if time.Since(w.last) > holdGap {
		w.run = 0
	}
	return w.run >= holdAfter
}

func (w *bulk) end(n int) {
	w.run = min(w.run+n, holdAfter)
	w.last = time.Now()
}

// A hold is what a connection has accepted and not yet handed to netstack.
type hold struct {
	mu    sync.Mutex // held for system calls, but never while waiting
	buf   *[superPayload]byte
	n     int       // bytes in buf, which is nil when there are none
	since time.Time // when the oldest of them came
	timer *time.Timer
	runs  bool // the timer does
	ended bool // nothing may be held any more
}

var holdBufs = sync.Pool{New: func() any { return new([superPayload]byte) }}

// A payload is what one call of an endpoint's Write takes: head, then body.
type payload struct{ head, body []byte }

// Len implements tcpip.Payloader.
func (p *payload) Len() int { return len(p.head) + len(p.body) }

// Read implements io.Reader.
func (p *payload) Read(b []byte) (int, error) {
	if p.Len() == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.head)
	p.head = p.head[n:]
	m := copy(b[n:], p.body)
	p.body = p.body[m:]
	return n + m, nil
}

// A holder writes to an endpoint by way of a hold.
type holder struct {
	held    atomic.Pointer[hold] // nil before the first bulk write
	bulk    bulk
	payload payload // of the current call; writeMu guards it
}

// put hands bytes of b to netstack without waiting for room. If many, it may hold the
// last of them back. It returns how many it has taken. writeMu is held.
func (c *TCPConn) put(b []byte, many bool) (int, tcpip.Error) {
	h := c.held.Load()
	deep := c.conns.deep.Load()
	if h == nil {
		if !many || deep != nil {
			c.payload = payload{body: b}
			n, terr := deep.write(c.ep, &c.payload)
			return int(n), terr
		}
		h = new(hold)
		c.held.Store(h)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	whole := h.n + len(b)
	if many && deep == nil && !h.ended && (h.n == 0 || time.Since(h.since) < holdFor) {
		whole -= whole % superPayload
	}
	taken := 0
	if whole > 0 {
		before := h.n
		c.payload = payload{body: b[:whole-before]}
		if before > 0 {
			c.payload.head = h.buf[:before]
		}
		n, terr := deep.write(c.ep, &c.payload)
		h.drop(int(min(n, int64(before))))
		if h.n > 0 { // only b may wait for room
			h.flush(c.ep)
			// While the buffer was larger, acknowledgements may have brought what is in it below half of
			// its own size, of which netstack tells nobody then and never again.
			if c.ep.Readiness(waiter.WritableEvents) != 0 {
				c.writing.kick()
			}
		}
		taken = max(int(n)-before, 0)
		if terr != nil || int(n) < whole {
			return taken, terr
		}
	}
	if rest := b[taken:]; len(rest) > 0 {
		c.keep(h, rest)
	}
	return len(b), nil
}

// keep holds b, for which there is room. h.mu is held.
func (c *TCPConn) keep(h *hold, b []byte) {
	if h.n == 0 {
		h.buf, h.since = holdBufs.Get().(*[superPayload]byte), time.Now()
	}
	h.n += copy(h.buf[h.n:], b)
	if h.runs {
		return
	}
	h.runs = true
	if h.timer == nil {
		h.timer = time.AfterFunc(holdFor, func() { c.holdOver(h) })
	} else {
		h.timer.Reset(holdFor)
	}
}

// holdOver is called by the timer. Bytes that were held when it was set may have gone
// since.
func (c *TCPConn) holdOver(h *hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.runs = false
	if h.n == 0 {
		return
	}
	if left := holdFor - time.Since(h.since); left > 0 {
		h.runs = true
		h.timer.Reset(left)
		return
	}
	h.flush(c.ep)
}

// drop forgets the first n bytes held. mu is held.
func (h *hold) drop(n int) {
	if n == 0 {
		return
	}
	if h.n = copy(h.buf[:], h.buf[n:h.n]); h.n == 0 {
		holdBufs.Put(h.buf)
		h.buf = nil
	}
}

// flush hands over what is held. Where the send buffer is full it gets larger
// meanwhile. mu is held.
func (h *hold) flush(ep tcpip.Endpoint) {
	if h.n == 0 {
		return
	}
	p := payload{body: h.buf[:h.n]}
	_, terr := ep.Write(&p, tcpip.WriteOptions{})
	opts := ep.SocketOptions()
	for extra := int64(h.n); p.Len() > 0 && extra <= mostSend; extra *= 2 {
		if _, full := terr.(*tcpip.ErrWouldBlock); terr != nil && !full {
			break // the connection has failed; the next write or read says so
		}
		size := opts.GetSendBufferSize()
		opts.SetSendBufferSize(size+extra, false)
		_, terr = ep.Write(&p, tcpip.WriteOptions{})
		opts.SetSendBufferSize(size, false)
	}
	h.drop(h.n)
}

// unhold hands over what is held, if anything; with end, nothing is held any more.
func (c *TCPConn) unhold(end bool) {
	h := c.held.Load()
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.flush(c.ep)
	if !end {
		return
	}
	h.ended = true
	if h.timer != nil {
		h.timer.Stop()
	}
}
