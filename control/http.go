package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxHead = 64 << 10 // bytes of a request head
	maxBody = 1 << 20  // bytes of a request body
	// idleHTTP is how long a connection may wait between requests.
	idleHTTP = time.Minute
	// answerTime bounds a request other than CONNECT and flows.
	answerTime = 30 * time.Second
)

// serve answers the requests of one connection. net/http's server is not used: it
// reads ahead without the descriptors, and takes a half-close for the end of the
// client, although a request may still be under way.
func (cc *clientConn) serve() {
	r := &fdReader{e: cc.e}
	defer r.closeAll()
	br := bufio.NewReaderSize(r, maxMessage)
	for {
		r.budget = maxHead
		cc.c.SetReadDeadline(time.Now().Add(idleHTTP))
		req, err := http.ReadRequest(br)
		if err != nil {
			cc.badRequest(err)
			return
		}
		cc.c.SetReadDeadline(time.Time{})
		switch {
		case req.Method == http.MethodConnect:
			r.budget = -1
			cc.connect(req, br)
			return
		case req.URL.Path == "/v1/flows":
			err := cc.upgrade(req)
			cc.srv.requests.add("http", req.URL.Path, err)
			if err != nil {
				return
			}
			r.budget = -1
			newSession(cc, r, br).run()
			return
		}
		if len(r.fds) > 0 {
			err := badDescriptor(syscall.EINVAL, "is for /v1/flows only")
			cc.srv.requests.add("http", req.URL.Path, err)
			cc.answer(&response{status: http.StatusBadRequest, err: err}, true)
			return
		}
		if req.Method == http.MethodGet && (req.URL.Path == capturePath || req.URL.Path == tracePath) {
			r.budget = -1
			answer := cc.capture
			if req.URL.Path == tracePath {
				answer = cc.trace
			}
			cc.srv.requests.add("http", req.URL.Path, answer(req, br))
			return
		}
		r.budget = maxBody
		res := cc.respond(req)
		cc.srv.requests.add("http", req.URL.Path, res.err)
		_, _ = io.Copy(io.Discard, req.Body)
		last := req.Close || res.last
		if err := cc.answer(res, last); err != nil || last {
			return
		}
	}
}

// badRequest answers what is not HTTP. An end or an error of the connection needs no answer.
func (cc *clientConn) badRequest(err error) {
	res := &response{status: http.StatusBadRequest, err: &remoteError{text: "not a valid HTTP request: " + err.Error(), errno: syscall.EINVAL}}
	var errno syscall.Errno
	switch {
	case errors.Is(err, errHeadLimit):
		res.status = http.StatusRequestHeaderFieldsTooLarge
	case err == io.EOF, errors.As(err, &errno), cc.e.hup():
		return
	}
	cc.srv.requests.add("http", otherRequest, res.err)
	_ = cc.answer(res, true)
}

// A response is what a request is answered with: body as JSON, or err, or what a handler
// wrote.
type response struct {
	status  int // 0: by err, or 200, or 204 without a body
	body    any
	err     error
	written *written
	allow   string
	last    bool
}

func (cc *clientConn) answer(res *response, last bool) error {
	var body []byte
	status := res.status
	header := make(http.Header)
	switch {
	case res.written != nil:
		body, header, status = res.written.body.Bytes(), res.written.header, res.written.status
	case res.err != nil:
		if status == 0 {
			status = httpStatus(res.err)
		}
		body, _ = json.Marshal(toWire(res.err))
	case res.body != nil:
		var err error
		if body, err = json.Marshal(res.body); err != nil {
			status = http.StatusInternalServerError
			body, _ = json.Marshal(wireError{Text: err.Error(), Errno: "EIO"})
		}
	}
	if status == 0 {
		status = http.StatusOK
		if body == nil {
			status = http.StatusNoContent
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	if res.written == nil && body != nil {
		body = append(body, '\n')
		header.Set("Content-Type", "application/json")
	}
	if status != http.StatusNoContent {
		header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	if res.allow != "" {
		header.Set("Allow", res.allow)
	}
	if last {
		header.Set("Connection", "close")
	}
	header.Write(&b)
	b.WriteString("\r\n")
	b.Write(body)
	cc.c.SetWriteDeadline(time.Now().Add(answerTime))
	defer cc.c.SetWriteDeadline(time.Time{})
	_, err := cc.e.Write(b.Bytes())
	return err
}

// upgrade answers POST /v1/flows.
func (cc *clientConn) upgrade(req *http.Request) error {
	res := &response{status: http.StatusUpgradeRequired, err: &remoteError{
		text: "/v1/flows takes POST with Upgrade: " + upgradeName, errno: syscall.EINVAL}}
	upgrade := strings.EqualFold(strings.TrimSpace(req.Header.Get("Upgrade")), upgradeName)
	if err := cc.srv.accepting(); err != nil {
		res.status, res.err = 0, err
	} else if req.Method == http.MethodPost && upgrade && req.ContentLength == 0 {
		_, err := io.WriteString(cc.e, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgradeName+"\r\n\r\n")
		return err
	}
	_ = cc.answer(res, true)
	return res.err
}

// untilGone returns a context that ends when the client closes the connection or
// the server closes. A half-close does not end it. stop must be called.
func (cc *clientConn) untilGone(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	var stopped atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cc.e.waitHUP(stopped.Load)
		if !stopped.Load() {
			cancel()
		}
	}()
	return ctx, func() {
		stopped.Store(true)
		cc.c.SetReadDeadline(time.Unix(1, 0)) // wakes waitHUP
		<-done
		cc.c.SetReadDeadline(time.Time{})
		cancel()
	}
}

// respond answers every request that has a JSON answer.
func (cc *clientConn) respond(req *http.Request) *response {
	if strings.EqualFold(req.Header.Get("Expect"), "100-continue") {
		if _, err := io.WriteString(cc.e, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return &response{err: err, last: true}
		}
	}
	if req.Method == http.MethodGet {
		if res := cc.respondState(req); res != nil {
			return res
		}
	}
	var allow string
	path := req.URL.Path
	if path == metricsPath && cc.srv.cfg.Metrics == nil {
		path = "" // not offered
	}
	switch path {
	case metricsPath, capturePath, tracePath, "/v1/status", "/v1/links", "/v1/sockets", "/v1/stats", "/v1/fdb", "/v1/resolve":
		allow = "GET"
	case "/v1/addrs", "/v1/routes", "/v1/neighbours":
		allow = "GET, POST, DELETE"
	default:
		return &response{status: http.StatusNotFound, err: &remoteError{
			text: "no such resource: " + req.URL.Path, errno: syscall.ENOENT}}
	}
	if allow == "GET" || req.Method != http.MethodPost && req.Method != http.MethodDelete {
		return &response{status: http.StatusMethodNotAllowed, allow: allow, last: true, err: &remoteError{
			text: req.URL.Path + " takes " + allow, errno: syscall.EOPNOTSUPP}}
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return &response{status: http.StatusRequestEntityTooLarge, last: true, err: &remoteError{
			text: "request body: " + err.Error(), errno: syscall.EMSGSIZE}}
	}
	if err := cc.srv.accepting(); err != nil {
		return &response{err: err, last: true}
	}
	ctx, cancel := context.WithTimeout(cc.srv.ctx, answerTime)
	defer cancel()
	return &response{err: cc.change(ctx, req.Method == http.MethodPost, req.URL.Path, body)}
}

func (cc *clientConn) respondState(req *http.Request) *response {
	b := cc.srv.cfg.Backend
	switch req.URL.Path {
	case "/v1/status":
		st := b.Status()
		st.Flows = cc.srv.flowCount()
		return &response{body: st}
	case "/v1/links":
		return &response{body: list(b.Links())}
	case "/v1/addrs":
		return &response{body: list(b.Addrs())}
	case "/v1/routes":
		return &response{body: list(b.Routes())}
	case "/v1/neighbours":
		return &response{body: list(b.Neighbours())}
	case "/v1/sockets":
		infos := b.Sockets()
		cc.srv.fillOwners(infos)
		return &response{body: list(infos)}
	case "/v1/fdb":
		return respondFDB(b)
	case "/v1/stats":
		st := b.Stats()
		st.Flows = cc.srv.flowCount()
		return &response{body: st}
	case metricsPath:
		if cc.srv.cfg.Metrics == nil {
			return nil
		}
		return cc.metrics(req)
	case "/v1/resolve":
		ctx, cancel := context.WithTimeout(cc.srv.ctx, answerTime)
		defer cancel()
		ctx, stop := cc.untilGone(ctx)
		defer stop()
		q := req.URL.Query()
		addrs, err := resolve(ctx, b, q.Get("network"), q.Get("name"))
		if err != nil {
			return &response{err: err}
		}
		return &response{body: resolved{addrs}}
	}
	return nil
}

// resolved is the answer of /v1/resolve.
type resolved struct {
	Addrs []netip.Addr `json:"addrs"`
}

// addrBody is the body of a change of /v1/addrs.
type addrBody struct {
	Prefix netip.Prefix `json:"prefix"`
}

// list makes an empty JSON list of a nil one.
func list[T any](v []T) []T {
	if v == nil {
		return []T{}
	}
	return v
}

// change does what POST (add) or DELETE asks for.
func (cc *clientConn) change(ctx context.Context, add bool, path string, body []byte) error {
	b := cc.srv.cfg.Backend
	switch path {
	case "/v1/addrs":
		var a addrBody
		if err := decodeBody(body, &a); err != nil {
			return err
		}
		if !a.Prefix.IsValid() {
			return invalid(`"prefix" is missing: give an address with its length, such as 10.0.0.4/24`)
		}
		if add {
			return b.AddAddr(ctx, a.Prefix)
		}
		return b.DelAddr(ctx, a.Prefix)
	case "/v1/routes":
		var r Route
		if err := decodeBody(body, &r); err != nil {
			return err
		}
		if !r.Dst.IsValid() {
			return invalid(`"dst" is missing: give a prefix, such as 0.0.0.0/0`)
		}
		if add {
			return b.AddRoute(ctx, r)
		}
		return b.DelRoute(ctx, r)
	default:
		var n Neighbour
		if err := decodeBody(body, &n); err != nil {
			return err
		}
		if !n.IP.IsValid() {
			return invalid(`"ip" is missing`)
		}
		if add {
			return b.AddNeighbour(ctx, n)
		}
		return b.DelNeighbour(ctx, n.IP)
	}
}

// decodeBody is strict: a misspelt field would change something else than was asked for.
func decodeBody(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return invalid("body is not valid: " + err.Error())
	}
	if _, err := d.Token(); err != io.EOF {
		return invalid("body has more than one JSON value")
	}
	return nil
}

// invalid is an EINVAL with an explanation.
func invalid(text string) error { return &remoteError{text: text, errno: syscall.EINVAL} }
