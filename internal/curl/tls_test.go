package curl

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// secure starts an HTTPS server and returns it with its authority's PEM file.
func secure(t *testing.T, h2 bool, h http.HandlerFunc) (s *httptest.Server, ca string) {
	t.Helper()
	s = httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = h2
	s.Config.ErrorLog = quietLog()
	s.StartTLS()
	t.Cleanup(s.Close)
	block := &pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}
	return s, file(t, "ca.pem", string(pem.EncodeToMemory(block)))
}

func proto(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", r.Proto, r.Host) }

func TestTLS(t *testing.T) {
	s, ca := secure(t, true, proto)
	host := strings.TrimPrefix(s.URL, "https://")
	run("--cacert", ca, s.URL).want(t, 0, "HTTP/2.0 "+host)
	run("-k", s.URL).want(t, 0, "HTTP/2.0 "+host)
	run("-k", "--http1.1", s.URL).want(t, 0, "HTTP/1.1 "+host)
	run("-k", "--http2", s.URL).want(t, 0, "HTTP/2.0 "+host)
	run("-k", "--tlsv1.3", s.URL).want(t, 0, "HTTP/2.0 "+host)
	run(s.URL).want(t, exitCertificate, "").says(t, "curl: (60) SSL certificate problem: unable to get local issuer certificate")
	_, port := hostOf(s.URL)
	run("--cacert", ca, "https://web.test:"+port).want(t, exitCertificate, "").says(t, "curl: (60) SSL: no alternative certificate subject name matches target host name 'web.test'")
	// The certificate is for example.com too.
	run("--cacert", ca, "--resolve", "example.com:"+port+":127.0.0.1", "https://example.com:"+port).want(t, 0, "HTTP/2.0 example.com:"+port)
	run("--cacert", filepath.Join(t.TempDir(), "none"), s.URL).want(t, exitCAFile, "")
	run("--cacert", file(t, "empty", ""), s.URL).want(t, exitCAFile, "")
	run("--cert", ca, s.URL).want(t, exitClientCert, "")

	h1, ca := secure(t, false, proto)
	run("--cacert", ca, h1.URL).want(t, 0, "HTTP/1.1 "+strings.TrimPrefix(h1.URL, "https://"))
	run("-k", "--http2-prior-knowledge", h1.URL).fails(t, exitHTTP2, exitTLS)
}

func TestClientCertificate(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.PeerCertificates[0].Subject)
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	s.Config.ErrorLog = quietLog()
	s.StartTLS()
	t.Cleanup(s.Close)
	der, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	run("-k", "--cert", file(t, "c", cert), "--key", file(t, "k", key), s.URL).want(t, 0, "O=Acme Co")
	run("-k", "-E", file(t, "both", cert+key), s.URL).want(t, 0, "O=Acme Co")
	// TLS 1.3 servers refuse after the client's handshake is done.
	run("-k", s.URL).fails(t, exitTLS, exitRecv)
}

func (o outcome) fails(t *testing.T, codes ...int) {
	t.Helper()
	for _, c := range codes {
		if o.code == c {
			return
		}
	}
	t.Fatalf("exit %d, want one of %d: %s", o.code, codes, o.stderr)
}

func TestHandshakeFails(t *testing.T) {
	plain := serve(t, proto)
	run("-k", strings.Replace(plain.URL, "http", "https", 1)).want(t, exitTLS, "").says(t, "curl: (35) ")
	for name, f := range map[string]func(c *net.TCPConn){
		"reset":  func(c *net.TCPConn) { io.ReadFull(c, make([]byte, 5)); reset(c) },
		"closed": func(c *net.TCPConn) { io.ReadFull(c, make([]byte, 5)) },
		"junk":   func(c *net.TCPConn) { io.WriteString(c, "220 hello, this is not TLS\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			run("-k", "https://"+raw(t, f)).want(t, exitTLS, "").says(t, "curl: (35) ")
		})
	}
	s, _ := secure(t, false, proto)
	s.TLS.MinVersion = tls.VersionTLS13
	run("-k", "--tls-max", "1.2", s.URL).want(t, exitTLS, "")
}

func TestTLSVerboseAndHeads(t *testing.T) {
	s, _ := secure(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Two", "2")
		w.Header().Set("Date", "now")
		io.WriteString(w, "ok")
	})
	run("-ki", s.URL).want(t, 0, "HTTP/2 200 \r\ncontent-length: 2\r\ncontent-type: text/plain; charset=utf-8\r\ndate: now\r\nx-two: 2\r\n\r\nok")
	run("-kv", s.URL+"/p").want(t, 0, "ok").says(t, "* ALPN: offers h2,http/1.1\n", "* SSL connection using TLSv1.3 / TLS_", "* ALPN: server accepted h2\n",
		"> GET /p HTTP/2\n> Host: "+strings.TrimPrefix(s.URL, "https://")+"\n", "< HTTP/2 200 \n")
	run("-kv", "--http1.1", s.URL+"/p").want(t, 0, "ok").says(t, "> GET /p HTTP/1.1\n", "< HTTP/1.1 200 OK\n", "< X-Two: 2\n")
	o := run("-k", s.URL, s.URL, "-w", "%{http_version} %{num_connects} ").code0(t)
	if o.out != "ok2 1 ok2 0 " {
		t.Fatalf("two URLs over HTTP/2: %q", o.out)
	}
}

func TestHTTP2Failures(t *testing.T) {
	s, _ := secure(t, true, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/short" {
			w.Header().Set("Content-Length", "10")
		}
		io.WriteString(w, "abc")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	run("-k", s.URL).want(t, exitHTTP2Stream, "abc").says(t, "curl: (92) HTTP/2 stream ")
	run("-k", s.URL+"/short").want(t, exitHTTP2Stream, "abc")
}

func TestTLSBodyEndings(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(c *tls.Conn)
		code int
	}{
		"close_notify": {func(c *tls.Conn) { c.Close() }, 0},
		"cut":          {func(c *tls.Conn) { c.NetConn().Close() }, exitRecv},
		"reset":        {func(c *tls.Conn) { reset(c.NetConn().(*net.TCPConn)) }, exitRecv},
	} {
		t.Run(name, func(t *testing.T) {
			pair := httptest.NewUnstartedServer(nil)
			pair.StartTLS()
			cfg := pair.TLS.Clone()
			cfg.NextProtos = nil
			pair.Close()
			wrote := make(chan struct{})
			addr := raw(t, func(c *net.TCPConn) {
				tc := tls.Server(c, cfg)
				readHead(tc)
				io.WriteString(tc, "HTTP/1.1 200 OK\r\n\r\nabc")
				<-wrote
				tt.end(tc)
			})
			x := newTool()
			x.env.Stdout = writerFunc(func(b []byte) (int, error) { close(wrote); return len(b), nil })
			if code := Main(t.Context(), []string{"-k", "https://" + addr}, x.env); code != tt.code {
				t.Fatalf("exit %d, want %d", code, tt.code)
			}
		})
	}
}

func TestUnencryptedHTTP2(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(proto))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	run("--http2-prior-knowledge", s.URL).want(t, 0, "HTTP/2.0 "+strings.TrimPrefix(s.URL, "http://"))
}

func TestTLSTimes(t *testing.T) {
	s, _ := secure(t, true, proto)
	o := run("-ko", "/dev/null", "-w", "%{time_namelookup} %{time_connect} %{time_appconnect} %{time_pretransfer} %{time_starttransfer} %{time_total}", s.URL).code0(t)
	last := time.Duration(0)
	for _, f := range strings.Fields(o.out) {
		d, err := time.ParseDuration(f + "s")
		if err != nil || d < last || d == 0 && last > 0 {
			t.Fatalf("times do not grow: %s", o.out)
		}
		last = d
	}
}
