package stack

import (
	"testing"
	"time"
)

// TestTimeWaitFollowsTheRate closes connections at different rates: those that come
// to TIME-WAIT must have left it when maxTimeWait others were closed behind them,
// and have their minute when there is room.
func TestTimeWaitFollowsTheRate(t *testing.T) {
	var c conns
	var set []time.Duration
	c.setTimeWait = func(d time.Duration) { set = append(set, d) }
	now := time.Now()
	close := func(n int, every time.Duration) time.Duration {
		for range n {
			now = now.Add(every)
			c.pace(now)
			c.next = (c.next + 1) % maxOrphans
		}
		if len(set) == 0 {
			return timeWait
		}
		return set[len(set)-1]
	}
	if d := close(maxTimeWait, time.Millisecond); d != timeWait {
		t.Errorf("TIME-WAIT is %v while there is room, want %v", d, timeWait)
	}
	for _, every := range []time.Duration{time.Millisecond, 100 * time.Microsecond, 10 * time.Millisecond} {
		d := close(3*maxTimeWait, every)
		if most := maxTimeWait * every; d > most || d < most/4 {
			t.Errorf("TIME-WAIT is %v with a connection each %v, want %v to %v", d, every, most/4, most)
		}
	}
	if d := close(2*maxTimeWait, time.Second); d != timeWait {
		t.Errorf("TIME-WAIT is %v with a connection each second, want %v", d, timeWait)
	}
	if len(set) > 100 {
		t.Errorf("set %d times", len(set))
	}
}
