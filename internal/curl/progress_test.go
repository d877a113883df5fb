package curl

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMeterLine(t *testing.T) {
	for _, tt := range []struct {
		s     sample
		speed int64
		want  string
	}{
		{sample{}, 0, "  0     0    0     0    0     0      0      0 --:--:-- --:--:-- --:--:--     0"},
		{sample{at: 2 * time.Second, down: 500, downAll: 1000}, 250, " 50  1000   50   500    0     0    250      0  0:00:04  0:00:02  0:00:02   250"},
		{sample{at: 10 * time.Second, up: 20 << 20, upAll: 20 << 20}, 1 << 30, "100 20.0M    0     0  100 20.0M      0  2048k  0:00:10  0:00:10 --:--:-- 1024M"},
		{sample{at: time.Second, down: 123456}, 1, "  0  120k    0  120k    0     0   120k      0 --:--:--  0:00:01 --:--:--     1"},
	} {
		if got := meterLine(tt.s, tt.speed); got != tt.want {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
	for n, want := range map[int64]string{99999: "99999", 100000: "97k", 10000 << 10: "9.8M", 100 << 20: "100M", 10000 << 20: "9.8G", 5 << 40: "5120G", 1<<63 - 1: "8192P"} {
		if got := short5(n); got != want || len(got) > 5 {
			t.Errorf("short5(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "--:--:--", 90 * time.Second: " 0:01:30", 99 * time.Hour: "99:00:00", 240 * time.Hour: " 10d 00h", 24000 * time.Hour: "   1000d"} {
		if got := clock(d); got != want || len(got) != 8 {
			t.Errorf("clock(%v) = %q, want %q", d, got, want)
		}
	}
	if got := barLine(sample{down: 50, downAll: 100}, 27); got != "##########            50.0%" {
		t.Errorf("bar %q", got)
	}
}

func TestMeterIsForTerminals(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1000)) })
	out := filepath.Join(t.TempDir(), "x")
	x := newTool()
	shown := func(args ...string) string { return x.run(append(args, s.URL)...).code0(t).stderr }
	if got := shown("-o", out); got != "" {
		t.Errorf("meter without a terminal: %q", got)
	}
	x.env.StderrTerminal = true
	if got := shown("-o", out); !strings.Contains(got, "% Total") || !strings.Contains(got, "100  1000  100  1000") || !strings.HasSuffix(got, "\n") {
		t.Errorf("meter: %q", got)
	}
	if got := shown("-#", "-o", out); !strings.Contains(got, "# 100.0%") {
		t.Errorf("bar: %q", got)
	}
	for _, flag := range []string{"-s", "--no-progress-meter"} {
		if got := shown(flag, "-o", out); got != "" {
			t.Errorf("meter in spite of %s: %q", flag, got)
		}
	}
	x.env.StdoutTerminal = true
	if got := shown("-o", "-"); got != "" {
		t.Errorf("meter between the output's lines: %q", got)
	}
}
