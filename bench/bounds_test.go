package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ustack/ustack/bench/report"
)

// Every line of bounds.txt picks an aim that there is, and its profile is there.
func TestBounds(t *testing.T) {
	bounds, err := loadBounds()
	if err != nil {
		t.Fatal(err)
	}
	var all []report.Metric
	for _, w := range rows(wholeRun) {
		for _, m := range w.metrics {
			for _, s := range w.subjects {
				m.Series = append(m.Series, report.Series{Subject: s, Values: []float64{1}})
			}
			all = append(all, m)
		}
	}
	all = append(all, derived(all)...)
	named := make(map[string]bool)
	for _, b := range bounds {
		for _, c := range b.Covers {
			picked := false
			for _, m := range all {
				for _, g := range m.Goals {
					picked = picked || c.Picks(m.ID, g)
				}
			}
			if !picked {
				t.Errorf("bounds.txt, line %d: picks no aim: %+v", c.Line, c)
			}
		}
		named[b.Profile] = true
		if fi, err := os.Stat(filepath.Join("profiles", b.Profile)); err != nil || fi.Size() == 0 {
			t.Errorf("bounds.txt, line %d: profile %s is missing or empty: %v", b.Covers[0].Line, b.Profile, err)
		}
	}
	files, err := os.ReadDir("profiles")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !named[f.Name()] && !strings.HasPrefix(f.Name(), "heap-") { // what is allocated bounds nothing
			t.Errorf("no entry of bounds.txt names profiles/%s", f.Name())
		}
	}
}
