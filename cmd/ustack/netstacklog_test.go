package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	gvisorlog "gvisor.dev/gvisor/pkg/log"
)

func TestNetstackLog(t *testing.T) {
	for level, want := range map[slog.Level]bool{slog.LevelDebug: true, slog.LevelInfo: false} {
		var out bytes.Buffer
		l := netstackLog{slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}))}
		l.Emit(0, gvisorlog.Warning, time.Now(), "segment of %d bytes\n", 7)
		if got := strings.Contains(out.String(), `msg="netstack: segment of 7 bytes"`); got != want {
			t.Errorf("at %v: %q", level, out.String())
		}
	}
}
