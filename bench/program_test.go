package main

import (
	"errors"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

func TestParseSummary(t *testing.T) {
	for said, want := range map[string]map[string]int{
		"x\nustack: 3 calls were passed to the supervisor: socket 2, recvmsg 1\n": {"socket": 2, "recvmsg": 1},
		"ustack: 0 calls were passed to the supervisor: \n":                       {},
	} {
		got, err := parseSummary(said)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%q: %v, %v", said, got, err)
		}
	}
	for _, said := range []string{"", "ustack: 3 calls", "ustack: 1 calls were passed to the supervisor: socket x"} {
		if _, err := parseSummary(said); !errors.Is(err, errSummary) {
			t.Errorf("%q: %v", said, err)
		}
	}
	if n := dataCalls(map[string]int{"socket": 2, "getsockopt": 9, "recvmsg": 3, "sendto": 1}); n != 4 {
		t.Errorf("%d calls move data, not 4", n)
	}
}

func TestParseIperf3(t *testing.T) {
	rate, err := parseIperf3([]byte(`{"end": {"sum_sent": {"bits_per_second": 2}, "sum_received": {"bits_per_second": 1.5e9}}}`))
	if err != nil || rate != 1.5e9 {
		t.Errorf("%v, %v", rate, err)
	}
	for _, out := range []string{"", `{"error": "unable to connect", "end": {}}`, `{"end": {}}`} {
		if _, err := parseIperf3([]byte(out)); err == nil {
			t.Errorf("%q is taken", out)
		}
	}
}

func TestParseCurl(t *testing.T) {
	good, slowest := parseCurl([]byte("200 65536 0.250\n000 0 10.0\n200 100 0.5\n\n200 65536 0.125\n"))
	if good != 2 || slowest != 250*time.Millisecond {
		t.Errorf("%d good, the slowest took %v", good, slowest)
	}
}

// Every row of programs gives all its values for the kernel and under `ustack run`.
func TestPrograms(t *testing.T) {
	l := testLab(t)
	l.ustack = filepath.Join(t.TempDir(), "ustack")
	if out, err := exec.Command("go", "build", "-o", l.ustack, "../cmd/ustack").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := quickRun
	s.time, s.starts = 20*time.Millisecond, 2
	for _, subject := range []string{vethOn, underRun} {
		in, err := l.make(t.Context(), subject, false, "")
		if err != nil {
			t.Fatal(err)
		}
		defer in.close()
		for _, w := range programRows(s) {
			if !slices.Contains(w.subjects, subject) {
				continue
			}
			t.Run(w.id+" "+subject, func(t *testing.T) {
				if w.needs != "" {
					netlab.Peer(t, w.needs)
				}
				got, err := w.run(t.Context(), in)
				if err != nil {
					t.Fatal(err)
				}
				if got[w.metrics[0].ID] <= 0 || subject == underRun && len(got) != len(w.metrics) {
					t.Errorf("%v of %d metrics", got, len(w.metrics))
				}
			})
		}
	}
}
