package curl

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A loopback dials kernel sockets, and resolves the names it holds.
type loopback struct {
	net.Dialer
	names map[string][]string
}

func (l *loopback) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	list, ok := l.names[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if list == nil { // a server that never answers
		<-ctx.Done()
		return nil, ctx.Err()
	}
	var out []netip.Addr
	for _, a := range list {
		ip := netip.MustParseAddr(a)
		if network == "ip" || (network == "ip4") == ip.Is4() {
			out = append(out, ip)
		}
	}
	if len(out) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return out, nil
}

type outcome struct {
	code        int
	out, stderr string
}

// tool runs curl in the test's process.
type tool struct {
	env Env
	ctx context.Context
}

func newTool() *tool {
	return &tool{
		ctx: context.Background(),
		env: Env{Version: "test", Dialer: &loopback{names: map[string][]string{
			"web.test":  {"127.0.0.1"},
			"dual.test": {"::1", "127.0.0.1"},
			"slow.test": nil,
		}}},
	}
}

func (x *tool) run(args ...string) outcome {
	var out, stderr bytes.Buffer
	env := x.env
	env.Stdout, env.Stderr = &out, &stderr
	code := Main(x.ctx, args, env)
	return outcome{code, out.String(), stderr.String()}
}

func run(args ...string) outcome { return newTool().run(args...) }

func (o outcome) want(t *testing.T, code int, out string) outcome {
	t.Helper()
	if o.code != code || o.out != out {
		t.Fatalf("exit %d, output %.300q, want %d and %.300q\nstderr: %.1000s", o.code, o.out, code, out, o.stderr)
	}
	return o
}

func (o outcome) says(t *testing.T, parts ...string) outcome {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(o.stderr, p) {
			t.Fatalf("stderr lacks %q:\n%s", p, o.stderr)
		}
	}
	return o
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// raw serves connections with f; f's connection is closed after it.
func raw(t *testing.T, f func(c *net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f(c.(*net.TCPConn))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// head reads a request's head.
func readHead(c net.Conn) string {
	var b []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(b, []byte("\r\n\r\n")) {
		if _, err := c.Read(one); err != nil {
			break
		}
		b = append(b, one[0])
	}
	return string(b)
}

// answer serves one raw response to every request.
func answer(t *testing.T, response string) string {
	return raw(t, func(c *net.TCPConn) {
		readHead(c)
		io.WriteString(c, response)
	})
}

// echo answers with the request as it came, head and body.
func echo(t *testing.T) *httptest.Server {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		r.Write(w)
	})
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func deadline(t *testing.T, limit time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if d := time.Since(start); d > limit {
		t.Fatalf("took %v, want at most %v", d, limit)
	}
}
