package demo

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ustack/ustack/internal/netlab"
)

// worlds are both variants, by name.
func worlds(t *testing.T) map[string]func(context.Context) (*world, error) {
	return map[string]func(context.Context) (*world, error){
		"kernel": func(ctx context.Context) (*world, error) { return kernelWorld(ctx, slog.New(slog.DiscardHandler)) },
		"memory": func(context.Context) (*world, error) { return pipeWorld("because") },
	}
}

func TestWorlds(t *testing.T) {
	for name, makeWorld := range worlds(t) {
		t.Run(name, func(t *testing.T) {
			if name == "kernel" {
				netlab.Require(t)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			w, err := makeWorld(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := w.close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			s, rec, err := newStack(w.dev, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := s.Ping(ctx, addr(siteAddr)); err != nil {
				t.Errorf("ping: %v", err)
			}
			client := http.Client{Transport: &http.Transport{DialContext: s.DialContext, DisableKeepAlives: true}}
			resp, err := client.Get("http://" + siteName + "/")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if got, want := string(body), pageText(siteName, w.seenAs.String()); err != nil || got != want {
				t.Errorf("page %q, %v, want %q", got, err, want)
			}
			seen := ""
			for _, r := range rec.take() {
				seen += decode(r.data).text + "\n"
			}
			for _, want := range []string{
				"who has 10.0.0.5? tell 10.0.0.4 at 02:00:00:00:00:04\n", "10.0.0.5 is at ",
				"10.0.0.4 > 203.0.113.80 echo request", "203.0.113.80 > 10.0.0.4 echo reply",
				"A www.baidu.com = 203.0.113.80\n", ":80 SYN\n", "bytes: GET / HTTP/1.1\n", "bytes: HTTP/1.1 200 OK\n",
			} {
				if !strings.Contains(seen, want) {
					t.Errorf("no frame with %q crossed the wire:\n%s", want, seen)
				}
			}
		})
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
