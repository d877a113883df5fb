package curl

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

type phase int

const (
	phaseResolve phase = iota
	phaseConnect
	phaseTLS
	phaseTransfer
)

// times are counted from the start of the transfer; 0: did not happen.
type times struct {
	nameLookup, connect, appConnect   time.Duration
	preTransfer, startTransfer, total time.Duration
	redirect                          time.Duration
}

// A result is how a transfer ended.
type result struct {
	exitError
	t          *transfer
	status     int
	retryAfter time.Duration
}

// problem says in a word why there is a retry.
func (r result) problem() string {
	switch {
	case r.code == exitTimeout:
		return "timeout"
	case r.code == exitOK || r.code == exitHTTP:
		return "HTTP error " + strconv.Itoa(r.status)
	}
	return r.msg
}

// A transfer is one URL, with its redirects.
type transfer struct {
	s     *session
	c     *config
	tg    *target
	ctx   context.Context // ends with --max-time, an interrupt, or the transfer
	start time.Time

	out       *sink
	url       *url.URL // of the last request
	method    string   // of the last request
	redirects int
	location  string // where a redirect that is not followed leads
	resp      *http.Response
	heads     int64 // bytes of all response headers

	mu       sync.Mutex // guards what net/http's goroutines touch
	phase    phase
	times    times
	connects int
	wire     *wireConn
	head     *headConn // nil for HTTP/2
	local    net.Addr
	remote   net.Addr
	request  int64 // bytes of the request headers
	fields   []string
	expect   int64 // bytes of body announced, -1 unknown
	received int64 // bytes of body, before decompression
	toSend   int64 // bytes of body to send, -1 unknown
	sent     int64
	sentAll  bool  // the data to send came to their end
	sendErr  error // reading what is to be sent
}

// transfer makes one attempt at a URL. The result is not reported yet.
func (s *session) transfer(ctx context.Context, tg *target) result {
	t := &transfer{s: s, c: s.c, tg: tg, start: time.Now(), expect: -1}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if s.c.maxTime > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, s.c.maxTime, errMaxTime)
		defer stop()
	}
	t.ctx = ctx
	r := result{t: t}
	watch := t.watch(cancel)
	err := t.do()
	t.mu.Lock()
	t.times.total = time.Since(t.start)
	head := t.head
	t.mu.Unlock()
	if head != nil {
		head.end()
	}
	watch.stop()
	if t.out != nil {
		if cerr := t.out.close(t, err == nil); err == nil {
			err = cerr
		}
	}
	if t.resp != nil {
		r.status = t.resp.StatusCode
		if n, aerr := strconv.ParseUint(t.resp.Header.Get("Retry-After"), 10, 31); aerr == nil {
			r.retryAfter = time.Duration(n) * time.Second
		}
	}
	if err != nil {
		var e *exitError
		if !errors.As(err, &e) {
			e = &exitError{exitRecv, err.Error()}
		}
		r.exitError = *e
	}
	return r
}

// do makes the requests: one, and one more for every redirect that is followed.
func (t *transfer) do() error {
	u, err := t.c.requestURL(t.tg)
	if err != nil {
		return err
	}
	p, err := t.c.payload(t.tg)
	if err != nil {
		return err
	}
	if t.out, err = newSink(t, u); err != nil {
		return err
	}
	r := request{url: u, origin: u, body: p, method: t.c.verb(t.tg), referer: t.c.referer}
	for {
		resp, err := t.roundTrip(&r)
		if err != nil {
			return err
		}
		next, err := t.redirect(&r, resp)
		if err != nil {
			resp.Body.Close()
			return err
		}
		if next == nil {
			return t.receive(resp)
		}
		drain(resp)
		t.redirects++
		t.mu.Lock()
		t.times.redirect = time.Since(t.start)
		t.phase = phaseResolve
		t.expect = -1
		t.mu.Unlock()
		t.verbose("* Issue another request to this URL: '%s'", next)
		r.url = next
	}
}

// roundTrip sends a request and returns its response, whose headers were shown.
func (t *transfer) roundTrip(r *request) (*http.Response, error) {
	req, err := t.build(r)
	if err != nil {
		return nil, err
	}
	t.url, t.method = r.url, req.Method
	t.mu.Lock()
	t.wire, t.head, t.fields, t.sendErr = nil, nil, nil, nil
	t.mu.Unlock()
	ctx := context.WithValue(t.ctx, transferKey{}, t)
	req = req.WithContext(httptrace.WithClientTrace(ctx, t.trace(req)))
	resp, err := t.s.tr.RoundTrip(req)
	if err != nil {
		return nil, t.headError(err)
	}
	t.resp = resp
	return resp, t.showHead(resp)
}

func (t *transfer) trace(req *http.Request) *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { t.gotConn(i, req) },
		WroteHeaderField: func(key string, values []string) {
			t.mu.Lock()
			defer t.mu.Unlock()
			for _, v := range values {
				t.fields = append(t.fields, key+": "+v)
			}
		},
		WroteHeaders:         func() { t.mark(&t.times.preTransfer); t.showFields(req) },
		GotFirstResponseByte: func() { t.mark(&t.times.startTransfer) },
	}
}

func (t *transfer) gotConn(i httptrace.GotConnInfo, req *http.Request) {
	t.mu.Lock()
	t.phase = phaseTransfer
	t.local, t.remote = i.Conn.LocalAddr(), i.Conn.RemoteAddr()
	t.head, t.fields = nil, nil
	c := i.Conn
	if h, ok := c.(*headConn); ok {
		t.head = h
		c = h.Conn
	}
	if tc, ok := c.(*tls.Conn); ok {
		c = tc.NetConn()
	}
	t.wire, _ = c.(*wireConn)
	head, wire := t.head, t.wire
	t.mu.Unlock()
	if head != nil {
		head.begin(t)
	}
	if i.Reused && wire != nil {
		t.verbose("* Re-using existing connection! (#%d) with host %s", wire.id, req.URL.Hostname())
	}
}

// connState is about the connection of the last request.
func (t *transfer) connState() connState {
	t.mu.Lock()
	head, wire := t.head, t.wire
	t.mu.Unlock()
	if head != nil {
		return head.state()
	}
	if wire == nil {
		return connState{}
	}
	wire.mu.Lock()
	defer wire.mu.Unlock()
	return connState{readErr: wire.readErr, writeErr: wire.writeErr, received: wire.received, looksHTTP: true}
}

func (t *transfer) setPhase(p phase) {
	t.mu.Lock()
	t.phase = p
	t.mu.Unlock()
}

// mark sets one of t.times.
func (t *transfer) mark(d *time.Duration) {
	t.mu.Lock()
	*d = time.Since(t.start)
	t.mu.Unlock()
}

func (t *transfer) sinceStart() time.Duration { return time.Since(t.start) }

func (t *transfer) readError() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sendErr
}

// redirect returns where resp sends the client, and changes r for it; nil when it
// is the final response.
func (t *transfer) redirect(r *request, resp *http.Response) (*url.URL, error) {
	loc := resp.Header.Get("Location")
	t.location = ""
	switch resp.StatusCode {
	case 301, 302, 303, 307, 308:
	default:
		return nil, nil
	}
	if loc == "" {
		return nil, nil
	}
	next, err := r.url.Parse(strings.ReplaceAll(loc, " ", "%20"))
	if err != nil {
		next, err = r.url.Parse(repairEscapes(strings.ReplaceAll(loc, " ", "%20")))
	}
	if err == nil {
		t.location = next.String()
	}
	if !t.c.location {
		return nil, nil
	}
	if err != nil {
		return nil, fail(exitURL, "the redirect's Location %q is not a URL: %s", loc, urlReason(err))
	}
	if t.c.maxRedirs >= 0 && t.redirects >= t.c.maxRedirs {
		return nil, fail(exitRedirects, "Maximum (%d) redirects followed", t.c.maxRedirs)
	}
	if err := checkURL(next); err != nil {
		return nil, err
	}
	if next.Path == "" {
		next.Path = "/"
	}
	if t.c.autoReferer {
		from := *r.url
		from.User = nil
		r.referer = from.String()
	}
	r.follow(t.c, resp.StatusCode)
	if r.body != nil && r.body.stream != nil {
		return nil, fail(exitRewind, "necessary data rewind wasn't possible: a redirect asks for the data again, and they came from a stream")
	}
	return next, nil
}

// verbose prints a line of -v.
func (t *transfer) verbose(format string, args ...any) {
	if t.c.verbose {
		fmt.Fprintf(t.s.env.Stderr, format+"\n", args...)
	}
}
