package stack

import (
	"slices"
	"testing"
	"time"
)

func TestRefillTimes(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		trip time.Duration
		want []time.Duration // as long as there is no room
	}{
		{0, []time.Duration{0, 0}},
		{2 * ms, []time.Duration{ms, 2 * ms, 0, 0}},
		{40 * ms, []time.Duration{5 * ms, 10 * ms, 20 * ms, 40 * ms, 0, 0}},
	} {
		r := refill{trip: tc.trip}
		for _, written := range []int64{0, 1, 1 << 20} { // each time there was some
			var got []time.Duration
			for range tc.want {
				got = append(got, r.every(written))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("round trip %v, %d bytes written: waits %v, want %v", tc.trip, written, got, tc.want)
			}
		}
	}
}
