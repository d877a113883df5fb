// Package report turns rounds of measurements into tables and charts: medians with
// their spread, ratios of subjects that took turns, Markdown and SVG.
package report

import (
	"math"
	"slices"
)

// A Summary describes the good values of a series.
type Summary struct {
	N                int
	Min, Median, Max float64
}

// Summarise leaves out NaN, which stands for a round that failed. N is 0 if nothing is
// left.
func Summarise(values []float64) Summary {
	v := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	if len(v) == 0 {
		return Summary{}
	}
	slices.Sort(v)
	m := v[len(v)/2]
	if len(v)%2 == 0 {
		m = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return Summary{N: len(v), Min: v[0], Median: m, Max: v[len(v)-1]}
}

// Ratios divides a by b round by round: what drifts on the machine from round to
// round hits both. A round that one of them lacks, or where b is 0, is NaN.
func Ratios(a, b []float64) []float64 {
	r := make([]float64, min(len(a), len(b)))
	for i := range r {
		r[i] = math.NaN()
		if b[i] != 0 {
			r[i] = a[i] / b[i]
		}
	}
	return r
}

// A Metric is one thing that was measured, for several subjects.
type Metric struct {
	ID    string // "stream-to"
	Title string
	Unit  string // "Gbit/s"; "" for plain ratios
	// LowIsGood says that less is better.
	LowIsGood bool
	// Base is the subject that others are compared with, if not the Report's.
	Base string
	// NoRatios leaves ratios to other subjects out, where they mean nothing.
	NoRatios bool
	// NoChart leaves it out of the chart.
	NoChart bool
	Series  []Series
	Goals   []Goal
}

// A Series is what one subject did, round by round; NaN is a round that failed.
type Series struct {
	Subject string
	Values  []float64
}

// Of returns the values of a subject, nil if it did not take part.
func (m Metric) Of(subject string) []float64 {
	for _, s := range m.Series {
		if s.Subject == subject {
			return s.Values
		}
	}
	return nil
}

// A Goal is what a subject should reach.
type Goal struct {
	Subject string
	Against string // the subject it is compared to; "" for the value itself
	Limit   float64
}

// Reached compares the median with the limit. ok is false if there is nothing to
// compare.
func (m Metric) Reached(g Goal) (got Summary, reached, ok bool) {
	v := m.Of(g.Subject)
	if g.Against != "" {
		v = Ratios(v, m.Of(g.Against))
	}
	got = Summarise(v)
	if got.N == 0 {
		return got, false, false
	}
	if m.LowIsGood {
		return got, got.Median <= g.Limit, true
	}
	return got, got.Median >= g.Limit, true
}

// Divide makes the metric of the ratios of two metrics, subject by subject and round
// by round, for subjects that are in both.
func Divide(a, b Metric) []Series {
	var all []Series
	for _, s := range a.Series {
		if v := b.Of(s.Subject); v != nil {
			all = append(all, Series{Subject: s.Subject, Values: Ratios(s.Values, v)})
		}
	}
	return all
}
