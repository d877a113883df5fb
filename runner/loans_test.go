package runner

import (
	"testing"
	"testing/synctest"
	"time"
)

// Whoever waits waits for what was borrowed before, not for what comes after.
func TestLoans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l loans
		l.wait(time.Hour)
		first, second := l.borrow(), l.borrow()
		var waited []time.Duration
		start := time.Now()
		wait := func() {
			l.wait(time.Minute)
			waited = append(waited, time.Since(start))
		}
		go wait()
		synctest.Wait()
		third := l.borrow()
		time.Sleep(time.Second)
		l.giveBack(first)
		synctest.Wait()
		if len(waited) != 0 {
			t.Error("not all was given back")
		}
		time.Sleep(time.Second)
		l.giveBack(second)
		synctest.Wait()
		if len(waited) != 1 || waited[0] != 2*time.Second {
			t.Errorf("waited until %v for what was given back after 2 s", waited)
		}
		wait()
		if len(waited) != 2 || waited[1] != 2*time.Second+time.Minute {
			t.Errorf("waited until %v for what is not given back", waited)
		}
		l.giveBack(third)
		if len(l.open) != 0 {
			t.Errorf("%d counts are left", len(l.open))
		}
	})
}

func TestClosings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c closings
		start := time.Now()
		c.wait(time.Hour)
		for i := range 3 {
			ended := make(chan struct{})
			time.AfterFunc(time.Duration(i)*time.Second, func() { close(ended) })
			c.add(ended)
		}
		c.wait(time.Hour)
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("waited for %v", d)
		}
		never := make(chan struct{})
		c.add(never)
		if len(c.ended) != 1 {
			t.Errorf("%d are kept", len(c.ended))
		}
		if c.wait(time.Second); time.Since(start) != 3*time.Second {
			t.Errorf("waited until %v", time.Since(start))
		}
	})
}
