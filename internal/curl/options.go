package curl

import (
	"crypto/tls"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// options is curl's command line, as far as it is supported, in the order of help.
func options() []option {
	flag := func(p func(*config) *bool) func(*config, string, bool) error {
		return func(c *config, _ string, on bool) error { *p(c) = on; return nil }
	}
	text := func(p func(*config) *string) func(*config, string, bool) error {
		return func(c *config, v string, _ bool) error { *p(c) = v; return nil }
	}
	span := func(p func(*config) *time.Duration) func(*config, string, bool) error {
		return func(c *config, v string, _ bool) (err error) { *p(c), err = seconds(v); return err }
	}
	size := func(p func(*config) *int64) func(*config, string, bool) error {
		return func(c *config, v string, _ bool) (err error) { *p(c), err = byteCount(v); return err }
	}
	do := func(f func(*config)) func(*config, string, bool) error {
		return func(c *config, _ string, on bool) error {
			if on {
				f(c)
			}
			return nil
		}
	}
	nothing := do(func(*config) {})
	data := func(k dataKind) func(*config, string, bool) error {
		return func(c *config, v string, _ bool) error { return c.addData(k, v) }
	}
	return []option{
		{'d', "data", "DATA", "POST this; @FILE reads it, several are joined by &", data(dataASCII)},
		{0, "data-ascii", "DATA", "", data(dataASCII)},
		{0, "data-binary", "DATA", "as -d, but the file's bytes as they are", data(dataBinary)},
		{0, "data-raw", "DATA", "as -d, but @ has no meaning", data(dataRaw)},
		{0, "data-urlencode", "DATA", "as -d, URL-encoded: TEXT, NAME=TEXT, @FILE or NAME@FILE", data(dataEncode)},
		{0, "json", "DATA", "POST this as application/json", func(c *config, v string, _ bool) error {
			c.json = true
			return c.addData(dataJSON, v)
		}},
		{'F', "form", "NAME=CONTENT", "multipart POST; @FILE uploads, <FILE inserts, ;type= ;filename=", func(c *config, v string, _ bool) error {
			return c.addForm(v, false)
		}},
		{0, "form-string", "NAME=TEXT", "as -F, but @ < ; have no meaning", func(c *config, v string, _ bool) error {
			return c.addForm(v, true)
		}},
		{'G', "get", "", "put what -d gives into the URL's query", flag(func(c *config) *bool { return &c.get })},
		{'I', "head", "", "ask for the headers only", flag(func(c *config) *bool { return &c.head })},
		{'T', "upload-file", "FILE", "PUT a file; - is standard input", func(c *config, v string, _ bool) error {
			t := c.slot(func(t *target) bool { return t.hasUpload })
			t.upload, t.hasUpload = v, true
			return nil
		}},
		{'X', "request", "METHOD", "use this method", func(c *config, v string, _ bool) error {
			if !isToken(v) {
				return fmt.Errorf("%q is not a method", v)
			}
			c.method = v
			return nil
		}},
		{0, "url", "URL", "a URL, as an argument is", func(c *config, v string, _ bool) error { c.addURL(v); return nil }},

		{'H', "header", "LINE|@FILE", `add "Name: value"; "Name:" removes, "Name;" sends it empty`, (*config).addHeader},
		{'A', "user-agent", "NAME", "User-Agent; empty sends none", func(c *config, v string, _ bool) error {
			c.userAgent = &v
			return nil
		}},
		{'e', "referer", "URL", "Referer; ;auto sets it on redirects", func(c *config, v string, _ bool) error {
			c.referer, c.autoReferer = strings.CutSuffix(v, ";auto")
			return nil
		}},
		{'u', "user", "USER:PASSWORD", "basic authentication", func(c *config, v string, _ bool) error {
			if !strings.Contains(v, ":") {
				return fmt.Errorf("passwords are not asked for: give USER:PASSWORD")
			}
			c.user = v
			return nil
		}},
		{0, "basic", "", "", nothing},
		{0, "oauth2-bearer", "TOKEN", "bearer authentication", text(func(c *config) *string { return &c.bearer })},
		{'b', "cookie", "NAME=VALUE", "send cookies", func(c *config, v string, _ bool) error {
			if !strings.Contains(v, "=") {
				return fmt.Errorf("cookie files are not supported: give NAME=VALUE")
			}
			c.cookies = append(c.cookies, v)
			return nil
		}},
		{'r', "range", "RANGE", "ask for these bytes, as 0-499 or -500", text(func(c *config) *string { return &c.byteRange })},
		{0, "compressed", "", "ask for gzip or deflate, and decompress", flag(func(c *config) *bool { return &c.compressed })},

		{'L', "location", "", "follow redirects", flag(func(c *config) *bool { return &c.location })},
		{0, "location-trusted", "", "as -L, with authentication sent to other hosts too", func(c *config, _ string, on bool) error {
			c.location, c.locationTrusted = on, on
			return nil
		}},
		{0, "max-redirs", "N", "follow at most N redirects (50); -1: no limit", func(c *config, v string, _ bool) (err error) {
			c.maxRedirs, err = number(v, -1)
			return err
		}},
		{0, "post301", "", "keep POST after a 301", flag(func(c *config) *bool { return &c.keep301 })},
		{0, "post302", "", "keep POST after a 302", flag(func(c *config) *bool { return &c.keep302 })},
		{0, "post303", "", "keep POST after a 303", flag(func(c *config) *bool { return &c.keep303 })},

		{'o', "output", "FILE", "write to a file; - is standard output, even for binary", func(c *config, v string, _ bool) error {
			if v == "" {
				return fmt.Errorf("requires a file name")
			}
			t := c.slot(func(t *target) bool { return t.hasOut || t.remote })
			t.out, t.hasOut = v, true
			return nil
		}},
		{'O', "remote-name", "", "write to a file named as the URL's last part", do(func(c *config) {
			c.slot(func(t *target) bool { return t.hasOut || t.remote }).remote = true
		})},
		{0, "output-dir", "DIR", "where -o and -O put files", text(func(c *config) *string { return &c.outputDir })},
		{0, "create-dirs", "", "make the directories of -o", flag(func(c *config) *bool { return &c.createDirs })},
		{0, "remove-on-error", "", "remove the file when the transfer does not succeed", flag(func(c *config) *bool { return &c.removeErr })},
		{'R', "remote-time", "", "give the file the server's time", flag(func(c *config) *bool { return &c.remoteTime })},
		{'C', "continue-at", "OFFSET", "resume at this offset; - takes the file's end", func(c *config, v string, _ bool) (err error) {
			c.resume, c.resumeAt = true, -1
			if v != "-" {
				c.resumeAt, err = strconv.ParseInt(v, 10, 64)
				if err != nil || c.resumeAt < 0 {
					return fmt.Errorf("expected an offset in bytes or -, not %q", v)
				}
			}
			return nil
		}},
		{'i', "include", "", "show the response headers before the body", flag(func(c *config) *bool { return &c.include })},
		{'D', "dump-header", "FILE", "write the response headers to a file", text(func(c *config) *string { return &c.dumpHeader })},
		{'w', "write-out", "FORMAT", "print this after the transfer; %{name} as listed below, @FILE", func(c *config, v string, _ bool) error {
			if f, ok := strings.CutPrefix(v, "@"); ok {
				b, err := c.readFile(f)
				if err != nil {
					return err
				}
				v = string(b)
			}
			c.writeOut = v
			return nil
		}},
		{'f', "fail", "", "exit 22 for a status of 400 and more, without its body", flag(func(c *config) *bool { return &c.fail })},
		{0, "fail-with-body", "", "as -f, with the body", flag(func(c *config) *bool { return &c.failWithBody })},
		{0, "fail-early", "", "stop at the first URL that does not succeed", flag(func(c *config) *bool { return &c.failEarly })},
		{'s', "silent", "", "no meter and no messages", flag(func(c *config) *bool { return &c.silent })},
		{'S', "show-error", "", "messages even with -s", flag(func(c *config) *bool { return &c.showError })},
		{'v', "verbose", "", "show the conversation on standard error", flag(func(c *config) *bool { return &c.verbose })},
		{'#', "progress-bar", "", "a bar in place of the meter", flag(func(c *config) *bool { return &c.bar })},
		{0, "progress-meter", "", "--no-progress-meter: no meter", func(c *config, _ string, on bool) error {
			c.noMeter = !on
			return nil
		}},
		{'N', "no-buffer", "", "", nothing},
		{0, "buffer", "", "", nothing},

		{'k', "insecure", "", "accept any certificate", flag(func(c *config) *bool { return &c.insecure })},
		{0, "cacert", "FILE", "trust the authorities in this PEM file only", text(func(c *config) *string { return &c.cacert })},
		{'E', "cert", "FILE", "client certificate, PEM", text(func(c *config) *string { return &c.cert })},
		{0, "key", "FILE", "its key, PEM, when not in the same file", text(func(c *config) *string { return &c.key })},
		{'1', "tlsv1", "", "", nothing},
		{0, "tlsv1.2", "", "TLS 1.2 or later", do(func(c *config) { c.tlsMin = tls.VersionTLS12 })},
		{0, "tlsv1.3", "", "TLS 1.3 or later", do(func(c *config) { c.tlsMin = tls.VersionTLS13 })},
		{0, "tls-max", "VERSION", "at most this: 1.2 or 1.3", func(c *config, v string, _ bool) error {
			switch v {
			case "1.2":
				c.tlsMax = tls.VersionTLS12
			case "1.3", "default":
				c.tlsMax = tls.VersionTLS13
			default:
				return fmt.Errorf("expected 1.2 or 1.3, not %q", v)
			}
			return nil
		}},
		{0, "http1.1", "", "HTTP/1.1 only", do(func(c *config) { c.http = http1 })},
		{0, "http2", "", "HTTP/2 over TLS where the server has it (the default)", do(func(c *config) { c.http = http2 })},
		{0, "http2-prior-knowledge", "", "HTTP/2, without TLS too", do(func(c *config) { c.http = http2Prior })},

		{'4', "ipv4", "", "IPv4 only", do(func(c *config) { c.family = 4 })},
		{'6', "ipv6", "", "IPv6 only", do(func(c *config) { c.family = 6 })},
		{0, "resolve", "HOST:PORT:ADDR[,ADDR]", "use these addresses; * is any host", (*config).addResolve},
		{0, "connect-to", "HOST:PORT:HOST2:PORT2", "connect there instead; empty parts match or stay", (*config).addConnectTo},
		{'m', "max-time", "SECONDS", "the whole transfer's limit, resolving included", span(func(c *config) *time.Duration { return &c.maxTime })},
		{0, "connect-timeout", "SECONDS", "the limit for resolving, connecting and TLS", span(func(c *config) *time.Duration { return &c.connectTimeout })},
		{0, "limit-rate", "BYTES", "at most so many bytes a second; k, M, G", size(func(c *config) *int64 { return &c.limitRate })},
		{'Y', "speed-limit", "BYTES", "exit 28 when slower, bytes a second, for --speed-time", func(c *config, v string, _ bool) (err error) {
			c.speedLimit, err = byteCount(v)
			if c.speedTime == 0 {
				c.speedTime = 30 * time.Second
			}
			return err
		}},
		{'y', "speed-time", "SECONDS", "see --speed-limit (30)", func(c *config, v string, _ bool) (err error) {
			c.speedTime, err = seconds(v)
			if c.speedLimit == 0 {
				c.speedLimit = 1
			}
			return err
		}},
		{0, "retry", "N", "try again, N times, after a timeout or a 408, 429, 500, 502, 503, 504", func(c *config, v string, _ bool) (err error) {
			c.retry, err = number(v, 0)
			return err
		}},
		{0, "retry-delay", "SECONDS", "between tries (1, 2, 4 …)", span(func(c *config) *time.Duration { return &c.retryDelay })},
		{0, "retry-max-time", "SECONDS", "no more tries after this", span(func(c *config) *time.Duration { return &c.retryMaxTime })},
		{0, "retry-connrefused", "", "a refused connection is worth a retry", flag(func(c *config) *bool { return &c.retryConnrefused })},
		{0, "retry-all-errors", "", "every error is", flag(func(c *config) *bool { return &c.retryAll })},

		{0, "socket", "PATH", "the daemon's control socket ($USTACK_SOCKET)", text(func(c *config) *string { return &c.socket })},
		{0, "path-as-is", "", "keep /../ and /./ in the path", flag(func(c *config) *bool { return &c.pathAsIs })},
		{'g', "globoff", "", "", nothing},
		{'q', "disable", "", "", nothing},
		{'h', "help", "", "this text", do(func(c *config) { c.help = true })},
		{'V', "version", "", "the version", do(func(c *config) { c.version = true })},
	}
}

// addHeader takes -H, whose @FILE holds a header a line.
func (c *config) addHeader(v string, _ bool) error {
	lines := []string{v}
	if f, ok := strings.CutPrefix(v, "@"); ok {
		b, err := c.readFile(f)
		if err != nil {
			return err
		}
		lines = strings.Split(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n")
	}
	for _, l := range lines {
		if l == "" {
			continue
		}
		if strings.ContainsAny(l, "\r\n\x00") {
			return fmt.Errorf("%q has a line end or NUL in it", l)
		}
		name, _, colon := strings.Cut(l, ":")
		if !colon {
			name = strings.TrimSuffix(l, ";")
			if name == l {
				return fmt.Errorf("%q is not \"Name: value\"", l)
			}
		}
		if !isToken(name) {
			return fmt.Errorf("%q is not a header name", name)
		}
		c.headers = append(c.headers, l)
	}
	return nil
}

// isToken tells a token of RFC 9110 section 5.6.2.
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		b := s[i]
		if b <= ' ' || b >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, b) >= 0 {
			return false
		}
	}
	return s != ""
}

// helpText lists the flags and the -w variables.
func helpText() string {
	var b strings.Builder
	b.WriteString("Usage: curl [flags] URL...|HOST [PORT]\n\n" +
		"Transfers by HTTP and HTTPS through the stack's daemon. An all-digit second\n" +
		"argument is the port: curl www.baidu.com 80.\n\n")
	for _, o := range options() {
		if o.help == "" {
			continue
		}
		left := "    "
		if o.short != 0 {
			left = "-" + string(o.short) + ", "
		}
		left += "--" + o.long
		if o.arg != "" {
			left += " " + o.arg
		}
		if len(left) > 29 {
			fmt.Fprintf(&b, " %s\n%32s", left, "")
		} else {
			fmt.Fprintf(&b, " %-30s ", left)
		}
		b.WriteString(o.help + "\n")
	}
	b.WriteString("\nSwitches are turned off again by --no-NAME.\n\n-w knows:\n")
	line := " "
	for _, v := range writeOutVars() {
		if len(line)+len(v.name) > 76 {
			b.WriteString(line + "\n")
			line = " "
		}
		line += " " + v.name
	}
	b.WriteString(line + "\n  json stdout stderr header{NAME}\n\n" +
		"The proxy variables of the environment are not honoured: nothing goes around\n" +
		"the stack. Not supported: protocols other than http and https, HTTP/3, HTTP/1.0\n" +
		"requests, URL globbing, cookie files, .curlrc, .netrc, digest, NTLM and Kerberos,\n" +
		"brotli and zstd, parallel transfers, --next, proxies.\n")
	return b.String()
}

// readFile reads a file named on the command line; - is standard input.
func (c *config) readFile(path string) ([]byte, error) {
	b, err := readAll(path, c.stdin)
	if err != nil {
		return nil, fail(exitRead, "%v", err)
	}
	return b, nil
}

func openFile(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fail(exitRead, "cannot open %q: %s", path, reason(err))
	}
	return f, nil
}
