package curl

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func hostOf(url string) (host, port string) {
	host, port, _ = net.SplitHostPort(strings.TrimPrefix(strings.TrimPrefix(url, "http://"), "https://"))
	return host, port
}

// seen runs against an echoing server and returns the request as it arrived.
func seen(t *testing.T, path string, args ...string) string {
	t.Helper()
	s := echo(t)
	o := run(append(args, s.URL+path)...)
	if o.code != 0 {
		t.Fatalf("exit %d: %s", o.code, o.stderr)
	}
	host := strings.TrimPrefix(s.URL, "http://")
	return strings.ReplaceAll(strings.ReplaceAll(o.out, host, "HOST"), "\r\n", "\n")
}

func TestRequests(t *testing.T) {
	in := file(t, "in.txt", "one\r\ntwo\x00\n")
	plain := "Host: HOST\nUser-Agent: ustack-curl/test\n"
	for name, tt := range map[string]struct {
		path string
		args []string
		want string
	}{
		"plain":  {"/a?b=c#d", nil, "GET /a?b=c HTTP/1.1\n" + plain + "Accept: */*\n\n"},
		"dots":   {"/a/../b/./c", nil, "GET /b/c HTTP/1.1\n"},
		"as is":  {"/a/../b", []string{"--path-as-is"}, "GET /a/../b HTTP/1.1\n"},
		"escape": {"/a%2Fb%zz", nil, "GET /a%2Fb%25zz HTTP/1.1\n"},
		"post": {"/", []string{"-d", "a=b", "-d", "c"}, "POST / HTTP/1.1\n" + plain + "Content-Length: 5\nAccept: */*\n" +
			"Content-Type: application/x-www-form-urlencoded\n\na=b&c"},
		"post file":     {"/", []string{"-d", "@" + in}, "\n\nonetwo"},
		"post binary":   {"/", []string{"--data-binary", "@" + in, "--data-raw", "@x"}, "\n\none\ntwo\x00\n&@x"},
		"post empty":    {"/", []string{"-d", ""}, "Content-Length: 0\n"},
		"urlencode":     {"/", []string{"--data-urlencode", "a=b c&d", "--data-urlencode", "=x y", "--data-urlencode", "é"}, "\n\na=b%20c%26d&x%20y&%C3%A9"},
		"encode file":   {"/", []string{"--data-urlencode", "a@" + file(t, "e", "b c"), "--data-urlencode", "@" + file(t, "e", "&")}, "\n\na=b%20c&%26"},
		"json":          {"/", []string{"--json", `{"a":`, "--json", "1}"}, "Accept: application/json\nContent-Type: application/json\n\n{\"a\":1}"},
		"get":           {"/?q=1", []string{"-G", "-d", "a=b", "--data-urlencode", "c=d e"}, "GET /?q=1&a=b&c=d%20e HTTP/1.1\n"},
		"method":        {"/", []string{"-X", "DELETE"}, "DELETE / HTTP/1.1\n"},
		"long value":    {"/", []string{"--request=DELETE"}, "DELETE / HTTP/1.1\n"},
		"header":        {"/", []string{"-H", "X-One: 1", "-H", "X-One: 2"}, "X-One: 1\nX-One: 2\n"},
		"header gone":   {"/", []string{"-H", "Accept:"}, "GET / HTTP/1.1\n" + plain + "\n"},
		"header empty":  {"/", []string{"-H", "X-Empty;"}, "X-Empty: \n"},
		"header type":   {"/", []string{"-d", "x", "-H", "content-type: text/plain"}, "Content-Type: text/plain\n\nx"},
		"header file":   {"/", []string{"-H", "@" + file(t, "h", "X-A: 1\r\nX-B: 2\n")}, "X-A: 1\nX-B: 2\n"},
		"header host":   {"/", []string{"-H", "Host: other"}, "Host: other\n"},
		"agent":         {"/", []string{"-A", "me/1"}, "User-Agent: me/1\n"},
		"agent gone":    {"/", []string{"-A", "", "-H", "Accept:"}, "GET / HTTP/1.1\nHost: HOST\n"},
		"referer":       {"/", []string{"-e", "http://from/"}, "Referer: http://from/\n"},
		"user":          {"/", []string{"-u", "Aladdin:open sesame"}, "Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\n"},
		"bearer":        {"/", []string{"--oauth2-bearer", "tok"}, "Authorization: Bearer tok\n"},
		"cookies":       {"/", []string{"-b", "a=1", "-b", "b=2"}, "Cookie: a=1; b=2\n"},
		"range":         {"/", []string{"-r", "0-4"}, "Range: bytes=0-4\n"},
		"compressed":    {"/", []string{"--compressed"}, "Accept-Encoding: deflate, gzip\n"},
		"no effect":     {"/", []string{"-Nq", "-g", "--basic", "-1", "--no-buffer"}, "GET / HTTP/1.1\n"},
		"-- ends flags": {"/", []string{"-X", "PUT", "--"}, "PUT / HTTP/1.1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := seen(t, tt.path, tt.args...); !strings.Contains(got, tt.want) {
				t.Fatalf("the request lacks\n%q:\n%q", tt.want, got)
			}
		})
	}
	if got := seen(t, "/"); strings.Contains(got, "Accept-Encoding") {
		t.Fatalf("Accept-Encoding without --compressed: %q", got)
	}
}

// The bytes on the wire: an echoing net/http server would tidy them up.
func TestWireBytes(t *testing.T) {
	addr := raw(t, func(c *net.TCPConn) {
		h := readHead(c)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(h), h)
	})
	run("-A", "", "-H", "Accept:", "-H", "x-lower: 1", "http://u:p@"+addr+"/p").want(t, 0,
		"GET /p HTTP/1.1\r\nHost: "+addr+"\r\nAuthorization: Basic dTpw\r\nx-lower: 1\r\n\r\n")
}

func TestHostPort(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) })
	_, port := hostOf(s.URL)
	run("127.0.0.1", port).want(t, 0, "/")
	run("-s", "127.0.0.1/x?y", port, "-S").want(t, 0, "/x?y")
	run("http://127.0.0.1/z", port).want(t, 0, "/z")
	run("127.0.0.1:"+port+"/q").want(t, 0, "/q")
	out := filepath.Join(t.TempDir(), "o")
	run("127.0.0.1", port, "-o", out).want(t, 0, "")
	if got := content(t, out); got != "/" {
		t.Fatalf("-o has %q", got)
	}
}

func TestIncludeAndHead(t *testing.T) {
	const response = "HTTP/1.1 200 Fine\r\nzebra: 1\r\nX-ODD-Case:  two \r\nContent-Length: 3\r\n\r\n"
	addr := answer(t, response+"abc")
	run("-i", "http://"+addr).want(t, 0, response+"abc")
	run("-I", "http://"+answer(t, response)).want(t, 0, response)
	dump := filepath.Join(t.TempDir(), "dump")
	run("-D", dump, "http://"+addr, "http://"+addr).want(t, 0, "abcabc")
	if got := content(t, dump); got != response+response {
		t.Fatalf("-D wrote %q", got)
	}
	interim := answer(t, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"+response+"abc")
	run("-i", "http://"+interim).want(t, 0, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"+response+"abc")
}

func TestVerbose(t *testing.T) {
	addr := answer(t, "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 3\r\n\r\nabc")
	host, port := hostOf(addr)
	run("-v", "http://"+addr+"/p").want(t, 0, "abc").says(t,
		"*   Trying "+addr+"...\n* Connected to "+host+" ("+host+") port "+port+" (#0)\n"+
			"> GET /p HTTP/1.1\n> Host: "+addr+"\n> User-Agent: ustack-curl/test\n> Accept: */*\n> \n"+
			"< HTTP/1.1 200 OK\n< Server: x\n< Content-Length: 3\n< \n",
		"* Connection #0 to host "+host+" left intact")
	closed := closedPort(t)
	_, port = hostOf(closed)
	run("-v", "http://"+closed).says(t, "* connect to 127.0.0.1 port "+port+" failed: Connection refused")
}

// Several URLs to one host share a connection.
func TestSeveralURLs(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path[1:]+" "+r.RemoteAddr+"\n") })
	o := run("-v", s.URL+"/a", "--url", s.URL+"/b", s.URL+"/c")
	lines := strings.Fields(o.out)
	if o.code != 0 || len(lines) != 6 || lines[1] != lines[3] || lines[3] != lines[5] {
		t.Fatalf("exit %d, not one connection:\n%s", o.code, o.out)
	}
	o.says(t, "* Re-using existing connection! (#0) with host 127.0.0.1")

	dir := t.TempDir()
	t.Chdir(dir)
	run("-o", "first", s.URL+"/a", "-O", s.URL+"/deep/second?x=y", s.URL+"/third").code0(t)
	if got := content(t, "first"); !strings.HasPrefix(got, "a ") {
		t.Fatalf("first: %q", got)
	}
	if got := content(t, "second"); !strings.HasPrefix(got, "deep/second ") {
		t.Fatalf("second: %q", got)
	}
	run("--create-dirs", "--output-dir", "x/y", "-O", s.URL+"/z").code0(t)
	if got := content(t, "x/y/z"); !strings.HasPrefix(got, "z ") {
		t.Fatalf("x/y/z: %q", got)
	}
	run("-o", "a", "-o", "b", s.URL).code0(t).says(t, "Got more output options than URLs")
	run("-sSLo", "combined", s.URL+"/k").code0(t)
	if got := content(t, "combined"); !strings.HasPrefix(got, "k ") {
		t.Fatalf("combined: %q", got)
	}
}

func (o outcome) code0(t *testing.T) outcome {
	t.Helper()
	if o.code != 0 {
		t.Fatalf("exit %d: %s", o.code, o.stderr)
	}
	return o
}

func TestFiles(t *testing.T) {
	modified := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/short":
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "abc")
		case "/norange":
			io.WriteString(w, "0123456789")
		default:
			http.ServeContent(w, r, "x.txt", modified, strings.NewReader("0123456789"))
		}
	})
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	run("-R", "-o", p, s.URL).code0(t)
	if fi, err := os.Stat(p); err != nil || !fi.ModTime().Equal(modified) {
		t.Fatalf("-R: %v, %v", fi, err)
	}
	os.WriteFile(p, []byte("0123"), 0o600)
	run("-C", "-", "-o", p, s.URL).code0(t)
	if got := content(t, p); got != "0123456789" {
		t.Fatalf("-C -: %q", got)
	}
	run("-C", "-", "-o", p, s.URL).code0(t) // nothing left: 416
	if got := content(t, p); got != "0123456789" {
		t.Fatalf("-C - of a whole file: %q", got)
	}
	run("-C", "7", s.URL).want(t, 0, "789")
	run("-C", "3", s.URL+"/norange").want(t, exitRange, "")
	run("-r", "2-4", s.URL).want(t, 0, "234")
	run("-o", p, s.URL+"/short").want(t, exitPartial, "")
	if got := content(t, p); got != "abc" {
		t.Fatalf("kept %q", got)
	}
	run("--remove-on-error", "-o", p, s.URL+"/short").want(t, exitPartial, "")
	if _, err := os.Stat(p); !os.IsNotExist(err) {
		t.Fatalf("--remove-on-error: %v", err)
	}
}

func TestRedirects(t *testing.T) {
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "other auth=%q cookie=%q", r.Header.Get("Authorization"), r.Header.Get("Cookie"))
	})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var status int
		switch _, err := fmt.Sscanf(r.URL.Path, "/%d", &status); {
		case err == nil:
			w.Header().Set("Location", "/end")
			w.WriteHeader(status)
			io.WriteString(w, "moved")
		case r.URL.Path == "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case r.URL.Path == "/other":
			http.Redirect(w, r, other.URL, http.StatusFound)
		case r.URL.Path == "/ftp":
			http.Redirect(w, r, "ftp://x/", http.StatusFound)
		default:
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s %s auth=%q ref=%q", r.Method, r.URL.Path, b, r.Header.Get("Authorization"), r.Header.Get("Referer"))
		}
	})
	run(s.URL+"/302").want(t, 0, "moved")
	run("-w", " %{redirect_url}", s.URL+"/302").want(t, 0, "moved "+s.URL+"/end")
	for _, tt := range []struct {
		status string
		args   []string
		want   string
	}{
		{"302", nil, `GET /end  auth="" ref=""`},
		{"301", []string{"-d", "x"}, `GET /end  auth="" ref=""`},
		{"302", []string{"-d", "x"}, `GET /end  auth="" ref=""`},
		{"303", []string{"-d", "x"}, `GET /end  auth="" ref=""`},
		{"307", []string{"-d", "x"}, `POST /end x auth="" ref=""`},
		{"308", []string{"-d", "x"}, `POST /end x auth="" ref=""`},
		{"302", []string{"--post302", "-d", "x"}, `POST /end x auth="" ref=""`},
		{"302", []string{"-X", "POST", "-d", "x"}, `POST /end  auth="" ref=""`},
		{"302", []string{"-T", "flags_test.go", "-o", os.DevNull}, ""},
		{"302", []string{"-u", "a:b"}, `GET /end  auth="Basic YTpi" ref=""`},
		{"302", []string{"-e", ";auto"}, `GET /end  auth="" ref="` + s.URL + `/302"`},
	} {
		run(append(append([]string{"-sSL"}, tt.args...), s.URL+"/"+tt.status)...).want(t, 0, tt.want)
	}
	run("-L", "-o", os.DevNull, "-w", "%{num_redirects} %{url_effective} %{num_connects}", s.URL+"/302").want(t, 0, "1 "+s.URL+"/end 1")
	secrets := []string{"-H", "Authorization: s3", "-b", "c=d"}
	run(append(secrets, "-L", s.URL+"/other")...).want(t, 0, `other auth="" cookie=""`)
	run("-L", "-u", "a:b", s.URL+"/other").want(t, 0, `other auth="" cookie=""`)
	run(append(secrets, "--location-trusted", s.URL+"/other")...).want(t, 0, `other auth="s3" cookie="c=d"`)
	run("-L", s.URL+"/loop").want(t, exitRedirects, "").says(t, "curl: (47) Maximum (50) redirects followed")
	run("-L", "--max-redirs", "0", s.URL+"/302").want(t, exitRedirects, "")
	run("-L", s.URL+"/ftp").want(t, exitProtocol, "")
	x := newTool()
	x.env.Stdin = strings.NewReader("stream")
	x.run("-L", "-T", "-", s.URL+"/307").want(t, exitRewind, "")
	if o := run("-iL", s.URL+"/302"); strings.Count(o.out, "HTTP/1.1 ") != 2 {
		t.Fatalf("-iL shows not both heads: %q", o.out)
	}
}

func TestCompressed(t *testing.T) {
	text := strings.Repeat("compress me ", 10000)
	pack := func(f func(io.Writer) io.WriteCloser) []byte {
		var b bytes.Buffer
		w := f(&b)
		io.WriteString(w, text)
		w.Close()
		return b.Bytes()
	}
	bodies := map[string][]byte{
		"gzip": pack(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }),
		"zlib": pack(func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }),
		"raw":  pack(func(w io.Writer) io.WriteCloser { f, _ := flate.NewWriter(w, 6); return f }),
	}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Path[1:]
		enc := map[string]string{"gzip": "gzip", "zlib": "deflate", "raw": "deflate", "cut": "gzip", "junk": "gzip", "br": "br", "empty": "gzip"}[name]
		w.Header().Set("Content-Encoding", enc)
		switch name {
		case "cut":
			w.Write(bodies["gzip"][:50])
		case "junk":
			io.WriteString(w, "junk, not gzip at all")
		case "empty":
		default:
			w.Write(bodies[name])
		}
	})
	for name, body := range bodies {
		run("--compressed", s.URL+"/"+name).want(t, 0, text)
		run("--compressed", "-o", os.DevNull, "-w", "%{size_download}", s.URL+"/"+name).want(t, 0, fmt.Sprint(len(body)))
	}
	run(s.URL+"/gzip").want(t, 0, string(bodies["gzip"]))
	run("--compressed", s.URL+"/empty").want(t, 0, "")
	run("--compressed", s.URL+"/junk").want(t, exitEncoding, "")
	run("--compressed", s.URL+"/br").want(t, exitEncoding, "")
	if o := run("--compressed", s.URL+"/cut"); o.code != exitEncoding {
		t.Fatalf("a cut gzip: exit %d", o.code)
	}
}

func TestLimitRate(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 30000)) })
	start := time.Now()
	run("--limit-rate", "100k", "-o", os.DevNull, s.URL).code0(t)
	if d := time.Since(start); d < 250*time.Millisecond {
		t.Fatalf("30000 bytes at 100 KiB/s took %v", d)
	}
}

// What has arrived is written at once.
func TestStreaming(t *testing.T) {
	step := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			fmt.Fprint(w, i)
			w.(http.Flusher).Flush()
			<-step
		}
	})
	x := newTool()
	var got string
	x.env.Stdout = writerFunc(func(b []byte) (int, error) {
		got += string(b)
		step <- struct{}{}
		return len(b), nil
	})
	if code := Main(t.Context(), []string{s.URL}, x.env); code != 0 || got != "012" {
		t.Fatalf("exit %d, got %q", code, got)
	}
}

// No proxy of the environment is used: this one would refuse.
func TestProxyVariablesAreIgnored(t *testing.T) {
	t.Setenv("http_proxy", "http://"+closedPort(t))
	t.Setenv("ALL_PROXY", "http://"+closedPort(t))
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "direct") })
	_, port := hostOf(s.URL)
	run("web.test", port).want(t, 0, "direct")
}

func TestHelpAndVersion(t *testing.T) {
	o := run("--help").code0(t)
	for _, opt := range options() {
		if opt.help != "" && !strings.Contains(o.out, "--"+opt.long) {
			t.Errorf("help lacks --%s", opt.long)
		}
	}
	for line := range strings.Lines(o.out) {
		if n := len([]rune(line)); n > 110 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if o := run("-V").code0(t); !strings.HasPrefix(o.out, "curl (ustack) test ") {
		t.Fatalf("-V: %q", o.out)
	}
	run("-h").want(t, 0, o.out)
}
