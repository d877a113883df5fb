package curl

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// A watcher follows a transfer beside it: the progress meter and --speed-limit.
type watcher struct {
	quit, done chan struct{}
}

func (w *watcher) stop() {
	if w != nil {
		close(w.quit)
		<-w.done
	}
}

// watch starts a watcher if anything is to be watched; it may cancel the transfer.
func (t *transfer) watch(cancel context.CancelCauseFunc) *watcher {
	c := t.c
	var m *meter
	toScreen := t.s.env.StdoutTerminal && !t.tg.remote && (!t.tg.hasOut || t.tg.out == "-")
	if t.s.env.StderrTerminal && !toScreen && !c.silent && !c.noMeter {
		m = &meter{w: t.s.env.Stderr, bar: c.bar}
	}
	if m == nil && c.speedLimit == 0 {
		return nil
	}
	w := &watcher{quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		var pace pace
		slowSince := time.Now()
		m.show(t.sample(), 0)
		for {
			select {
			case <-w.quit:
				s := t.sample()
				m.show(s, pace.add(s))
				m.end()
				return
			case <-tick.C:
			}
			s := t.sample()
			speed := pace.add(s)
			m.show(s, speed)
			if c.speedLimit == 0 || speed >= c.speedLimit {
				slowSince = time.Now()
			} else if time.Since(slowSince) >= c.speedTime {
				cancel(fail(exitTimeout, "Operation too slow. Less than %d bytes/sec transferred the last %.0f seconds", c.speedLimit, c.speedTime.Seconds()))
			}
		}
	}()
	return w
}

// A sample is how far a transfer is.
type sample struct {
	at            time.Duration // since the start
	down, downAll int64         // bytes; All is -1 or 0 when unknown
	up, upAll     int64
}

func (t *transfer) sample() sample {
	t.mu.Lock()
	defer t.mu.Unlock()
	return sample{at: time.Since(t.start), down: t.received, downAll: max(t.expect, 0), up: t.sent, upAll: max(t.toSend, 0)}
}

// pace measures the current speed, over the last five seconds.
type pace struct {
	last []sample
}

func (p *pace) add(s sample) int64 {
	p.last = append(p.last, s)
	for len(p.last) > 2 && s.at-p.last[0].at > 5*time.Second {
		p.last = p.last[1:]
	}
	first := sample{}
	if len(p.last) > 1 {
		first = p.last[0]
	}
	return perSecond(s.down+s.up-first.down-first.up, s.at-first.at)
}

func perSecond(n int64, d time.Duration) int64 {
	if d < time.Microsecond {
		return 0
	}
	return int64(float64(n) / d.Seconds())
}

// A meter draws progress as curl does. Nil draws nothing.
type meter struct {
	w     io.Writer
	bar   bool
	begun bool
}

func (m *meter) show(s sample, speed int64) {
	switch {
	case m == nil:
	case m.bar:
		fmt.Fprint(m.w, "\r"+barLine(s, 79))
	default:
		if !m.begun {
			m.begun = true
			fmt.Fprint(m.w, "  % Total    % Received % Xferd  Average Speed   Time    Time     Time  Current\n"+
				"                                 Dload  Upload   Total   Spent    Left  Speed\n")
		}
		fmt.Fprint(m.w, "\r"+meterLine(s, speed))
	}
}

func (m *meter) end() {
	if m != nil {
		fmt.Fprintln(m.w)
	}
}

// barLine is -#'s: width columns when the size is known.
func barLine(s sample, width int) string {
	all, done := s.downAll+s.upAll, s.down+s.up
	if all <= 0 {
		if done == 0 {
			return "#" + strings.Repeat(" ", width-1)
		}
		return fmt.Sprintf("%-*s", width, "##O#-  "+short5(done))
	}
	done = min(done, all)
	room := width - 7
	n := int(float64(done) / float64(all) * float64(room))
	return fmt.Sprintf("%-*s %5.1f%%", room, strings.Repeat("#", n), float64(done)/float64(all)*100)
}

// meterLine is the meter's third line.
func meterLine(s sample, speed int64) string {
	down, up := perSecond(s.down, s.at), perSecond(s.up, s.at)
	all, done := s.downAll+s.upAll, s.down+s.up
	total, left := "--:--:--", "--:--:--"
	if rate := perSecond(done, s.at); all > 0 && rate > 0 {
		est := time.Duration(float64(all) / float64(rate) * float64(time.Second))
		total, left = clock(est), clock(max(0, est-s.at))
	}
	return fmt.Sprintf("%3d %5s  %3d %5s  %3d %5s  %5s  %5s %8s %8s %8s %5s",
		percent(done, all), short5(max(all, done)),
		percent(s.down, s.downAll), short5(s.down),
		percent(s.up, s.upAll), short5(s.up),
		short5(down), short5(up), total, clock(s.at), left, short5(speed))
}

func percent(n, all int64) int64 {
	if all <= 0 {
		return 0
	}
	return int64(float64(min(n, all)) / float64(all) * 100)
}

// short5 is a number of bytes in at most five columns.
func short5(n int64) string {
	switch {
	case n < 100000:
		return fmt.Sprint(n)
	case n < 10000<<10:
		return fmt.Sprintf("%dk", n>>10)
	}
	f := float64(n)
	for _, unit := range "MGTPE" {
		f /= 1024
		if f/1024 < 99.95 {
			return fmt.Sprintf("%.1f%c", f/1024, unit)
		}
		if f/1024 < 10000 {
			return fmt.Sprintf("%.0f%c", f/1024, unit)
		}
	}
	return "huge"
}

// clock is a time in eight columns.
func clock(d time.Duration) string {
	s := int64(d.Seconds())
	switch {
	case s <= 0:
		return "--:--:--"
	case s < 100*3600:
		return fmt.Sprintf("%2d:%02d:%02d", s/3600, s/60%60, s%60)
	case s < 1000*86400:
		return fmt.Sprintf("%3dd %02dh", s/86400, s/3600%24)
	}
	return fmt.Sprintf("%7dd", min(s/86400, 9999999))
}
