package curl

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net/http"
	"sort"
	"strings"
)

// showSent prints a request's head as it went out.
func (t *transfer) showSent(raw []byte) {
	t.mu.Lock()
	t.request += int64(len(raw))
	t.mu.Unlock()
	t.showLines('>', raw)
}

// showFields prints the head of an HTTP/2 request, in HTTP/1's form.
func (t *transfer) showFields(req *http.Request) {
	t.mu.Lock()
	if t.head != nil {
		t.mu.Unlock()
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/2\r\nHost: %s\r\n", req.Method, req.URL.RequestURI(), req.Host)
	for _, f := range t.fields {
		if !strings.HasPrefix(f, ":") {
			b.WriteString(f + "\r\n")
		}
	}
	b.WriteString("\r\n")
	t.request += int64(b.Len())
	t.mu.Unlock()
	t.showLines('>', []byte(b.String()))
}

func (t *transfer) showLines(mark byte, raw []byte) {
	if !t.c.verbose {
		return
	}
	var b bytes.Buffer
	for line := range bytes.Lines(raw) {
		b.WriteByte(mark)
		b.WriteByte(' ')
		b.Write(bytes.TrimRight(line, "\r\n"))
		b.WriteByte('\n')
	}
	t.s.env.Stderr.Write(b.Bytes())
}

// showHead prints a response's head wherever -v, -i, -I and -D want it.
func (t *transfer) showHead(resp *http.Response) error {
	t.mu.Lock()
	head := t.head
	t.mu.Unlock()
	var raw []byte
	if head != nil {
		raw = head.rawHead()
	} else {
		raw = http2Head(resp)
	}
	t.heads += int64(len(raw))
	t.showLines('<', raw)
	err := t.s.dumpHeader(raw)
	if err == nil && (t.c.include || t.c.head) {
		err = t.out.write(raw)
	}
	if err != nil {
		resp.Body.Close()
	}
	return err
}

// http2Head writes a head in HTTP/1's form. HTTP/2 header names are in lower case
// (RFC 9113 section 8.2); their order is lost in net/http.
func http2Head(resp *http.Response) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/%d %d \r\n", resp.ProtoMajor, resp.StatusCode)
	names := make([]string, 0, len(resp.Header))
	for n := range resp.Header {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		for _, v := range resp.Header[n] {
			fmt.Fprintf(&b, "%s: %s\r\n", strings.ToLower(n), v)
		}
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// showTLS prints what was agreed on, and with whom.
func (t *transfer) showTLS(cs tls.ConnectionState, insecure bool) {
	t.verbose("* SSL connection using %s / %s", strings.Replace(tls.VersionName(cs.Version), "TLS ", "TLSv", 1), tls.CipherSuiteName(cs.CipherSuite))
	if cs.NegotiatedProtocol != "" {
		t.verbose("* ALPN: server accepted %s", cs.NegotiatedProtocol)
	} else {
		t.verbose("* ALPN: server did not agree on a protocol. Uses default.")
	}
	if len(cs.PeerCertificates) > 0 {
		cert := cs.PeerCertificates[0]
		const form = "Jan _2 15:04:05 2006 GMT"
		t.verbose("* Server certificate:\n*  subject: %s\n*  start date: %s\n*  expire date: %s\n*  issuer: %s",
			cert.Subject, cert.NotBefore.UTC().Format(form), cert.NotAfter.UTC().Format(form), cert.Issuer)
	}
	if insecure {
		t.verbose("*  SSL certificate verify result: not checked, continuing anyway (-k).")
	} else {
		t.verbose("*  SSL certificate verify ok.")
	}
}
