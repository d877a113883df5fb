package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

const (
	capturePath = "/v1/capture"
	// streamEndTime is how long the end of the server waits for streams to end in good order.
	streamEndTime = 250 * time.Millisecond
)

// CaptureOptions say what to capture; the zero value is every frame of every link, whole.
type CaptureOptions struct {
	// Filter is an expression as package capture/filter takes it.
	Filter string
	// Link is the name of a link; "" stands for all.
	Link string
	// SnapLen is how many bytes of a frame are kept; 0 keeps all.
	SnapLen int
	// Count ends the capture after so many frames, unless it is 0.
	Count uint64
	// Split gives the segments that a super-frame stands for instead of the super-frame.
	Split bool
	// Buffer is how many bytes wait for a slow client at most; 0 leaves that to the daemon.
	Buffer int
}

// A Capturer is a Backend whose frames can be captured.
type Capturer interface {
	// Capture writes frames to w as a pcapng section until ctx is done, as many were
	// written as o.Count says, or w fails. It begins to write at once, unless it returns an
	// error instead.
	Capture(ctx context.Context, o CaptureOptions, w io.Writer) error
}

func (o *CaptureOptions) query() url.Values {
	q := url.Values{}
	set := func(name, value string, is bool) {
		if is {
			q.Set(name, value)
		}
	}
	set("filter", o.Filter, o.Filter != "")
	set("link", o.Link, o.Link != "")
	set("snaplen", strconv.Itoa(o.SnapLen), o.SnapLen != 0)
	set("count", strconv.FormatUint(o.Count, 10), o.Count != 0)
	set("split", "1", o.Split)
	set("buffer", strconv.Itoa(o.Buffer), o.Buffer != 0)
	return q
}

// captureOptions is the inverse of query. It is strict: a misspelt name would capture something
// else than was asked for.
func captureOptions(q url.Values) (o CaptureOptions, err error) {
	for name, values := range q {
		value := values[len(values)-1]
		switch name {
		case "filter":
			o.Filter = value
		case "link":
			o.Link = value
		case "snaplen":
			o.SnapLen, err = strconv.Atoi(value)
		case "count":
			o.Count, err = strconv.ParseUint(value, 10, 64)
		case "split":
			o.Split, err = strconv.ParseBool(value)
		case "buffer":
			o.Buffer, err = strconv.Atoi(value)
		default:
			return o, invalid(fmt.Sprintf("%s takes no %q: use filter, link, snaplen, count, split or buffer", capturePath, name))
		}
		if err != nil {
			return o, invalid(fmt.Sprintf("%s: %s %q is not a number", capturePath, name, value))
		}
	}
	return o, nil
}

// capture answers GET /v1/capture: what comes is the capture, until the client half-closes.
func (cc *clientConn) capture(req *http.Request, br *bufio.Reader) error {
	ctx, end, err := cc.srv.stream()
	if err != nil {
		_ = cc.answer(&response{err: err}, true)
		return err
	}
	defer end()
	refuse := func(err error) error {
		_ = cc.answer(&response{err: err}, true)
		return err
	}
	capturer, ok := cc.srv.cfg.Backend.(Capturer)
	if !ok {
		return refuse(&remoteError{text: "this daemon captures no frames", errno: syscall.EOPNOTSUPP})
	}
	o, err := captureOptions(req.URL.Query())
	if err != nil {
		return refuse(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, br)
		cancel()
	}()
	w := &streamWriter{cc: cc, contentType: "application/x-pcapng"}
	err = capturer.Capture(ctx, o, w)
	if err != nil && !w.begun {
		err = refuse(err)
	}
	cc.c.SetReadDeadline(time.Unix(1, 0)) // ends the copy
	<-ended
	return err
}

// A streamWriter writes an answer whose end is the end of the connection.
type streamWriter struct {
	cc          *clientConn
	contentType string
	begun       bool
}

func (w *streamWriter) Write(b []byte) (int, error) {
	if !w.begun {
		w.begun = true
		head := "HTTP/1.1 200 OK\r\nContent-Type: " + w.contentType + "\r\nConnection: close\r\n\r\n"
		if _, err := io.WriteString(w.cc.e, head); err != nil {
			return 0, err
		}
	}
	return w.cc.e.Write(b)
}

// stream begins an answer without an end of its own: ctx is done when the server ends, which
// waits a moment for the call of end.
func (s *Server) stream() (ctx context.Context, end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || s.closed {
		return nil, nil, errShutdown()
	}
	s.streams.Add(1)
	return s.streamCtx, s.streams.Done, nil
}

// endStreams ends them in good order, as far as their clients read.
func (s *Server) endStreams() {
	s.endStream()
	done := make(chan struct{})
	go func() {
		s.streams.Wait()
		close(done)
	}()
	t := time.NewTimer(streamEndTime)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// A CaptureStream is a capture as it comes from the daemon: a pcapng section.
type CaptureStream struct {
	c    *net.UnixConn
	body *bufio.Reader
	path string
}

// Capture begins to capture. What cannot be captured is told here; ctx is for the beginning
// only. The stream must be closed.
func (c *Client) Capture(ctx context.Context, o CaptureOptions) (*CaptureStream, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	s, err := c.startCapture(conn, o)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

func (c *Client) startCapture(conn *net.UnixConn, o CaptureOptions) (*CaptureStream, error) {
	fail := func(err error) error {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return &DaemonError{c.path(), plainCause(err)}
	}
	req, err := http.NewRequest("GET", "http://ustack"+capturePath+"?"+o.query().Encode(), nil)
	if err != nil {
		return nil, err
	}
	if err := req.Write(conn); err != nil {
		return nil, fail(err)
	}
	s := &CaptureStream{c: conn, body: bufio.NewReaderSize(conn, bufferLen), path: c.path()}
	res, err := http.ReadResponse(s.body, req)
	if err != nil {
		return nil, fail(err)
	}
	if res.StatusCode/100 == 2 {
		return s, nil // the rest of the connection is the body
	}
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fail(err)
	}
	var w wireError
	if json.Unmarshal(answer, &w) != nil || w.err() == nil {
		return nil, fail(fmt.Errorf("it answered %s", res.Status))
	}
	return nil, w.err()
}

// Read reads what was captured; io.EOF follows the end of the section.
func (s *CaptureStream) Read(b []byte) (int, error) {
	n, err := s.body.Read(b)
	if err != nil && err != io.EOF {
		err = &DaemonError{s.path, plainCause(err)}
	}
	return n, err
}

// Stop asks for the end: what was captured until now follows.
func (s *CaptureStream) Stop() error { return s.c.CloseWrite() }

// Close ends the capture at once. It is harmless to call it twice, or during a Read.
func (s *CaptureStream) Close() error {
	_ = s.c.Close()
	return nil
}
