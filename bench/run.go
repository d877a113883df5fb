package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ustack/ustack/bench/report"
)

// A runner does rows, one after the other.
type runner struct {
	lab      *lab
	scale    scale
	progress io.Writer
	notes    []string
	ready    map[readyKey]*instance
	// failed counts how often a subject could not be set up; after maxFailed times, or
	// when its program is not there, it takes part no more.
	failed map[string]int
}

const maxFailed = 2

type readyKey struct {
	subject string
	pinned  bool
	path    string
}

func newRunner(l *lab, s scale, progress io.Writer) *runner {
	return &runner{lab: l, scale: s, progress: progress, ready: make(map[readyKey]*instance), failed: make(map[string]int)}
}

func (r *runner) close() {
	for _, in := range r.ready {
		in.close()
	}
}

// instance returns one that is at work already, or a new one.
func (r *runner) instance(ctx context.Context, k readyKey) (*instance, error) {
	if in := r.ready[k]; in != nil {
		return in, nil
	}
	in, err := r.lab.make(ctx, k.subject, k.pinned, k.path)
	switch {
	case err == nil:
		r.ready[k] = in
	case errors.Is(err, errMissing):
		r.failed[k.subject] = maxFailed
	default:
		r.failed[k.subject]++
	}
	return in, err
}

// drop ends an instance that failed: the next measurement gets a new one.
func (r *runner) drop(k readyKey) {
	if in := r.ready[k]; in != nil {
		in.close()
		delete(r.ready, k)
	}
}

// row does one row and returns its metrics with all values. A measurement that fails
// is a note and a missing value; only the end of ctx ends the row.
func (r *runner) row(ctx context.Context, w row) ([]report.Metric, error) {
	began := time.Now()
	fmt.Fprintf(r.progress, "%-16s", w.id)
	subjects := slices.DeleteFunc(slices.Clone(w.subjects), func(s string) bool { return r.failed[s] >= maxFailed })
	rounds := w.rounds
	if rounds == 0 {
		rounds = r.scale.rounds
	}
	values := make(map[string]map[string][]float64) // metric → subject
	for _, m := range w.metrics {
		values[m.ID] = make(map[string][]float64)
	}
	for round := range rounds {
		for _, subject := range subjects {
			var got map[string]float64
			if r.failed[subject] < maxFailed {
				var err error
				got, err = r.once(ctx, w, readyKey{subject, w.pinned, w.path}, round == 0)
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				if err != nil {
					r.note("%s, %s, round %d: %v", w.id, subject, round+1, err)
				}
			}
			for _, m := range w.metrics {
				v, ok := got[m.ID]
				if !ok {
					v = math.NaN()
				}
				values[m.ID][subject] = append(values[m.ID][subject], v)
			}
		}
		fmt.Fprint(r.progress, ".")
	}
	if w.path != "" { // no other row has it
		for _, subject := range subjects {
			r.drop(readyKey{subject, w.pinned, w.path})
		}
	}
	metrics := slices.Clone(w.metrics)
	for i := range metrics {
		for _, subject := range subjects {
			if report.Summarise(values[metrics[i].ID][subject]).N == 0 {
				continue // its note says why
			}
			metrics[i].Series = append(metrics[i].Series, report.Series{Subject: subject, Values: values[metrics[i].ID][subject]})
		}
	}
	fmt.Fprintf(r.progress, " %.1f s\n", time.Since(began).Seconds())
	return metrics, nil
}

func (r *runner) once(ctx context.Context, w row, k readyKey, first bool) (map[string]float64, error) {
	if w.fresh {
		r.drop(k)
		defer r.drop(k)
	}
	in, err := r.instance(ctx, k)
	if err != nil {
		return nil, err
	}
	if first && w.verify != nil {
		j := *w.verify
		j.Addr, j.Time = in.addr, 20*time.Second
		if _, err := in.dial.do(ctx, j); err != nil {
			r.drop(k)
			return nil, fmt.Errorf("verify: %w", err)
		}
	}
	got, err := w.run(ctx, in)
	if err != nil {
		r.drop(k)
	}
	return got, err
}

func (r *runner) note(format string, args ...any) {
	n := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	fmt.Fprintf(r.progress, "\n  %s\n", n)
	r.notes = append(r.notes, n)
}

// derived are metrics made of two others, where both were measured.
func derived(all []report.Metric) []report.Metric {
	byID := make(map[string]report.Metric)
	for _, m := range all {
		byID[m.ID] = m
	}
	var out []report.Metric
	add := func(id, over, title string, noRatios bool, goals ...report.Goal) {
		a, b := byID[id], byID[over]
		if series := report.Divide(a, b); len(series) > 0 {
			out = append(out, report.Metric{ID: id + "-over", Title: title, NoRatios: noRatios, NoChart: true, Series: series, Goals: goals})
		}
	}
	for _, dir := range []string{"to", "from"} {
		add("streams8-"+dir, "stream-"+dir, "8 streams over one, "+dir, true,
			report.Goal{Subject: native, Limit: 1}, report.Goal{Subject: daemon, Limit: 1})
		for _, size := range []string{"16k", "1k"} {
			add("stream-"+dir+"-"+size, "stream-"+dir, "writes of "+size+" over 128k, "+dir, false,
				report.Goal{Subject: native, Against: vethOn, Limit: 1 / 1.3}, report.Goal{Subject: daemon, Against: vethOn, Limit: 1 / 1.3})
		}
	}
	return out
}
