package link_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

func TestDropLog(t *testing.T) {
	var out bytes.Buffer
	l := &link.DropLog{Logger: slog.New(slog.NewTextHandler(&out, nil)), What: "port", Name: "p1", Quiet: map[string]bool{"switch_same_port": true}}
	now := time.Unix(1000, 0)
	look := func(after time.Duration, drops map[string]uint64) string {
		t.Helper()
		now = now.Add(after)
		out.Reset()
		l.Look(now, drops)
		if n := strings.Count(out.String(), "\n"); n > 1 {
			t.Fatalf("%d lines", n)
		}
		return out.String()
	}
	if s := look(0, nil); s != "" {
		t.Error("nothing was dropped:", s)
	}
	if s := look(time.Second, map[string]uint64{"rx_lost": 3, "tx_limit": 1, "switch_same_port": 2}); s != "" {
		t.Error("nothing to tell:", s)
	}
	if s := look(time.Second, map[string]uint64{"rx_short": 3, "rx_foreign": 4}); !strings.Contains(s, `level=WARN msg="frames dropped" port=p1 rx_foreign=4 rx_short=3`) {
		t.Error(s)
	}
	if s := look(time.Second/2, map[string]uint64{"rx_short": 5, "rx_foreign": 4}); s != "" {
		t.Error("too soon:", s)
	}
	if s := look(time.Second/2, map[string]uint64{"rx_short": 6, "rx_foreign": 4}); !strings.Contains(s, "rx_short=3") || strings.Contains(s, "rx_foreign") {
		t.Error(s)
	}
	// While it goes on it is told more seldom …
	lines, n := 0, uint64(6)
	for range 1000 {
		n++
		if look(time.Second, map[string]uint64{"rx_short": n}) != "" {
			lines++
		}
	}
	if lines < 15 || lines > 25 {
		t.Errorf("%d lines in 1000 s", lines)
	}
	// … and at once again after a pause.
	look(10*time.Minute, map[string]uint64{"rx_short": n})
	if s := look(time.Second, map[string]uint64{"rx_short": n + 1}); !strings.Contains(s, "rx_short=1\n") {
		t.Error("news after a quiet time:", s)
	}
	// A counter that begins anew is no news of 2^64 frames.
	if s := look(time.Minute, map[string]uint64{"rx_short": 1}); s != "" {
		t.Error(s)
	}
}
