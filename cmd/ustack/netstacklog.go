package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	gvisorlog "gvisor.dev/gvisor/pkg/log"
)

// redirectNetstackLog sends what netstack logs by itself, to standard error and in
// a format of its own, to the daemon's log. It is about what comes off the wire,
// so anybody there can cause it: it is shown only with --log-level debug.
func redirectNetstackLog(log *slog.Logger) { gvisorlog.SetTarget(netstackLog{log}) }

type netstackLog struct{ log *slog.Logger }

// Emit implements log.Emitter of netstack.
func (l netstackLog) Emit(_ int, level gvisorlog.Level, _ time.Time, format string, v ...any) {
	if !l.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	l.log.Debug("netstack: "+strings.TrimSpace(fmt.Sprintf(format, v...)), "netstack_level", level.String())
}
