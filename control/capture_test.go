package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

// capturing is a Backend that captures the words it is given.
type capturing struct {
	*controltest.Backend
	words chan string
	asked chan control.CaptureOptions
}

func (b *capturing) Capture(ctx context.Context, o control.CaptureOptions, w io.Writer) error {
	b.asked <- o
	if o.Filter == "wrong" {
		return fmt.Errorf("filter %q: no such word: %w", o.Filter, syscall.EINVAL)
	}
	if _, err := io.WriteString(w, "begin "); err != nil {
		return err
	}
	for {
		select {
		case word := <-b.words:
			if _, err := io.WriteString(w, word); err != nil {
				return err
			}
		case <-ctx.Done():
			_, err := io.WriteString(w, "end")
			return err
		}
	}
}

func newCapturing() *capturing {
	return &capturing{Backend: &controltest.Backend{}, words: make(chan string), asked: make(chan control.CaptureOptions, 8)}
}

// TestCapture: what a Capturer writes comes as it is written; a half-close asks for its end.
func TestCapture(t *testing.T) {
	b := newCapturing()
	_, c := startServer(t, b)
	want := control.CaptureOptions{Filter: "tcp & more?", Link: "tap0", SnapLen: 128, Count: 1 << 40, Split: true, Buffer: 1 << 20}
	s, err := c.Capture(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := <-b.asked; got != want {
		t.Errorf("asked for %+v, want %+v", got, want)
	}
	b.words <- "words "
	got := make([]byte, len("begin words "))
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "begin words " {
		t.Fatalf("%q, %v", got, err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(s); err != nil || string(rest) != "end" {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestCaptureRefused: an error before the first byte is an answer like any other.
func TestCaptureRefused(t *testing.T) {
	b := newCapturing()
	_, c := startServer(t, b)
	if _, err := c.Capture(t.Context(), control.CaptureOptions{Filter: "wrong"}); !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "no such word") {
		t.Errorf("a wrong filter: %v", err)
	}
	h := unixHTTP(t, c)
	for target, want := range map[string]int{
		"/v1/capture?filtre=tcp": http.StatusBadRequest, "/v1/capture?snaplen=all": http.StatusBadRequest, "/v1/capture?split=perhaps": http.StatusBadRequest,
	} {
		res, err := h.Get("http://ustack" + target)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %s", target, res.Status)
		}
	}
	res, err := h.Post("http://ustack/v1/capture", "text/plain", strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "GET" {
		t.Errorf("POST: %s, %q", res.Status, res.Header.Get("Allow"))
	}
	_, plain := startServer(t, &controltest.Backend{})
	if _, err := plain.Capture(t.Context(), control.CaptureOptions{}); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("of a daemon that captures nothing: %v", err)
	}
}

// TestCaptureEnds: a client that goes, and a server that closes, end a capture; the latter in good
// order.
func TestCaptureEnds(t *testing.T) {
	b := newCapturing()
	srv, c := startServer(t, b)
	s, err := c.Capture(t.Context(), control.CaptureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close() // the goroutines of it are gone when the test ends
	other, err := c.Capture(t.Context(), control.CaptureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	srv.Close()
	if got, err := io.ReadAll(other); err != nil || string(got) != "begin end" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := c.Capture(t.Context(), control.CaptureOptions{}); !errors.Is(err, control.ErrNoDaemon) {
		t.Errorf("of no daemon: %v", err)
	}
}
