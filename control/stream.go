package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// streamEndTime is how long the end of the server waits for streams to end in good order.
const streamEndTime = 250 * time.Millisecond

// answerStream answers with what write writes, until the client half-closes, or with its error
// if it has written nothing.
func (cc *clientConn) answerStream(br *bufio.Reader, contentType string, write func(ctx context.Context, w io.Writer) error) error {
	ctx, end, err := cc.srv.stream()
	if err != nil {
		_ = cc.answer(&response{err: err}, true)
		return err
	}
	defer end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, br)
		cancel()
	}()
	growSend(cc.e)
	w := &streamWriter{cc: cc, contentType: contentType}
	if err = write(ctx, w); err != nil && !w.begun {
		_ = cc.answer(&response{err: err}, true)
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

// A Stream is an answer of the daemon's without an end of its own.
type Stream struct {
	c    *net.UnixConn
	body *bufio.Reader
	path string
}

// openStream asks for a stream. ctx is for the beginning only.
func (c *Client) openStream(ctx context.Context, target string) (*Stream, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	s, err := c.startStream(conn, target)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

func (c *Client) startStream(conn *net.UnixConn, target string) (*Stream, error) {
	fail := func(err error) error {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return &DaemonError{c.path(), plainCause(err)}
	}
	req, err := http.NewRequest("GET", "http://ustack"+target, nil)
	if err != nil {
		return nil, err
	}
	if err := req.Write(conn); err != nil {
		return nil, fail(err)
	}
	s := &Stream{c: conn, body: bufio.NewReaderSize(conn, bufferLen), path: c.path()}
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

// Read reads what has come; io.EOF follows the end.
func (s *Stream) Read(b []byte) (int, error) {
	n, err := s.body.Read(b)
	if err != nil && err != io.EOF {
		err = &DaemonError{s.path, plainCause(err)}
	}
	return n, err
}

// Stop asks for the end: what there was until now follows.
func (s *Stream) Stop() error { return s.c.CloseWrite() }

// Close ends the stream at once. It is harmless to call it twice, or during a Read.
func (s *Stream) Close() error {
	_ = s.c.Close()
	return nil
}
