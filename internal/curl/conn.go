package curl

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// bufferSize is that of every copy: a quarter megabyte a step.
	bufferSize = 256 << 10
	// maxHead bounds a response's headers, as libcurl does.
	maxHead = 300 << 10
)

// A wireConn is what the dialler gave, remembering how its reading and writing
// ended: from there come the exit codes, whatever net/http makes of the error.
type wireConn struct {
	net.Conn
	id     int // counted from 0, as -v shows it
	closed func(*wireConn)
	once   sync.Once

	mu                sync.Mutex
	readErr, writeErr error
	received          int64
	isClosed          bool
}

func (c *wireConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	c.received += int64(n)
	if err != nil && c.readErr == nil && !c.isClosed {
		c.readErr = err
	}
	c.mu.Unlock()
	return n, err
}

func (c *wireConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		c.mu.Lock()
		if c.writeErr == nil && !c.isClosed {
			c.writeErr = err
		}
		c.mu.Unlock()
	}
	return n, err
}

// Close keeps later errors, which are its own doing, out of the record.
func (c *wireConn) Close() error {
	c.mu.Lock()
	c.isClosed = true
	c.mu.Unlock()
	c.once.Do(func() { c.closed(c) })
	return c.Conn.Close()
}

// connState is what is known of the connection a request went over.
type connState struct {
	readErr, writeErr error
	received          int64 // bytes since the request began
	headDone          bool
	looksHTTP         bool
}

// A headConn carries HTTP/1 requests, one after another, and keeps the heads as
// they are on the wire: net/http shows neither the order nor the case of a header.
type headConn struct {
	net.Conn // a wireConn, or TLS over one

	mu       sync.Mutex
	t        *transfer // whose request it carries
	sent     head
	got      head
	received int64
	readErr  error
	writeErr error
	ended    chan struct{} // closed when the transfer is over or reading ended
	isEnded  bool
	isClosed bool
}

func newHeadConn(c net.Conn) *headConn {
	return &headConn{Conn: c, ended: make(chan struct{})}
}

// begin makes t the one whose request follows.
func (c *headConn) begin(t *transfer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
	c.sent, c.got = head{}, head{response: true}
	c.received = 0
	if c.isEnded && c.readErr == nil {
		c.ended, c.isEnded = make(chan struct{}), false
	}
}

// end says that the transfer has its response.
func (c *headConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked()
}

func (c *headConn) endLocked() {
	if !c.isEnded {
		c.isEnded = true
		close(c.ended)
	}
}

func (c *headConn) state() connState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return connState{
		readErr: c.readErr, writeErr: c.writeErr, received: c.received,
		headDone: c.got.done, looksHTTP: bytes.HasPrefix(c.got.raw, []byte("HTTP/")),
	}
}

// rawHead returns the response's heads as received, with those of status 1xx.
func (c *headConn) rawHead() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got.raw
}

func (c *headConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received += int64(n)
	c.got.feed(b[:n])
	if err != nil {
		if c.readErr == nil && !c.isClosed {
			c.readErr = err
		}
		c.endLocked()
	}
	return n, err
}

func (c *headConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if !c.sent.done {
		c.sent.feed(b)
		if c.sent.done && c.t != nil {
			c.t.showSent(c.sent.raw)
		}
	}
	c.mu.Unlock()
	n, err := c.Conn.Write(b)
	if err != nil {
		c.holdWriteError(err)
	}
	return n, err
}

// holdWriteError waits, as net/http drops a response when the sending of its
// request ends in an error. A server that answers 413 and closes before it has read
// everything is heard that way.
func (c *headConn) holdWriteError(err error) {
	c.mu.Lock()
	if c.writeErr == nil && !c.isClosed {
		c.writeErr = err
	}
	ended, t := c.ended, c.t
	c.mu.Unlock()
	if t == nil {
		return
	}
	limit := time.NewTimer(5 * time.Second)
	defer limit.Stop()
	select {
	case <-ended:
	case <-t.ctx.Done():
	case <-limit.C:
	}
}

// ReadFrom copies a request body in large steps.
func (c *headConn) ReadFrom(r io.Reader) (int64, error) {
	return copyLarge(c, r)
}

func (c *headConn) Close() error {
	c.mu.Lock()
	c.isClosed = true
	c.endLocked()
	c.mu.Unlock()
	return c.Conn.Close()
}

func copyLarge(w io.Writer, r io.Reader) (total int64, err error) {
	buf := make([]byte, bufferSize)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			m, werr := w.Write(buf[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return total, err
		}
	}
}

// A head collects bytes to the empty line that ends a request's or a response's
// header section, over those of interim responses (RFC 9110 section 15.2).
type head struct {
	response bool
	raw      []byte
	line     int // where in raw the current line begins
	block    int // where in raw the current head begins
	done     bool
}

func (h *head) feed(b []byte) {
	for len(b) > 0 && !h.done {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			i = len(b) - 1
		}
		h.raw = append(h.raw, b[:i+1]...)
		b = b[i+1:]
		if h.raw[len(h.raw)-1] != '\n' {
			h.done = len(h.raw) > 2*maxHead
			return
		}
		line := bytes.TrimRight(h.raw[h.line:], "\r\n")
		h.line = len(h.raw)
		if len(line) > 0 {
			h.done = len(h.raw) > 2*maxHead
			continue
		}
		if h.response && interim(h.raw[h.block:]) {
			h.block = len(h.raw)
			continue
		}
		h.done = true
	}
}

// interim tells the head of a 1xx response, 101 excepted, as it is final.
func interim(b []byte) bool {
	_, rest, ok := bytes.Cut(b, []byte(" "))
	return ok && len(rest) > 2 && rest[0] == '1' && !bytes.HasPrefix(rest, []byte("101"))
}
