package curl

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// receive writes the final response's body where it belongs.
func (t *transfer) receive(resp *http.Response) error {
	defer resp.Body.Close()
	c := t.c
	failed := fail(exitHTTP, "The requested URL returned error: %d", resp.StatusCode)
	bad := resp.StatusCode >= 400
	if bad && c.fail {
		return failed
	}
	if c.resume && t.out.offset > 0 {
		switch {
		case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && !c.failWithBody:
			return nil // nothing is left to fetch
		case resp.StatusCode < 300 && resp.StatusCode != http.StatusPartialContent:
			return fail(exitRange, "HTTP server doesn't seem to support byte ranges. Cannot resume.")
		}
	}
	if t.method != http.MethodHead && !c.head {
		if err := t.copyBody(resp); err != nil {
			return err
		}
	}
	t.mu.Lock()
	wire, sendErr, sent := t.wire, t.sendErr, t.sent
	left := t.toSend > 0 && t.sent < t.toSend || t.toSend < 0 && !t.sentAll
	t.mu.Unlock()
	if sendErr != nil {
		return fail(exitRead, "Reading the data to send: %v", sendErr)
	}
	// net/http gives up on sending when the response is complete. After an error
	// status that is right; a success must not hide that the data were cut.
	if left && resp.StatusCode < 300 {
		return fail(exitSend, "Send failure: the server answered %d and ended after %d bytes were sent, not all", resp.StatusCode, sent)
	}
	if wire != nil {
		t.verbose("* Connection #%d to host %s left intact", wire.id, t.url.Hostname())
	}
	if bad && c.failWithBody {
		return failed
	}
	return nil
}

func (t *transfer) copyBody(resp *http.Response) error {
	chunked := len(resp.TransferEncoding) > 0
	t.mu.Lock()
	t.expect = resp.ContentLength
	t.mu.Unlock()
	wire := &download{r: resp.Body, t: t, limit: newLimiter(t.ctx, t.c.limitRate)}
	body, err := t.decoded(resp, wire)
	if err != nil {
		return err
	}
	buf := make([]byte, bufferSize)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if werr := t.out.body(buf[:n]); werr != nil {
				return werr
			}
		}
		if err == nil {
			continue
		}
		if werr := wire.failed(); werr != nil {
			return t.bodyError(werr, chunked)
		}
		if err != io.EOF {
			return fail(exitEncoding, "Error while processing content unencoding: %v", err)
		}
		// A decoder may stop before the end of what was announced.
		if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{wire}, buf); err != nil {
			return t.bodyError(err, chunked)
		}
		if resp.ContentLength < 0 && !chunked && t.truncatedTLS() {
			return recvError(io.ErrUnexpectedEOF)
		}
		return nil
	}
}

// truncatedTLS tells an HTTP/1 connection over TLS that ended without the
// close_notify alert, which crypto/tls lets pass between records. A body that lasts
// until the end of its connection may then be cut (RFC 8446 section 6.1).
func (t *transfer) truncatedTLS() bool {
	t.mu.Lock()
	head, wire := t.head, t.wire
	t.mu.Unlock()
	if head == nil || wire == nil || head.Conn == net.Conn(wire) {
		return false
	}
	wire.mu.Lock()
	defer wire.mu.Unlock()
	return wire.readErr == io.EOF
}

// A download is a response body that counts, and remembers its own error apart
// from a decoder's.
type download struct {
	r     io.Reader
	t     *transfer
	limit *limiter
	err   error
}

func (d *download) Read(b []byte) (int, error) {
	n, err := d.r.Read(d.limit.clip(b))
	d.t.mu.Lock()
	d.t.received += int64(n)
	d.t.mu.Unlock()
	if err != nil {
		d.err = err
	}
	d.limit.wait(n)
	return n, err
}

func (d *download) failed() error {
	if d.err == io.EOF {
		return nil
	}
	return d.err
}

// decoded undoes the content encodings (RFC 9110 section 8.4) when --compressed
// asked for them.
func (t *transfer) decoded(resp *http.Response, r io.Reader) (io.Reader, error) {
	if !t.c.compressed {
		return r, nil
	}
	encodings := strings.Split(strings.Join(resp.Header.Values("Content-Encoding"), ","), ",")
	if len(encodings) > 5 {
		return nil, fail(exitEncoding, "Reject response due to %d content encodings", len(encodings))
	}
	for i := len(encodings) - 1; i >= 0; i-- {
		switch e := strings.ToLower(strings.TrimSpace(encodings[i])); e {
		case "", "identity", "none":
		case "gzip", "x-gzip":
			r = &decoder{src: r, open: func(b *bufio.Reader) (io.Reader, error) { return gzip.NewReader(b) }}
		case "deflate":
			r = &decoder{src: r, open: inflate}
		default:
			return nil, fail(exitEncoding, "Unrecognized content encoding type %q: gzip and deflate are understood", e)
		}
	}
	return r, nil
}

// inflate reads zlib (RFC 1950), and the bare deflate (RFC 1951) that some servers
// send by the same name.
func inflate(b *bufio.Reader) (io.Reader, error) {
	h, err := b.Peek(2)
	if err == nil && h[0]&0x0f == 8 && (uint(h[0])<<8|uint(h[1]))%31 == 0 {
		return zlib.NewReader(b)
	}
	return flate.NewReader(b), nil
}

// A decoder starts decompressing at the first byte: an empty body is no error.
type decoder struct {
	src  io.Reader
	open func(*bufio.Reader) (io.Reader, error)
	r    io.Reader
}

func (d *decoder) Read(b []byte) (int, error) {
	if d.r == nil {
		br := bufio.NewReaderSize(d.src, 64<<10)
		if _, err := br.Peek(1); err != nil {
			return 0, err
		}
		r, err := d.open(br)
		if err != nil {
			return 0, notEOF(err)
		}
		d.r = r
	}
	return d.r.Read(b)
}

// notEOF keeps a header cut short from looking like an end.
func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// drain reads the rest of a redirect's short body, so that the connection can be
// used again.
func drain(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
}

// A limiter holds a copy to a rate; nil does not.
type limiter struct {
	ctx   context.Context
	rate  int64 // bytes a second
	start time.Time
	done  int64
}

func newLimiter(ctx context.Context, rate int64) *limiter {
	if rate <= 0 {
		return nil
	}
	return &limiter{ctx: ctx, rate: rate, start: time.Now()}
}

// clip makes steps of at most a tenth of a second.
func (l *limiter) clip(b []byte) []byte {
	if l == nil {
		return b
	}
	return b[:min(int64(len(b)), max(1, l.rate/10))]
}

func (l *limiter) wait(n int) {
	if l == nil {
		return
	}
	l.done += int64(n)
	due := time.Duration(float64(l.done) / float64(l.rate) * float64(time.Second))
	ahead := due - time.Since(l.start)
	if ahead <= 0 {
		return
	}
	timer := time.NewTimer(ahead)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.ctx.Done():
	}
}
