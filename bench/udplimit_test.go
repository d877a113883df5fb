package main

import (
	"errors"
	"testing"
	"time"
)

func TestHighest(t *testing.T) {
	for _, limit := range []int{1, 1000, 70_000, 99_999, 100_000} {
		const fastest = 100_000
		steps := 0
		got, err := highest(8, func(rate int) (int, bool, error) {
			steps++
			if rate == 0 {
				rate = fastest
			}
			return rate, rate <= limit, nil
		})
		if err != nil || got > limit || limit-got > fastest>>8+1 || steps > 9 {
			t.Errorf("limit %d: %d after %d steps, %v", limit, got, steps, err)
		}
	}
	want := errors.New("down")
	if _, err := highest(8, func(int) (int, bool, error) { return 0, false, want }); err != want {
		t.Errorf("an offer that fails: %v", err)
	}
}

func TestPace(t *testing.T) {
	sent := 0
	took, err := pace(50*time.Millisecond, 20_000, func() error { sent++; return nil })
	if err != nil || took < 50*time.Millisecond || float64(sent) > took.Seconds()*20_000 {
		t.Errorf("%d in %v, %v", sent, took, err)
	}
	want := errors.New("down")
	if _, err := pace(time.Minute, 0, func() error { return want }); err != want {
		t.Errorf("a send that fails: %v", err)
	}
}
