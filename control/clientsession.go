package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Session is one flows connection as a client holds it: protocol.md's requests and
// replies. What it opened ends with it. It is safe for concurrent use.
type Session struct {
	path string
	link *sessionLink
	done chan struct{} // closed when nobody reads any more

	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]call
	ends    map[uint64]*flowEnd
	err     error // why the session is over

	late sync.WaitGroup // calls whose reply nobody waits for
}

// A call is a request that waits for its reply.
type call struct {
	reply chan Reply // has room for it; nil with then
	then  func(rep Reply, ok bool)
	opens bool // the reply names a new flow
}

// answer passes the reply on; ok is false when the session ended instead.
func (w call) answer(rep Reply, ok bool) {
	switch {
	case w.then != nil:
		w.then(rep, ok)
	case ok:
		w.reply <- rep
	default:
		close(w.reply)
	}
}

// A flowEnd tells how a flow ended.
type flowEnd struct {
	done chan struct{} // closed when err is final
	err  error         // nil for an end in good order

	mu      sync.Mutex
	onError func(error)
	onEnd   func(error)
	ended   bool
}

// OpenSession opens a flows connection of its own, for programs that speak the
// protocol themselves.
func (c *Client) OpenSession(ctx context.Context) (*Session, error) {
	s, err := c.openSession(ctx, false)
	if err == nil {
		go s.read()
	}
	return s, err
}

// OpenPolledSession is OpenSession for a program that waits for other things on the same thread: no
// goroutine reads replies. The program polls FD for reading and then calls Receive, until Err says that
// the session is over.
func (c *Client) OpenPolledSession(ctx context.Context) (*Session, error) {
	return c.openSession(ctx, true)
}

func (c *Client) openSession(ctx context.Context, polled bool) (*Session, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	br := bufio.NewReaderSize(conn, maxMessage)
	err = upgradeSession(conn, br)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &DaemonError{c.path(), err}
	}
	link, err := newSessionLink(conn, br, polled)
	if err != nil {
		return nil, &DaemonError{c.path(), err}
	}
	return &Session{
		path: c.path(), link: link,
		done:    make(chan struct{}),
		waiting: make(map[uint64]call),
		ends:    make(map[uint64]*flowEnd),
	}, nil
}

func upgradeSession(conn net.Conn, br *bufio.Reader) error {
	_, err := io.WriteString(conn, "POST /v1/flows HTTP/1.1\r\nHost: ustack\r\nConnection: Upgrade\r\nUpgrade: "+upgradeName+"\r\n\r\n")
	if err != nil {
		return plainCause(err)
	}
	res, err := http.ReadResponse(br, nil)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return plainCause(err)
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	defer res.Body.Close()
	var w wireError
	if b, err := io.ReadAll(res.Body); err == nil && json.Unmarshal(b, &w) == nil && w.err() != nil {
		return w.err()
	}
	return fmt.Errorf("it answered %s", res.Status)
}

// read hands replies to whoever waits for them.
func (s *Session) read() {
	defer close(s.done)
	err := s.link.took(0, s.reply)
	for err == nil {
		err = s.link.read(s.reply)
	}
	s.end(&DaemonError{s.path, plainCause(err)})
}

// FD is the descriptor to poll for reading, of OpenPolledSession.
func (s *Session) FD() int { return s.link.fd }

// Receive handles the replies that have come, and does not wait for any: functions of Start, OnEnd and
// OnError run in it. It is not for several goroutines at a time.
func (s *Session) Receive() {
	if err := s.link.read(s.reply); err != nil {
		s.end(&DaemonError{s.path, plainCause(err)})
	}
}

func (s *Session) reply(line []byte) error {
	var r Reply
	if err := decodeJSON(line, &r); err != nil {
		return err
	}
	s.dispatch(r)
	return nil
}

func (s *Session) dispatch(r Reply) {
	s.mu.Lock()
	switch {
	case r.ID != 0:
		w, ok := s.waiting[r.ID]
		if !ok {
			break
		}
		delete(s.waiting, r.ID)
		if w.opens && r.Flow != 0 {
			if s.ends[r.Flow] == nil {
				s.ends[r.Flow] = &flowEnd{done: make(chan struct{})}
			}
			r.end = s.ends[r.Flow]
		}
		s.mu.Unlock()
		w.answer(r, true)
		return
	case r.Event == "ended":
		e := s.ends[r.Flow]
		delete(s.ends, r.Flow)
		s.mu.Unlock()
		if e != nil {
			e.finish(r.Err())
		}
		return
	case r.Event == "error":
		e := s.ends[r.Flow]
		s.mu.Unlock()
		if e != nil {
			e.tell(r.Err())
		}
		return
	case r.Event == "protocol":
		s.mu.Unlock()
		s.end(&DaemonError{s.path, r.Err()})
		return
	}
	s.mu.Unlock()
}

// end makes everything fail that still waits. Only the first error counts.
func (s *Session) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	waiting, ends := s.waiting, s.ends
	s.waiting, s.ends = nil, nil
	s.late.Add(1)
	s.mu.Unlock()
	s.link.close()
	if s.link.fd >= 0 {
		close(s.done)
	}
	// Whoever noticed the end may hold what the functions of Start and OnEnd need.
	go func() {
		defer s.late.Done()
		for _, w := range waiting {
			w.answer(Reply{}, false)
		}
		for _, e := range ends {
			if errors.Is(err, net.ErrClosed) {
				e.finish(net.ErrClosed)
				continue
			}
			// A connection whose daemon is gone has not ended well.
			e.finish(&remoteError{text: "connection reset: " + err.Error(), errno: syscall.ECONNRESET})
		}
	}()
}

// finish tells that the flow has ended, and why.
func (e *flowEnd) finish(err error) {
	e.mu.Lock()
	e.err, e.ended = err, true
	f := e.onEnd
	e.mu.Unlock()
	close(e.done)
	if f != nil {
		f(err)
	}
}

// Err is why the session is over; nil while it is not.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the session and with it all of its flows.
func (s *Session) Close() error {
	s.end(net.ErrClosed)
	<-s.done
	s.late.Wait()
	return nil
}

// Call sends r, with descriptor fd unless that is negative, and waits for the
// reply. It closes fd in any case. When ctx ends it cancels the request; what the
// daemon opened nevertheless is released. The error is the transport's or the reply's.
func (s *Session) Call(ctx context.Context, r Request, fd int) (Reply, error) {
	return s.Begin(r, fd).Wait(ctx)
}

// A Pending is a request whose reply has not been taken yet.
type Pending struct {
	s     *Session
	r     Request
	reply chan Reply // has room for it
	err   error      // why it was not sent
}

// Begin is the first half of Call: it sends r. Wait must be called.
func (s *Session) Begin(r Request, fd int) *Pending {
	p := &Pending{s: s, reply: make(chan Reply, 1)}
	s.mu.Lock()
	if s.err != nil {
		p.err = s.err
		s.mu.Unlock()
		closeFD(fd)
		return p
	}
	s.lastID++
	r.ID = s.lastID
	p.r = r
	s.waiting[r.ID] = call{reply: p.reply, opens: opens(r.Op)}
	s.mu.Unlock()
	if err := s.write(fd, r); err != nil {
		s.end(&DaemonError{s.path, plainCause(err)})
	}
	return p
}

// Wait is the second half of Call.
func (p *Pending) Wait(ctx context.Context) (Reply, error) {
	s := p.s
	if p.err != nil {
		return Reply{}, p.err
	}
	select {
	case rep, ok := <-p.reply:
		return s.called(rep, ok)
	case <-ctx.Done():
	}
	// The reply tells whether the request was too late to cancel.
	s.mu.Lock()
	if s.err == nil {
		s.late.Add(1)
		go func() {
			defer s.late.Done()
			if rep, ok := <-p.reply; ok && rep.Err() == nil && opens(p.r.Op) {
				s.Post(Request{Op: "abort", Flow: rep.Flow})
			}
		}()
	}
	s.mu.Unlock()
	s.Post(Request{Op: "cancel", Target: p.r.ID})
	return Reply{}, ctx.Err()
}

// Start is Call without the wait: then is called once with what Call would return, by the
// goroutine that reads replies or one of its own, and must not wait for another reply. id is the
// request's, 0 where the session is over.
func (s *Session) Start(ctx context.Context, r Request, fd int, then func(Reply, error)) (id uint64) {
	return s.start(ctx, nil, r, fd, then)
}

// StartAfter is PostFD of one request and Start of another, in one write.
func (s *Session) StartAfter(ctx context.Context, first Request, fd int, r Request, then func(Reply, error)) {
	first.ID = 0
	s.start(ctx, &first, r, fd, then)
}

// start sends first, if there is one, and r. The descriptor goes with the first of them.
func (s *Session) start(ctx context.Context, first *Request, r Request, fd int, then func(Reply, error)) (id uint64) {
	var told atomic.Bool
	s.mu.Lock()
	if err := s.err; err != nil {
		s.mu.Unlock()
		closeFD(fd)
		go then(Reply{}, err)
		return 0
	}
	s.lastID++
	r.ID = s.lastID
	stop := context.AfterFunc(ctx, func() {
		if told.CompareAndSwap(false, true) {
			s.Post(Request{Op: "cancel", Target: r.ID})
			then(Reply{}, ctx.Err())
		}
	})
	s.waiting[r.ID] = call{opens: opens(r.Op), then: func(rep Reply, ok bool) {
		stop()
		if told.CompareAndSwap(false, true) {
			then(s.called(rep, ok))
		} else if ok && rep.Err() == nil && opens(r.Op) {
			// Too late to cancel it.
			s.Post(Request{Op: "abort", Flow: rep.Flow})
		}
	}}
	s.mu.Unlock()
	var err error
	if first != nil {
		err = s.write(fd, *first, r)
	} else {
		err = s.write(fd, r)
	}
	if err != nil {
		s.end(&DaemonError{s.path, plainCause(err)})
	}
	return r.ID
}

// opens says whether the reply to op names a new flow.
func opens(op string) bool {
	switch op {
	case "socket", "dial", "listen", "accept", "udp", "icmp":
		return true
	}
	return false
}

func (s *Session) called(rep Reply, ok bool) (Reply, error) {
	if !ok {
		return Reply{}, s.Err()
	}
	return rep, rep.Err()
}

// Post sends a request that gets no reply.
func (s *Session) Post(r Request) { s.PostFD(r, -1) }

// PostFD is Post with descriptor fd unless that is negative. It closes fd.
func (s *Session) PostFD(r Request, fd int) {
	r.ID = 0
	if err := s.write(fd, r); err != nil {
		s.end(&DaemonError{s.path, plainCause(err)})
	}
}

// Ended returns a channel that is closed when the flow that the reply opened has ended, and then
// why: nil for an end in good order. It is for replies of socket, dial, listen, accept, udp
// and icmp.
func (r Reply) Ended() (<-chan struct{}, func() error) {
	return r.end.done, func() error { return r.end.err }
}

// OnEnd makes f be called once when the flow has ended, as Ended tells it, never by the caller's
// goroutine. f must not wait for a reply.
func (r Reply) OnEnd(f func(error)) {
	r.end.mu.Lock()
	r.end.onEnd = f
	ended, err := r.end.ended, r.end.err
	r.end.mu.Unlock()
	if ended {
		go f(err)
	}
}

// OnError makes f be called with each error of the flow that ends nothing: those of a raw
// UDP flow. f must not wait.
func (r Reply) OnError(f func(error)) {
	r.end.mu.Lock()
	defer r.end.mu.Unlock()
	r.end.onError = f
}

func (e *flowEnd) tell(err error) {
	e.mu.Lock()
	f := e.onError
	e.mu.Unlock()
	if f != nil {
		f(err)
	}
}

// write sends messages, with the descriptor on the first byte, and closes the descriptor.
func (s *Session) write(fd int, requests ...Request) error {
	defer closeFD(fd)
	var b []byte
	for i, r := range requests {
		r.FD = fd >= 0 && i == 0
		var err error
		if b, err = appendMessage(b, r); err != nil {
			return err
		}
	}
	return s.link.write(b, fd)
}
