package curl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestUsageErrors(t *testing.T) {
	for _, tt := range []struct {
		args []string
		says string
	}{
		{nil, "curl: no URL specified\n"},
		{[]string{"--foo", "x"}, "curl: option --foo: is unknown\ncurl: try 'curl --help'"},
		{[]string{"-?", "x"}, "curl: option -?: is unknown"},
		{[]string{"x", "-o"}, "curl: option -o: requires parameter"},
		{[]string{"x", "--output"}, "curl: option --output: requires parameter"},
		{[]string{"--silent=1", "x"}, "takes no value"},
		{[]string{"-m", "soon", "x"}, "curl: option -m: expected a proper numerical parameter"},
		{[]string{"-m", "NaN", "x"}, "numerical"},
		{[]string{"-m", "-1", "x"}, "numerical"},
		{[]string{"--max-redirs", "-2", "x"}, "numerical"},
		{[]string{"-I", "-d", "x", "x"}, "only one HTTP request method"},
		{[]string{"-T", "exit_test.go", "-d", "x", "x"}, "only one HTTP request method"},
		{[]string{"-x", "proxy:3128", "x"}, "nothing may go around the stack"},
		{[]string{"--proxy", "proxy:3128", "x"}, "nothing may go around the stack"},
		{[]string{"-H", "no colon", "x"}, `not "Name: value"`},
		{[]string{"-H", "A b: c", "x"}, "not a header name"},
		{[]string{"-H", "A: b\r\nInjected: c", "x"}, "line end"},
		{[]string{"-X", "G T", "x"}, "not a method"},
		{[]string{"-u", "user", "x"}, "USER:PASSWORD"},
		{[]string{"-b", "cookies.txt", "x"}, "cookie files are not supported"},
		{[]string{"-F", "=x", "x"}, "not NAME=CONTENT"},
		{[]string{"-C", "x", "x"}, "offset"},
		{[]string{"-C", "1", "-r", "1-", "x"}, "exclude each other"},
		{[]string{"--resolve", "a:80", "x"}, "HOST:PORT:ADDR"},
		{[]string{"--resolve", "a:80:b", "x"}, "not an IP address"},
		{[]string{"--connect-to", "a:b", "x"}, "HOST:PORT:HOST2:PORT2"},
		{[]string{"--limit-rate", "fast", "x"}, "number of bytes"},
		{[]string{"--tls-max", "4", "x"}, "1.2 or 1.3"},
		{[]string{"http://host:81/", "80"}, "the port is given twice"},
	} {
		run(tt.args...).want(t, exitUsage, "").says(t, tt.says)
	}
}

func TestBadURL(t *testing.T) {
	for _, u := range []string{"http://", "http:///path", "http://a b/", "http://host:port/", "http://host:99999/", "http://[::1/", "", "http://h\x00/"} {
		if o := run("--", u); o.code != exitURL {
			t.Errorf("%q: exit %d, want %d: %s", u, o.code, exitURL, o.stderr)
		}
	}
	run("host", "0").want(t, exitURL, "")
	run("host", "65536").want(t, exitURL, "")
	run("ftp://host/").want(t, exitProtocol, "").says(t, `curl: (1) Protocol "ftp" not supported`)
}

func TestResolve(t *testing.T) {
	run("http://nowhere.test/").want(t, exitResolve, "").says(t, "curl: (6) Could not resolve host: nowhere.test\n")
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) })
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	run("web.test", port).want(t, 0, "web.test:"+port)
	run("-4", "dual.test", port).want(t, 0, "dual.test:"+port)
	run("-6", "web.test", port).want(t, exitResolve, "")
	// Nothing listens at ::1: the second address answers.
	run("-sv", "dual.test", port).want(t, 0, "dual.test:"+port).says(t,
		"*   Trying [::1]:"+port+"...", "*   Trying 127.0.0.1:"+port+"...", "* Connected to dual.test (127.0.0.1) port "+port+" (#0)")
	run("--resolve", "web.test:"+port+":127.0.0.9", "--resolve", "-web.test:"+port, "web.test", port).want(t, 0, "web.test:"+port)
	run("--resolve", "web.test:"+port+":[::1],127.0.0.1", "web.test", port).want(t, 0, "web.test:"+port)
	x := newTool()
	x.env.Dialer = dialFunc(func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.DNSError{Err: "server misbehaving", Name: "x.test"}
	})
	x.run("http://x.test/").want(t, exitResolve, "").says(t, "curl: (6) Could not resolve host: x.test (server misbehaving)\n")
	run("localhost", port).want(t, 0, "localhost:"+port)
	run("--resolve", "pinned.test:"+port+":127.0.0.1", "pinned.test:"+port).want(t, 0, "pinned.test:"+port)
	run("--resolve", "*:"+port+":127.0.0.1", "any.test:"+port).want(t, 0, "any.test:"+port)
	run("--resolve", "other.test:"+port+":127.0.0.1", "pinned.test:"+port).want(t, exitResolve, "")
	run("--connect-to", "::127.0.0.1:"+port, "http://moved.test/").want(t, 0, "moved.test")
	run("--connect-to", "moved.test:80:127.0.0.1:"+port, "http://moved.test/").want(t, 0, "moved.test")
	run("--connect-to", "moved.test:81:127.0.0.1:"+port, "http://moved.test/").want(t, exitResolve, "")
}

func TestConnect(t *testing.T) {
	addr := closedPort(t)
	_, port, _ := net.SplitHostPort(addr)
	o := run("http://"+addr).want(t, exitConnect, "")
	if !strings.HasPrefix(o.stderr, "curl: (7) Failed to connect to 127.0.0.1 port "+port+" after ") ||
		!strings.HasSuffix(o.stderr, " ms: Connection refused\n") {
		t.Fatalf("stderr %q", o.stderr)
	}
	run("-s", "http://"+addr).want(t, exitConnect, "")
	if o := run("-s", "http://"+addr); o.stderr != "" {
		t.Fatalf("-s: %q", o.stderr)
	}
	run("-sS", "http://"+addr).says(t, "curl: (7)")
	// An address family that the flag excludes.
	run("-6", "http://"+addr).want(t, exitResolve, "")
}

func TestNoDaemon(t *testing.T) {
	x := newTool()
	x.env.Dialer = nil
	path := filepath.Join(t.TempDir(), "none.sock")
	x.run("--socket", path, "http://127.0.0.1/").want(t, exitConnect, "").says(t, "curl: (7) ", path)
	x.run("--socket", path, "http://web.test/").want(t, exitConnect, "").says(t, "curl: (7) ", path)
}

func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

func TestBrokenResponses(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
	for name, tt := range map[string]struct {
		serve func(c *net.TCPConn)
		code  int
		says  string
		out   string
	}{
		"empty reply": {func(c *net.TCPConn) { readHead(c) }, exitEmpty, "curl: (52) Empty reply from server", ""},
		"reset first": {func(c *net.TCPConn) { readHead(c); reset(c) }, exitRecv, "curl: (56) Recv failure: Connection reset by peer", ""},
		"head cut": {func(c *net.TCPConn) { readHead(c); io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Le") },
			exitRecv, "curl: (56) ", ""},
		"short body": {func(c *net.TCPConn) { readHead(c); io.WriteString(c, head+"abc") },
			exitPartial, "curl: (18) transfer closed with 7 bytes remaining to read", "abc"},
		"chunks cut": {func(c *net.TCPConn) {
			readHead(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		}, exitPartial, "curl: (18) transfer closed with outstanding read data remaining", "abc"},
		"bad chunk": {func(c *net.TCPConn) {
			readHead(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")
		}, exitRecv, "curl: (56) ", "abc"},
		"not HTTP": {func(c *net.TCPConn) { readHead(c); io.WriteString(c, "220 smtp.example ESMTP\r\n\r\n") },
			exitProtocol, "curl: (1) Received HTTP/0.9 when not allowed", ""},
		"weird":     {func(c *net.TCPConn) { readHead(c); io.WriteString(c, "HTTP/1.1 abc\r\n\r\n") }, exitWeirdReply, "curl: (8) ", ""},
		"until end": {func(c *net.TCPConn) { readHead(c); io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nall") }, 0, "", "all"},
	} {
		t.Run(name, func(t *testing.T) {
			run("http://"+raw(t, tt.serve)).want(t, tt.code, tt.out).says(t, tt.says)
		})
	}
}

// A peer that resets in mid-transfer is never a success, whatever the framing.
func TestResetMidTransfer(t *testing.T) {
	for name, head := range map[string]string{
		"length": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"close":  "HTTP/1.1 200 OK\r\n\r\nabc",
		"chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan struct{})
			addr := raw(t, func(c *net.TCPConn) {
				readHead(c)
				io.WriteString(c, head)
				<-got
				reset(c)
			})
			x := newTool()
			var b strings.Builder
			x.env.Stderr = &b
			x.env.Stdout = writerFunc(func(p []byte) (int, error) { close(got); return len(p), nil })
			code := Main(context.Background(), []string{"http://" + addr}, x.env)
			if code != exitRecv || !strings.Contains(b.String(), "Connection reset by peer") {
				t.Fatalf("exit %d, want %d: %s", code, exitRecv, b.String())
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestSendFailure(t *testing.T) {
	addr := raw(t, func(c *net.TCPConn) { readHead(c); reset(c) })
	big := file(t, "big", strings.Repeat("x", 20<<20))
	o := run("-T", big, "http://"+addr+"/")
	if o.code != exitSend && o.code != exitRecv {
		t.Fatalf("exit %d: %s", o.code, o.stderr)
	}
}

// A server that answers before it has read everything, and closes, is heard.
func TestEarlyAnswer(t *testing.T) {
	addr := raw(t, func(c *net.TCPConn) {
		readHead(c)
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbig!")
		c.CloseWrite()
		io.Copy(io.Discard, io.LimitReader(c, 1<<20))
	})
	big := file(t, "big", strings.Repeat("x", 20<<20))
	run("-w", "%{http_code}", "-T", big, "http://"+addr+"/").want(t, 0, "big!413")
}

// An answer of success that comes before everything was sent is no success.
func TestEarlySuccess(t *testing.T) {
	addr := raw(t, func(c *net.TCPConn) {
		readHead(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
		c.CloseWrite()
		io.Copy(io.Discard, io.LimitReader(c, 1<<20))
	})
	big := file(t, "big", strings.Repeat("x", 20<<20))
	run("-T", big, "http://"+addr+"/").want(t, exitSend, "ok").says(t, "curl: (55) ")
}

func TestHugeHead(t *testing.T) {
	addr := raw(t, func(c *net.TCPConn) {
		readHead(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for range 100 {
			if _, err := io.WriteString(c, "X: "+strings.Repeat("x", 10000)+"\r\n"); err != nil {
				return
			}
		}
	})
	run("http://"+addr).want(t, exitRecv, "").says(t, "curl: (56) Too large response headers")
}

func TestHTTPErrors(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(404)
		io.WriteString(w, "gone")
	})
	run(s.URL).want(t, 0, "gone")
	run("-f", s.URL).want(t, exitHTTP, "").says(t, "curl: (22) The requested URL returned error: 404\n")
	run("--fail-with-body", s.URL).want(t, exitHTTP, "gone").says(t, "curl: (22) ")
	run("-f", "--no-fail", s.URL).want(t, 0, "gone")
	good := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	run("-sf", s.URL, good.URL).want(t, 0, "ok")
	run("-sf", "--fail-early", s.URL, good.URL).want(t, exitHTTP, "")
}

func TestReadAndWriteErrors(t *testing.T) {
	s := echo(t)
	missing := filepath.Join(t.TempDir(), "missing")
	run("-T", missing, s.URL+"/x").want(t, exitRead, "").says(t, "curl: (26) cannot open")
	run("-d", "@"+missing, s.URL).want(t, exitRead, "")
	run("--data-binary", "@"+missing, s.URL).want(t, exitRead, "")
	run("-F", "a=@"+missing, s.URL).want(t, exitRead, "")
	run("-o", filepath.Join(missing, "x"), s.URL).want(t, exitWrite, "").says(t, "curl: (23) ")
	run("-O", s.URL).want(t, exitWrite, "").says(t, "Remote file name has no length")
	run("-D", filepath.Join(missing, "x"), s.URL).want(t, exitWrite, "")
	x := newTool()
	x.env.Stdout = writerFunc(func([]byte) (int, error) { return 0, syscall.ENOSPC })
	x.env.Stderr = io.Discard
	if code := Main(context.Background(), []string{s.URL}, x.env); code != exitWrite {
		t.Fatalf("exit %d, want %d", code, exitWrite)
	}
	x.env.Stdin = readerFunc(func([]byte) (int, error) { return 0, errors.New("broken stdin") })
	o := x.run("-T", "-", s.URL+"/x")
	o.want(t, exitRead, "").says(t, "broken stdin")
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestTimeouts(t *testing.T) {
	stop := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/head":
			<-stop
		case "/body":
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "abc")
			w.(http.Flusher).Flush()
			<-stop
		}
	})
	defer close(stop)
	deadline(t, 30*time.Second, func() {
		run("-m", "0.1", s.URL+"/head").want(t, exitTimeout, "").says(t, "curl: (28) Operation timed out after ", "with 0 bytes received")
		run("-m", "0.1", s.URL+"/body").want(t, exitTimeout, "abc").says(t, "with 3 out of 10 bytes received")
		run("-m", "0.1", "http://slow.test/").want(t, exitTimeout, "").says(t, "curl: (28) Resolving timed out after ")
		run("--connect-timeout", "0.1", "http://slow.test/").want(t, exitTimeout, "").says(t, "Resolving timed out after ")
		// The connection timeout is over when connected.
		run("-m", "0.7", "--connect-timeout", "0.5", s.URL+"/head").want(t, exitTimeout, "").says(t, "Operation timed out after ")
		x := newTool()
		x.env.Dialer = dialFunc(func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		x.run("--connect-timeout", "0.1", "http://192.0.2.1/").want(t, exitTimeout, "").says(t, "Connection timed out after ")
		x.run("-m", "0.1", "http://192.0.2.1/").want(t, exitTimeout, "").says(t, "Connection timed out after ")
		x.env.Dialer = dialFunc(func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ETIMEDOUT })
		x.run("http://192.0.2.1/").want(t, exitTimeout, "").says(t, "Failed to connect to 192.0.2.1 port 80 after ", " ms: Connection timed out")
		// A TLS handshake that is never answered.
		quiet := raw(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
		run("--connect-timeout", "0.1", "https://"+quiet).want(t, exitTimeout, "").says(t, "SSL connection timeout")
		run("-m", "0.1", "https://"+quiet).want(t, exitTimeout, "").says(t, "SSL connection timeout")
		run("-y", "0.2", "-Y", "1000", s.URL+"/body").want(t, exitTimeout, "abc").says(t, "Operation too slow. Less than 1000 bytes/sec")
	})
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

func TestInterrupt(t *testing.T) {
	x := newTool()
	ctx, cancel := context.WithCancel(context.Background())
	x.ctx = ctx
	stop := make(chan struct{})
	defer close(stop)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { cancel(); <-stop })
	deadline(t, 20*time.Second, func() { x.run(s.URL, s.URL).want(t, exitInterrupted, "") })
	for _, args := range [][]string{{"-d", "@-"}, {"-T", "-"}} {
		ctx, cancel := context.WithCancel(context.Background())
		r, w := io.Pipe() // nothing ever comes
		x.ctx = ctx
		x.env.Stdin = readerFunc(func(b []byte) (int, error) { cancel(); return r.Read(b) })
		deadline(t, 20*time.Second, func() { x.run(append(args, s.URL)...).want(t, exitInterrupted, "") })
		w.Close()
	}
}

func TestRetry(t *testing.T) {
	tries := 0
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if tries++; tries < 3 {
			w.WriteHeader(503)
			return
		}
		fmt.Fprint(w, "at last")
	})
	run("--retry", "3", "--retry-delay", "0.01", s.URL).want(t, 0, "at last").says(t, "Warning: Problem: HTTP error 503. Will retry in 10ms. 3 retries left.")
	tries = -5
	run("-sf", "--retry", "1", "--retry-delay", "0.01", s.URL).want(t, exitHTTP, "")
	if tries != -3 {
		t.Fatalf("%d requests, want 2", tries+5)
	}
	// What came from standard input is gone after the first try.
	tries = 0
	x := newTool()
	x.env.Stdin = strings.NewReader("data")
	x.run("-sf", "--retry", "3", "--retry-delay", "0.01", "-T", "-", s.URL+"/x").want(t, exitHTTP, "")
	if tries != 1 {
		t.Fatalf("%d requests with standard input, want 1", tries)
	}
	run("--retry", "1", "--retry-delay", "0.01", "--retry-connrefused", "http://"+closedPort(t)).want(t, exitConnect, "").says(t, "1 retries left")
}

func TestBinaryToTerminal(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("a\x00b")) })
	x := newTool()
	x.env.StdoutTerminal = true
	x.run(s.URL).want(t, exitWrite, "").says(t, "Binary output can mess up your terminal")
	x.run("-o", "-", s.URL).want(t, 0, "a\x00b")
	out := filepath.Join(t.TempDir(), "x")
	x.run("-o", out, s.URL).want(t, 0, "")
	if b, err := os.ReadFile(out); err != nil || string(b) != "a\x00b" {
		t.Fatalf("%q, %v", b, err)
	}
	run(s.URL).want(t, 0, "a\x00b")
}
