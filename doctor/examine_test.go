package doctor

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/link/spec"
)

func tapSpec(t *testing.T, text string) spec.Spec {
	t.Helper()
	s, err := spec.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// Examined, repaired and examined again in this process, which is left as it was.
func TestExamine(t *testing.T) {
	host := netlab.New(t, "host")
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	host.Tap(t, "tap0", -1)
	host.Addr(t, "tap0", "10.0.0.5/24")
	cfg := Config{Link: tapSpec(t, "tap:tap0")}
	before := 0
	host.Do(t, func() {
		before = descriptors(t)
		r, err := Examine(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Findings(); len(got) != 1 || got[0].Cause != CauseDown || !r.Fixable() {
			t.Fatalf("a tap that is down: %+v", got)
		}
		var steps []string
		if err := Fix(t.Context(), cfg, r, func(s Step, err error) {
			if steps = append(steps, s.Command); err != nil {
				t.Error(err)
			}
		}); err != nil || !slices.Equal(steps, []string{"ip link set dev tap0 up"}) {
			t.Errorf("steps %q, %v", steps, err)
		}
		if r, err = Examine(t.Context(), cfg); err != nil || len(r.Findings()) > 0 || r.Fixable() {
			t.Errorf("a tap that is up: %+v, %v", r, err)
		}
		if len(r.Env.Observed.ToHost) == 0 || len(r.Env.Observed.ToStack) == 0 || len(r.Env.Observed.Frames) == 0 {
			t.Errorf("nothing was probed: %+v", r.Env.Observed)
		}
		if now := descriptors(t); now != before {
			t.Errorf("%d descriptors were open before and %d are after", before, now)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Examine(ctx, cfg); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
	if _, err := Examine(t.Context(), Config{Link: tapSpec(t, "pipe:")}); !errors.Is(err, ErrConfig) {
		t.Errorf("a pipe: %v", err)
	}
}
