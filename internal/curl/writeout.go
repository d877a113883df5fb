package curl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
)

// A writeVar is a %{name} of -w. get gives a string, an int64, or a
// time.Duration, which is printed in seconds; t.mu is held.
type writeVar struct {
	name string
	get  func(t *transfer, r *result) any
}

func writeOutVars() []writeVar {
	span := func(f func(*times) time.Duration) func(*transfer, *result) any {
		return func(t *transfer, _ *result) any { return f(&t.times) }
	}
	header := func(name string) func(*transfer, *result) any {
		return func(t *transfer, _ *result) any {
			if t.resp == nil {
				return ""
			}
			return t.resp.Header.Get(name)
		}
	}
	status := func(_ *transfer, r *result) any { return int64(r.status) }
	part := func(local bool, i int) func(*transfer, *result) any {
		return func(t *transfer, _ *result) any {
			a := t.remote
			if local {
				a = t.local
			}
			ip, port := splitAddr(a)
			if i == 0 {
				return ip
			}
			var n int64
			fmt.Sscan(port, &n)
			return n
		}
	}
	return []writeVar{
		{"content_type", header("Content-Type")},
		{"errormsg", func(_ *transfer, r *result) any { return r.msg }},
		{"exitcode", func(_ *transfer, r *result) any { return int64(r.code) }},
		{"filename_effective", func(t *transfer, _ *result) any {
			if t.out == nil {
				return ""
			}
			return t.out.path
		}},
		{"http_code", status},
		{"http_version", func(t *transfer, _ *result) any {
			switch {
			case t.resp == nil:
				return "0"
			case t.resp.ProtoMajor == 2:
				return "2"
			}
			return fmt.Sprintf("%d.%d", t.resp.ProtoMajor, t.resp.ProtoMinor)
		}},
		{"local_ip", part(true, 0)},
		{"local_port", part(true, 1)},
		{"method", func(t *transfer, _ *result) any { return t.method }},
		{"num_connects", func(t *transfer, _ *result) any { return int64(t.connects) }},
		{"num_headers", func(t *transfer, _ *result) any {
			var n int64
			if t.resp != nil {
				for _, v := range t.resp.Header {
					n += int64(len(v))
				}
			}
			return n
		}},
		{"num_redirects", func(t *transfer, _ *result) any { return int64(t.redirects) }},
		{"redirect_url", func(t *transfer, _ *result) any { return t.location }},
		{"referer", func(t *transfer, _ *result) any { return t.c.referer }},
		{"remote_ip", part(false, 0)},
		{"remote_port", part(false, 1)},
		{"response_code", status},
		{"scheme", func(t *transfer, _ *result) any {
			if t.url == nil {
				return ""
			}
			return strings.ToUpper(t.url.Scheme)
		}},
		{"size_download", func(t *transfer, _ *result) any { return t.received }},
		{"size_header", func(t *transfer, _ *result) any { return t.heads }},
		{"size_request", func(t *transfer, _ *result) any { return t.request }},
		{"size_upload", func(t *transfer, _ *result) any { return t.sent }},
		{"speed_download", func(t *transfer, _ *result) any { return perSecond(t.received, t.times.total) }},
		{"speed_upload", func(t *transfer, _ *result) any { return perSecond(t.sent, t.times.total) }},
		{"time_appconnect", span(func(t *times) time.Duration { return t.appConnect })},
		{"time_connect", span(func(t *times) time.Duration { return t.connect })},
		{"time_namelookup", span(func(t *times) time.Duration { return t.nameLookup })},
		{"time_pretransfer", span(func(t *times) time.Duration { return t.preTransfer })},
		{"time_redirect", span(func(t *times) time.Duration { return t.redirect })},
		{"time_starttransfer", span(func(t *times) time.Duration { return max(t.startTransfer, t.preTransfer) })},
		{"time_total", span(func(t *times) time.Duration { return t.total })},
		{"url", func(t *transfer, _ *result) any { return t.tg.url }},
		{"url_effective", func(t *transfer, _ *result) any {
			if t.url == nil {
				return t.tg.url
			}
			return withoutUser(t.url)
		}},
	}
}

func withoutUser(u *url.URL) string {
	v := *u
	v.User = nil
	return v.String()
}

// writeOut prints -w's format for a finished transfer.
func (s *session) writeOut(r *result) {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	out := s.env.Stdout
	expand(s.c.writeOut, func(kind, name string) {
		switch {
		case kind == "text":
			io.WriteString(out, name)
		case kind == "header":
			if r.t.resp != nil {
				io.WriteString(out, r.t.resp.Header.Get(name))
			}
		case name == "stdout":
			out = s.env.Stdout
		case name == "stderr":
			out = s.env.Stderr
		case name == "json":
			out.Write(r.json())
		default:
			text, ok := r.variable(name)
			if !ok {
				s.warn("unknown --write-out variable: '%s'", name)
				return
			}
			io.WriteString(out, text)
		}
	})
}

// expand cuts a format into "text", "variable" and "header" pieces, and gives
// them to emit in order.
func expand(format string, emit func(kind, value string)) {
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			emit("text", text.String())
			text.Reset()
		}
	}
	for i := 0; i < len(format); i++ {
		rest := format[i:]
		if len(rest) > 1 && rest[0] == '\\' {
			i++
			switch rest[1] {
			case 'n':
				text.WriteByte('\n')
			case 'r':
				text.WriteByte('\r')
			case 't':
				text.WriteByte('\t')
			default:
				text.WriteString(rest[:2])
			}
			continue
		}
		kind, skip := "variable", len("%{")
		if strings.HasPrefix(rest, "%header{") {
			kind, skip = "header", len("%header{")
		}
		end := strings.IndexByte(rest, '}')
		switch {
		case strings.HasPrefix(rest, "%%"):
			text.WriteByte('%')
			i++
		case end > 0 && (kind == "header" || strings.HasPrefix(rest, "%{")):
			flush()
			emit(kind, rest[skip:end])
			i += end
		default:
			text.WriteByte(format[i])
		}
	}
	flush()
}

// variable returns a variable as -w prints it.
func (r *result) variable(name string) (string, bool) {
	for _, v := range writeOutVars() {
		if v.name != name {
			continue
		}
		switch x := v.get(r.t, r).(type) {
		case time.Duration:
			return fmt.Sprintf("%.6f", x.Seconds()), true
		case int64:
			if name == "http_code" || name == "response_code" {
				return fmt.Sprintf("%03d", x), true
			}
			return fmt.Sprint(x), true
		case string:
			return x, true
		}
	}
	return "", false
}

// json returns every variable as one object.
func (r *result) json() []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, v := range writeOutVars() {
		if i > 0 {
			b.WriteByte(',')
		}
		value := v.get(r.t, r)
		if d, ok := value.(time.Duration); ok {
			fmt.Fprintf(&b, "%q:%.6f", v.name, d.Seconds())
			continue
		}
		j, err := json.Marshal(value)
		if err != nil {
			j = []byte("null") // not reached: strings and integers always marshal
		}
		fmt.Fprintf(&b, "%q:%s", v.name, j)
	}
	fmt.Fprintf(&b, ",%q:%q}", "curl_version", "ustack-curl/"+r.t.s.env.Version)
	return b.Bytes()
}
