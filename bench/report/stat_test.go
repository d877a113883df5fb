package report

import (
	"math"
	"slices"
	"testing"
)

var nan = math.NaN()

func TestSummarise(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Summary
	}{
		{nil, Summary{}},
		{[]float64{nan, nan}, Summary{}},
		{[]float64{3}, Summary{1, 3, 3, 3}},
		{[]float64{3, 1, nan, 2}, Summary{3, 1, 2, 3}},
		{[]float64{4, 1, 3, 2}, Summary{4, 1, 2.5, 4}},
	} {
		before := slices.Clone(c.values)
		if got := Summarise(c.values); got != c.want {
			t.Errorf("Summarise(%v) = %+v, want %+v", before, got, c.want)
		}
		for i, v := range c.values {
			if v != before[i] && !math.IsNaN(v) {
				t.Errorf("Summarise changed %v to %v", before, c.values)
			}
		}
	}
}

func TestRatiosPairRounds(t *testing.T) {
	got := Ratios([]float64{2, nan, 6, 8, 9}, []float64{4, 1, 3, 0})
	if len(got) != 4 || got[0] != 0.5 || !math.IsNaN(got[1]) || got[2] != 2 || !math.IsNaN(got[3]) {
		t.Errorf("got %v", got)
	}
	// What halves the machine's speed in one round halves no ratio.
	if s := Summarise(Ratios([]float64{10, 5, 10}, []float64{20, 10, 20})); s != (Summary{3, 0.5, 0.5, 0.5}) {
		t.Errorf("a slow round shows: %+v", s)
	}
}

func TestReached(t *testing.T) {
	m := Metric{Series: []Series{{"a", []float64{10, 10, 10}}, {"b", []float64{5, 9, 7}}, {"dead", []float64{nan}}}}
	for _, c := range []struct {
		low         bool
		goal        Goal
		reached, ok bool
	}{
		{false, Goal{"b", "a", 0.7}, true, true},
		{false, Goal{"b", "a", 0.71}, false, true},
		{true, Goal{"b", "a", 0.7}, true, true},
		{true, Goal{"b", "", 6}, false, true},
		{false, Goal{"b", "", 7}, true, true},
		{false, Goal{"dead", "a", 0}, false, false},
		{false, Goal{"a", "nobody", 0}, false, false},
		{false, Goal{"nobody", "", 0}, false, false},
	} {
		m.LowIsGood = c.low
		if _, reached, ok := m.Reached(c.goal); reached != c.reached || ok != c.ok {
			t.Errorf("%+v, low is good %v: %v, %v", c.goal, c.low, reached, ok)
		}
	}
}

func TestDivideTakesSubjectsOfBoth(t *testing.T) {
	a := Metric{Series: []Series{{"x", []float64{8, 4}}, {"y", []float64{1}}}}
	b := Metric{Series: []Series{{"z", []float64{1}}, {"x", []float64{4, 1}}}}
	got := Divide(a, b)
	if len(got) != 1 || got[0].Subject != "x" || !slices.Equal(got[0].Values, []float64{2, 4}) {
		t.Errorf("got %v", got)
	}
}
