package control_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

// unixHTTP returns an HTTP client that takes every URL for the control socket's.
func unixHTTP(t *testing.T, c *control.Client) *http.Client {
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", c.Path)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// ask sends a request and returns the answer with its body read.
func ask(t *testing.T, h *http.Client, method, path string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(testContext(t), method, "http://ustack"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := h.Do(req)
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

func TestMetricsAreTheHandlers(t *testing.T) {
	const long = 1 << 20
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("busy") != "" {
			http.Error(w, "too many", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		w.Header().Set("Transfer-Encoding", "chunked") // what a handler may not decide
		w.Header().Set("Connection", "close")
		w.Header().Set("X-Split", "a\r\nX-Injected: b")
		io.WriteString(w, r.Header.Get("Accept")+"\n")
		io.WriteString(w, strings.Repeat("x", long))
	})
	_, c := startServerConfig(t, control.ServerConfig{Backend: &controltest.Backend{}, Metrics: handler})
	h := unixHTTP(t, c)
	for range 2 { // the connection goes on
		res, body := ask(t, h, "GET", "/metrics", "Accept", "application/openmetrics-text")
		if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/plain; version=0.0.4" || res.Header.Get("X-Injected") != "" {
			t.Errorf("%s %v", res.Status, res.Header)
		}
		if want := "application/openmetrics-text\n"; !strings.HasPrefix(body, want) || len(body) != len(want)+long || res.ContentLength != int64(len(body)) || res.Close {
			t.Errorf("%d bytes, said to be %d, close %v: %.40q", len(body), res.ContentLength, res.Close, body)
		}
	}
	if res, body := ask(t, h, "GET", "/metrics?busy=1"); res.StatusCode != http.StatusServiceUnavailable || body != "too many\n" {
		t.Errorf("%s %q", res.Status, body)
	}
	if res, body := ask(t, h, "POST", "/metrics"); res.StatusCode != http.StatusMethodNotAllowed || !strings.Contains(body, "/metrics takes GET") {
		t.Errorf("POST: %s %q", res.Status, body)
	}
}

func TestNoMetrics(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	h := unixHTTP(t, c)
	for _, method := range []string{"GET", "POST"} {
		if res, body := ask(t, h, method, "/metrics"); res.StatusCode != http.StatusNotFound || !strings.Contains(body, "ENOENT") {
			t.Errorf("%s: %s %q", method, res.Status, body)
		}
	}
}

// Every request that protocol.md knows is counted under its own name.
func TestCountsKnowTheProtocol(t *testing.T) {
	text, err := os.ReadFile("protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"http CONNECT": true, "http other": true, "flow other": true}
	for _, m := range regexp.MustCompile("(?:`|GET |POST )(/metrics|/v1/[a-z]+)").FindAllStringSubmatch(string(text), -1) {
		want["http "+m[1]] = true
	}
	_, table, _ := strings.Cut(string(text), "| op | takes |")
	table, _, _ = strings.Cut(table, "\n\n")
	for line := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		for _, m := range regexp.MustCompile("`([a-z]+)`").FindAllStringSubmatch(cell, -1) {
			want["flow "+m[1]] = true
		}
	}
	if len(want) < 30 {
		t.Fatalf("only %v were found in protocol.md", want)
	}
	got := make(map[string]bool)
	for _, r := range control.NewServer(control.ServerConfig{}).Counts().Requests {
		got[r.Kind+" "+r.Request] = true
	}
	for name := range want {
		if !got[name] {
			t.Errorf("%s is not counted: add it in counts.go", name)
		}
	}
	for name := range got {
		if !want[name] {
			t.Errorf("%s is counted and not in protocol.md", name)
		}
	}
}

func TestCounts(t *testing.T) {
	s, c := startServer(t, &controltest.Backend{})
	of := func(kind, request string) (ok, failed uint64) {
		for _, r := range s.Counts().Requests {
			if r.Kind == kind && r.Request == request {
				return r.OK, r.Failed
			}
		}
		t.Fatalf("no request %s %s", kind, request)
		return 0, 0
	}
	all := len(s.Counts().Requests)
	h := unixHTTP(t, c)
	ask(t, h, "GET", "/v1/status")
	ask(t, h, "GET", "/v1/status")
	ask(t, h, "PUT", "/v1/status")
	ask(t, h, "GET", "/v1/made-up-by-a-client")
	ask(t, h, "GET", "/v1/and-another")
	peer := kernelPeer(t, "tcp", echo)
	conn := dialStream(t, c, peer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	if _, err := c.DialContext(testContext(t), "tcp", nobody); err == nil {
		t.Fatal("a dial to nobody worked")
	}
	for _, want := range []struct {
		kind, request string
		ok, failed    uint64
	}{
		{"http", "/v1/status", 2, 1},
		{"http", "other", 0, 2},
		{"http", "/v1/flows", 1, 0},
		{"http", "/v1/links", 0, 0},
		{"flow", "dial", 1, 1},
		{"flow", "other", 0, 0},
	} {
		if ok, failed := of(want.kind, want.request); ok != want.ok || failed != want.failed {
			t.Errorf("%s %s: %d, %d failed; want %d, %d", want.kind, want.request, ok, failed, want.ok, want.failed)
		}
	}
	counts := s.Counts()
	if counts.Flows != 1 || counts.Clients < 2 || counts.Accepted < uint64(counts.Clients) {
		t.Errorf("%d flows, %d clients of %d", counts.Flows, counts.Clients, counts.Accepted)
	}
	conn.Close()
	if !eventually(10*time.Second, func() bool { return s.Counts().Flows == 0 }) {
		t.Errorf("%d flows are left", s.Counts().Flows)
	}
	c.Close()
	h.CloseIdleConnections()
	if !eventually(10*time.Second, func() bool { return s.Counts().Clients == 0 }) {
		t.Errorf("%d clients are left", s.Counts().Clients)
	}
	if n := len(s.Counts().Requests); n != all {
		t.Errorf("there are %d requests now, were %d", n, all)
	}
}
