package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
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

// key says which instance a subject needs in a round. An impaired link has the same
// accidents for all subjects; where each round has a link of its own, they are others
// in each.
func (w row) key(subject string, round int) readyKey {
	k := readyKey{subject, w.pinned, w.path}
	if !w.fresh {
		round = 0
	}
	if w.path != "" {
		k.path += fmt.Sprintf(",seed=%d", round+1)
	}
	return k
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
	if w.needs != "" {
		if _, err := os.Stat(filepath.Join(r.lab.peers, w.needs)); err != nil {
			r.note("%s: %s %v", w.id, w.needs, errMissing)
			return nil, nil
		}
	}
	values := make(map[string]map[string][]float64) // metric → subject
	for _, m := range w.metrics {
		values[m.ID] = make(map[string][]float64)
	}
	abreast := max(w.abreast, 1)
	for round := 0; round < rounds; round += abreast {
		turns := make([]turn, 0, abreast*len(subjects))
		for at := round; at < min(round+abreast, rounds); at++ {
			for _, subject := range subjects {
				turns = append(turns, turn{subject: subject, round: at})
			}
		}
		if err := r.turns(ctx, w, turns); err != nil {
			return nil, err
		}
		for _, t := range turns {
			for _, m := range w.metrics {
				v, ok := t.got[m.ID]
				if !ok {
					v = math.NaN()
				}
				values[m.ID][t.subject] = append(values[m.ID][t.subject], v)
			}
		}
		fmt.Fprint(r.progress, strings.Repeat(".", len(turns)/len(subjects)))
	}
	if w.path != "" { // no other row has it
		for _, subject := range subjects {
			r.drop(w.key(subject, 0))
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

// A turn is what one subject does in one round.
type turn struct {
	subject string
	round   int
	got     map[string]float64 // what it measured
	err     error
}

// turns are done one after the other, or all at once where the row says so.
func (r *runner) turns(ctx context.Context, w row, turns []turn) error {
	var together sync.WaitGroup
	for i := range turns {
		t := &turns[i]
		if r.failed[t.subject] >= maxFailed {
			continue
		}
		k := w.key(t.subject, t.round)
		in, err := r.prepare(ctx, w, k, t.round == 0)
		switch {
		case err != nil:
			t.err = err
		case w.together:
			together.Go(func() { t.got, t.err = w.run(ctx, in) })
		default:
			t.got, t.err = w.run(ctx, in)
		}
		if w.fresh && !w.together {
			r.drop(k)
		}
	}
	together.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, t := range turns {
		if t.err != nil {
			r.note("%s, %s, round %d: %v", w.id, t.subject, t.round+1, t.err)
		}
		if t.err != nil || w.fresh {
			r.drop(w.key(t.subject, t.round))
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
