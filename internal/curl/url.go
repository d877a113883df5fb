package curl

import (
	"net/url"
	"path"
	"strconv"
	"strings"
)

// parseURL reads a URL as curl does: without a scheme it is http.
func parseURL(raw string) (*url.URL, error) {
	bad := func(why string) error {
		return fail(exitURL, "URL using bad/illegal format or missing URL: %q: %s", raw, why)
	}
	for i := 0; i < len(raw); i++ {
		if raw[i] <= ' ' || raw[i] == 0x7f {
			return nil, bad("it has a space or control character in it")
		}
	}
	s := raw
	if scheme, _, ok := strings.Cut(s, "://"); !ok || strings.ContainsAny(scheme, "/?#") {
		s = "http://" + strings.TrimPrefix(s, "//")
	}
	u, err := url.Parse(s)
	if err != nil {
		// A % that escapes nothing stands for itself.
		if u, err = url.Parse(repairEscapes(s)); err != nil {
			return nil, bad(urlReason(err))
		}
	}
	if err := checkURL(u); err != nil {
		return nil, err
	}
	return u, nil
}

// checkURL holds for URLs of the command line and of redirects.
func checkURL(u *url.URL) error {
	u.Scheme = strings.ToLower(u.Scheme)
	if u.Scheme != "http" && u.Scheme != "https" {
		return fail(exitProtocol, "Protocol %q not supported", u.Scheme)
	}
	if u.Hostname() == "" {
		return fail(exitURL, "URL using bad/illegal format or missing URL: %q has no host", u.Redacted())
	}
	if p := u.Port(); p != "" {
		if _, err := strconv.ParseUint(p, 10, 16); err != nil {
			return fail(exitURL, "URL rejected: Port number was not a decimal number between 0 and 65535: %q", p)
		}
	} else {
		u.Host = strings.TrimSuffix(u.Host, ":")
	}
	u.Fragment, u.RawFragment = "", ""
	return nil
}

func urlReason(err error) string {
	if e, ok := err.(*url.Error); ok {
		return e.Err.Error()
	}
	return err.Error()
}

func repairEscapes(s string) string {
	hex := func(i int) bool {
		return i < len(s) && strings.IndexByte("0123456789abcdefABCDEF", s[i]) >= 0
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		b.WriteByte(s[i])
		if s[i] == '%' && !(hex(i+1) && hex(i+2)) {
			b.WriteString("25")
		}
	}
	return b.String()
}

// requestURL is where t's request goes, with -G's query and -T's file name.
func (c *config) requestURL(t *target) (*url.URL, error) {
	u, err := parseURL(t.url)
	if err != nil {
		return nil, err
	}
	if !c.pathAsIs && strings.Contains(u.Path, "/.") {
		u = u.ResolveReference(u)
	}
	if t.hasUpload && !t.fromStdin() && (u.Path == "" || strings.HasSuffix(u.Path, "/")) {
		u = u.JoinPath(url.PathEscape(path.Base(t.upload)))
	}
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(q, " \r\n\x00") {
		return nil, fail(exitURL, "the query of -G has a space or control character in it: use --data-urlencode")
	}
	if q != "" && u.RawQuery != "" {
		q = u.RawQuery + "&" + q
	}
	if q != "" {
		u.RawQuery = q
	}
	if u.Path == "" {
		u.Path = "/"
	}
	return u, nil
}

// remoteName is -O's file name.
func remoteName(u *url.URL) (string, error) {
	p := u.EscapedPath()
	name := p[strings.LastIndexByte(p, '/')+1:]
	if name == "" || name == "." || name == ".." {
		return "", fail(exitWrite, "Remote file name has no length: %s ends with no name; use -o FILE", u.Redacted())
	}
	return name, nil
}

// hostPort is the authority with the port written out, for comparing and dialling.
func hostPort(u *url.URL) (host, port string) {
	port = u.Port()
	if port == "" {
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	return u.Hostname(), port
}

func sameOrigin(a, b *url.URL) bool {
	ah, ap := hostPort(a)
	bh, bp := hostPort(b)
	return strings.EqualFold(ah, bh) && ap == bp && a.Scheme == b.Scheme
}
