package control_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

// A tracing backend writes one line, then one a moment until it is told to end.
type tracing struct {
	controltest.Backend
	ended chan error
}

func (b *tracing) Trace(ctx context.Context, o control.TraceOptions, owner control.OwnerFunc, w io.Writer) error {
	if o.Filter == "bad" {
		return fmt.Errorf("filter: %w", syscall.EINVAL)
	}
	_, err := fmt.Fprintf(w, "%q %d %q\n", o.Filter, o.Count, owner("tcp", netip.MustParseAddrPort("127.0.0.1:1"), netip.AddrPort{}))
	for err == nil && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
		_, err = io.WriteString(w, "step\n")
	}
	if err == nil {
		_, err = io.WriteString(w, "end\n")
	}
	b.ended <- err
	return err
}

func TestTrace(t *testing.T) {
	b := &tracing{ended: make(chan error, 1)}
	s, c := startServerConfig(t, control.ServerConfig{Backend: b})
	if _, err := c.Trace(testContext(t), control.TraceOptions{Filter: "bad"}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a bad filter: %v, want EINVAL", err)
	}
	stream, err := c.Trace(testContext(t), control.TraceOptions{Filter: "icmp or arp", Count: 3})
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stream)
	if line, err := lines.ReadString('\n'); line != "\"icmp or arp\" 3 \"\"\n" || err != nil {
		t.Errorf("first line %q, %v", line, err)
	}
	// The end in good order, with what comes last.
	if err := stream.Stop(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil || !strings.HasSuffix(string(rest), "step\nend\n") {
		t.Errorf("the rest %q, %v", rest, err)
	}
	if err := <-b.ended; err != nil {
		t.Error(err)
	}
	stream.Close()

	// A client that goes ends it, and so does the server.
	if stream, err = c.Trace(testContext(t), control.TraceOptions{}); err != nil {
		t.Fatal(err)
	}
	stream.Close()
	<-b.ended
	if stream, err = c.Trace(testContext(t), control.TraceOptions{}); err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	go s.Close()
	if rest, err = io.ReadAll(stream); err != nil || !strings.HasSuffix(string(rest), "end\n") {
		t.Errorf("at the server's end %q, %v", rest, err)
	}
	<-b.ended
}

func TestTraceRefused(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	if _, err := c.Trace(testContext(t), control.TraceOptions{}); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("a backend that follows nothing: %v, want EOPNOTSUPP", err)
	}
	_, c = startServerConfig(t, control.ServerConfig{Backend: &tracing{ended: make(chan error, 1)}})
	h := unixHTTP(t, c)
	for _, query := range []string{"?filtre=icmp", "?count=x", "?count=-1"} {
		if res, body := ask(t, h, "GET", "/v1/trace"+query); res.StatusCode != http.StatusBadRequest || !strings.Contains(body, "EINVAL") {
			t.Errorf("%s: %s %q", query, res.Status, body)
		}
	}
	if res, _ := ask(t, h, "POST", "/v1/trace"); res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "GET" {
		t.Errorf("POST: %s", res.Status)
	}
}
