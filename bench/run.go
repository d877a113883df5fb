package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
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
		got := make([]map[string]float64, len(subjects))
		if err := r.round(ctx, w, subjects, round, got); err != nil {
			return nil, err
		}
		for i, subject := range subjects {
			for _, m := range w.metrics {
				v, ok := got[i][m.ID]
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

// round lets every subject take its turn, or all at once where the row says so, and
// puts what each measured into got.
func (r *runner) round(ctx context.Context, w row, subjects []string, round int, got []map[string]float64) error {
	errs := make([]error, len(subjects))
	var together sync.WaitGroup
	for i, subject := range subjects {
		if r.failed[subject] >= maxFailed {
			continue
		}
		k := readyKey{subject, w.pinned, w.path}
		in, err := r.prepare(ctx, w, k, round == 0)
		if err != nil {
			errs[i] = err
		} else if w.together {
			together.Go(func() { got[i], errs[i] = w.run(ctx, in) })
		} else {
			got[i], errs[i] = w.run(ctx, in)
		}
		if w.fresh {
			r.drop(k)
		}
	}
	together.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, err := range errs {
		if err != nil {
			r.note("%s, %s, round %d: %v", w.id, subjects[i], round+1, err)
			r.drop(readyKey{subjects[i], w.pinned, w.path})
		}
	}
	return nil
}

// prepare returns an instance that is ready for the row.
func (r *runner) prepare(ctx context.Context, w row, k readyKey, first bool) (*instance, error) {
	if w.fresh {
		r.drop(k)
	}
	in, err := r.instance(ctx, k)
	if err != nil || !first || w.verify == nil {
		return in, err
	}
	j := *w.verify
	j.Addr, j.Time = in.addr, 20*time.Second
	if _, err := in.dial.do(ctx, j); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	return in, nil
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
