package curl

import (
	"encoding/base64"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
)

// A request is what one hop of a transfer sends.
type request struct {
	url     *url.URL
	origin  *url.URL // of the first hop: other hosts get no credentials
	method  string   // before -X
	body    *payload
	referer string
}

// verb is the method that the flags imply; -X comes on top.
func (c *config) verb(t *target) string {
	switch {
	case c.head:
		return http.MethodHead
	case t.hasUpload:
		return http.MethodPut
	case len(c.form) > 0, c.hasData && !c.get:
		return http.MethodPost
	}
	return http.MethodGet
}

// follow changes the method as curl does on a redirect (RFC 9110 section 15.4).
func (r *request) follow(c *config, status int) {
	isPost := r.method == http.MethodPost
	toGet := false
	switch status {
	case 301:
		toGet = isPost && !c.keep301
	case 302:
		toGet = isPost && !c.keep302
	case 303:
		toGet = r.method != http.MethodHead && !(isPost && c.keep303)
	}
	if toGet {
		r.method, r.body = http.MethodGet, nil
	}
}

// build makes net/http's request of r.
func (t *transfer) build(r *request) (*http.Request, error) {
	c := t.c
	u := *r.url
	user := u.User
	u.User = nil
	trusted := c.locationTrusted || sameOrigin(r.url, r.origin)
	if trusted && user == nil {
		user = r.origin.User
	}
	h := http.Header{"Accept": {"*/*"}, "User-Agent": {"ustack-curl/" + t.s.env.Version}}
	if c.userAgent != nil {
		h["User-Agent"] = []string{*c.userAgent}
	}
	if c.json {
		h.Set("Accept", "application/json")
	}
	if c.compressed {
		h.Set("Accept-Encoding", "deflate, gzip")
	}
	if r.referer != "" {
		h.Set("Referer", r.referer)
	}
	switch {
	case c.byteRange != "":
		h.Set("Range", "bytes="+c.byteRange)
	case c.resume && t.out.offset > 0:
		h.Set("Range", "bytes="+strconv.FormatInt(t.out.offset, 10)+"-")
	}
	switch {
	case trusted && c.bearer != "":
		h.Set("Authorization", "Bearer "+c.bearer)
	case trusted && c.user != "":
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.user)))
	case user != nil:
		pw, _ := user.Password()
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+pw)))
	}
	if trusted && len(c.cookies) > 0 {
		h.Set("Cookie", strings.Join(c.cookies, "; "))
	}
	method := r.method
	if c.method != "" {
		method = c.method
	}
	req := &http.Request{Method: method, URL: &u, Host: u.Host, Header: h, ProtoMajor: 1, ProtoMinor: 1}
	t.setBody(req, r.body)
	c.customHeaders(req, trusted)
	for _, values := range h {
		for _, v := range values {
			if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				return nil, fail(exitUsage, "the header value %q has a control character in it", v)
			}
		}
	}
	return req, nil
}

// customHeaders applies -H to req.
func (c *config) customHeaders(req *http.Request, trusted bool) {
	h := req.Header
	replaced := map[string]bool{}
	for _, l := range c.headers {
		name, value, colon := strings.Cut(l, ":")
		if !colon {
			name = strings.TrimSuffix(name, ";")
		}
		value = strings.Trim(value, " \t")
		key := textproto.CanonicalMIMEHeaderKey(name)
		switch key {
		case "Host":
			if value != "" && trusted {
				req.Host = value
			}
			continue
		case "Content-Length":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && n > 0 && req.ContentLength < 0 {
				req.ContentLength, req.TransferEncoding = n, nil
			}
			continue
		case "Transfer-Encoding":
			if strings.EqualFold(value, "chunked") && req.Body != nil {
				req.ContentLength, req.TransferEncoding = -1, []string{"chunked"}
			}
			continue
		case "Authorization", "Cookie":
			if !trusted {
				continue
			}
		}
		if !replaced[key] {
			h.Del(name)
			replaced[key] = true
		}
		if colon && value == "" {
			if key == "User-Agent" {
				h[key] = []string{""} // how net/http is told to send none
			}
			continue
		}
		switch key {
		case "User-Agent", "Connection", "Expect", "Accept-Encoding", "Content-Type":
			name = key // net/http looks for these
		}
		h[name] = append(h[name], value)
	}
}

// setBody gives req the payload, which may be nil.
func (t *transfer) setBody(req *http.Request, p *payload) {
	t.mu.Lock()
	t.toSend, t.sent, t.sentAll = 0, 0, false
	if p != nil {
		t.toSend = p.size
	}
	t.mu.Unlock()
	if p == nil {
		return
	}
	if p.contentType != "" {
		req.Header.Set("Content-Type", p.contentType)
	}
	if p.size == 0 {
		req.Body = http.NoBody
		return
	}
	req.ContentLength = p.size
	if p.size < 0 {
		req.TransferEncoding = []string{"chunked"}
	}
	open := func() io.ReadCloser {
		return &upload{ReadCloser: p.open(), t: t, limit: newLimiter(t.ctx, t.c.limitRate)}
	}
	req.Body = open()
	if p.stream == nil {
		req.GetBody = func() (io.ReadCloser, error) {
			t.mu.Lock()
			t.sent, t.sentAll = 0, false
			t.mu.Unlock()
			return open(), nil
		}
	}
}

// An upload is a request body that counts.
type upload struct {
	io.ReadCloser
	t     *transfer
	limit *limiter
}

func (u *upload) Read(b []byte) (int, error) {
	n, err := u.ReadCloser.Read(u.limit.clip(b))
	u.t.mu.Lock()
	u.t.sent += int64(n)
	if err == io.EOF {
		u.t.sentAll = true
	} else if err != nil {
		u.t.sendErr = err
	}
	u.t.mu.Unlock()
	u.limit.wait(n)
	return n, err
}

// WriteTo makes large chunks: net/http would copy in steps of 32 KiB.
func (u *upload) WriteTo(w io.Writer) (int64, error) {
	return copyLarge(w, struct{ io.Reader }{u})
}
