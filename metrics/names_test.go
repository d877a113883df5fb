package metrics_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/ustack/ustack/metrics"
)

var update = flag.Bool("update", false, "rewrite testdata/names.golden")

// TestNames holds names, types and labels to testdata/names.golden: whoever changes
// one breaks somebody's dashboard, and should know. go test ./metrics -update
func TestNames(t *testing.T) {
	a, _ := newPair(t)
	var b strings.Builder
	for _, f := range gather(t, metrics.Config{Stack: a, Ports: onePort, Version: "v1"}) {
		names := map[string]bool{}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				names[l.GetName()] = true
			}
		}
		line := f.GetName() + " " + strings.ToLower(f.GetType().String())
		if labels := slices.Sorted(maps.Keys(names)); len(labels) > 0 {
			line += " " + strings.Join(labels, ",")
		}
		fmt.Fprintln(&b, line)
	}
	golden := filepath.Join("testdata", "names.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal([]byte(b.String()), want) {
		t.Errorf("the metrics changed: run with -update if they should have\n%s", b.String())
	}
}

func TestNamesFollowTheConventions(t *testing.T) {
	a, _ := newPair(t)
	families := gather(t, metrics.Config{Stack: a, Ports: onePort, Version: "v1"})
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	help := make(map[string]string)
	for _, f := range families {
		text := f.GetHelp()
		if !strings.HasSuffix(text, ".") || len(text) < 12 {
			t.Errorf("%s: help %q is not a sentence", f.GetName(), text)
		}
		if other := help[text]; other != "" {
			t.Errorf("%s and %s have the same help", f.GetName(), other)
		}
		help[text] = f.GetName()
		var unit string
		switch {
		case strings.Contains(f.GetName(), "_bytes"):
			unit = "ytes"
		case strings.Contains(f.GetName(), "_seconds"):
			unit = "econds"
		case f.GetType() == dto.MetricType_COUNTER:
			unit = "Number of"
		}
		if !strings.Contains(text, unit) {
			t.Errorf("%s: its help does not say its unit, %q: %q", f.GetName(), unit, text)
		}
	}
}
