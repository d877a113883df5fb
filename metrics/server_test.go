package metrics_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/metrics"
)

// serve offers h on loopback.
func serve(t *testing.T, h http.Handler) *metrics.Server {
	t.Helper()
	s, err := metrics.Listen("127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(h)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// get asks without the decompression that the client does of itself.
func get(t *testing.T, method, url string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(testContext(t), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	tr := &http.Transport{DisableCompression: true}
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestHandler(t *testing.T) {
	a, _ := pair(t, link.PipeConfig{})
	s := serve(t, metrics.NewHandler(metrics.Config{Stack: a, Control: noRequests, Version: "v1.2"}, nil))

	res, text := get(t, "GET", s.URL())
	if res.StatusCode != http.StatusOK || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Errorf("%s %v", res.Status, res.Header)
	}
	for _, want := range []string{
		"# TYPE ustack_tcp_segments_retransmitted_total counter\n", "\nustack_tcp_segments_retransmitted_total 0\n",
		`ustack_build_info{goversion="go`, `version="v1.2"} 1`, "\nprocess_open_fds ", "\ngo_goroutines ",
		`ustack_tcp_connect_duration_seconds_bucket{outcome="refused",le="0.0001"} 0`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%.3000s", want, text)
		}
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	if _, err := parser.TextToMetricFamilies(strings.NewReader(text)); err != nil {
		t.Error(err)
	}

	res, open := get(t, "GET", s.URL(), "Accept", "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "application/openmetrics-text; version=1.0.0") || !strings.HasSuffix(open, "\n# EOF\n") {
		t.Errorf("OpenMetrics: %v, ends with %q", res.Header, open[max(0, len(open)-40):])
	}

	res, packed := get(t, "GET", s.URL(), "Accept-Encoding", "gzip")
	z, err := gzip.NewReader(strings.NewReader(packed))
	if err != nil || res.Header.Get("Content-Encoding") != "gzip" || len(packed) > len(text)/2 {
		t.Fatalf("gzip: %v, %v, %d bytes", err, res.Header, len(packed))
	}
	if b, err := io.ReadAll(z); err != nil || !bytes.Contains(b, []byte("ustack_link_up")) {
		t.Errorf("unpacked: %v", err)
	}
}

func TestServerHasOnePath(t *testing.T) {
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metrics") }))
	root := strings.TrimSuffix(s.URL(), metrics.Path)
	for _, tc := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/metrics", 200}, {"HEAD", "/metrics", 200}, {"POST", "/metrics", 405}, {"DELETE", "/metrics", 405},
		{"GET", "/", 404}, {"GET", "/metrics/", 404}, {"GET", "/v1/status", 404}, {"GET", "/debug/pprof/", 404},
	} {
		if res, body := get(t, tc.method, root+tc.path); res.StatusCode != tc.status {
			t.Errorf("%s %s: %s %q, want %d", tc.method, tc.path, res.Status, body, tc.status)
		}
	}
	// The answer to a long head may be lost, since the server does not read all of it.
	c, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), metrics.Path))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 64<<10)+"\r\n\r\n")
	if b, _ := io.ReadAll(c); len(b) > 0 && !bytes.HasPrefix(b, []byte("HTTP/1.1 431 ")) {
		t.Errorf("a long head: %.200q", b)
	}
}

func TestPortInUse(t *testing.T) {
	s := serve(t, http.NotFoundHandler())
	address := strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), metrics.Path)
	if _, err := metrics.Listen(address, nil); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(fmt.Sprint(err), address) {
		t.Errorf("%v", err)
	}
}

// A client that reads nothing holds up the end for a second, and one that asks nothing
// not at all; a Server that never served ends, too.
func TestServerClose(t *testing.T) {
	started := make(chan struct{})
	s, err := metrics.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(started)
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}))
	address := strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), metrics.Path)
	for _, request := range []string{"", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
	}
	<-started
	begin := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the end took %v", took)
	}
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("it still listens")
	}
	idle, err := metrics.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := idle.Close(); err != nil {
		t.Error(err)
	}
}

// Who connects before Serve is answered then.
func TestClientsWaitForServe(t *testing.T) {
	s, err := metrics.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), metrics.Path))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	s.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, " 200 ") {
		t.Errorf("%q, %v", line, err)
	}
}
