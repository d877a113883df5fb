package link

import (
	"math/rand/v2"
	"sync"
	"time"
)

// A medium is one direction of an impaired wire, which its queues share.
type medium struct {
	cfg        ImpairConfig
	start      time.Time // all times count from here
	lost, full Drop      // under which to count
	pool       *framePool

	mu   sync.Mutex
	free time.Duration // when the last frame so far has been sent; guarded by mu
}

// forever is later than any frame leaves, and far from an overflow.
const forever = time.Duration(1) << 61

// send returns when a frame of n bytes, ready now, has been sent at the wire's rate.
func (m *medium) send(now time.Duration, n int) time.Duration {
	if m.cfg.Rate == 0 {
		return now
	}
	takes := time.Duration(uint64(n) * 8 * uint64(time.Second) / m.cfg.Rate)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free = min(max(m.free, now)+takes, forever)
	return m.free
}

// A delayLine holds frames until their time has come. One goroutine takes them out.
type delayLine struct {
	*medium
	wake  chan struct{} // the first frame to come out is another one
	timer *time.Timer   // of the one who takes frames out

	mu   sync.Mutex
	rng  *rand.Rand // guarded by mu
	heap []delayed  // first the one whose time comes first; guarded by mu
	seq  uint64     // frames so far; guarded by mu
}

type delayed struct {
	at  time.Duration
	seq uint64 // orders frames of the same time
	buf *frameBuf
	n   int
}

func newDelayLine(m *medium, stream uint64) *delayLine {
	l := &delayLine{
		medium: m, wake: make(chan struct{}, 1),
		timer: time.NewTimer(forever),
		rng:   rand.New(rand.NewPCG(m.cfg.Seed, stream)),
	}
	l.timer.Stop()
	return l
}

// add copies a frame of n bytes into the line, or says why it did not get there.
//
// Every frame draws the same number of times, whatever it meets with, so that the
// accidents of one kind do not depend on the probability of another.
func (l *delayLine) add(pieces [][]byte, n int) (why Drop, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := len(l.heap) == 0
	var head uint64
	if !first {
		head = l.heap[0].seq
	}
	lost, twice := l.chance(l.cfg.Loss), l.chance(l.cfg.Duplicate)
	now := time.Since(l.start)
	kept := false
	why = l.lost
	for i := range 2 {
		f := l.draw(n)
		// Of a duplicated frame one copy can be lost, as in netem.
		if i == 0 && lost && !twice || i == 1 && (!twice || lost) {
			continue
		}
		if len(l.heap) >= l.cfg.Limit {
			why = l.full
			continue
		}
		l.put(pieces, n, now, f)
		kept = true
	}
	if kept && (first || l.heap[0].seq != head) {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	return why, kept
}

// A fate is what a frame meets with on its way.
type fate struct {
	corrupt, reorder bool
	bit              int     // to invert
	spread           float64 // of the jitter, from -1 to 1
}

func (l *delayLine) draw(n int) fate {
	return fate{
		corrupt: l.chance(l.cfg.Corrupt),
		bit:     int(l.rng.Float64() * float64(n*8)),
		reorder: l.chance(l.cfg.Reorder),
		spread:  2*l.rng.Float64() - 1,
	}
}

func (l *delayLine) chance(p float64) bool { return l.rng.Float64() < p }

func (l *delayLine) put(pieces [][]byte, n int, now time.Duration, f fate) {
	buf := l.pool.get(n)
	at := 0
	for _, p := range pieces {
		at += copy(buf.b[at:n], p)
	}
	if f.corrupt {
		buf.b[f.bit/8] ^= 1 << (f.bit % 8)
	}
	due := l.send(now, n)
	if !f.reorder {
		due += l.cfg.Delay + time.Duration(f.spread*float64(l.cfg.Jitter))
	}
	l.seq++
	l.push(delayed{at: due, seq: l.seq, buf: buf, n: n})
}

// next returns the next frame whose time has come. Its buffer goes back to the pool
// afterwards.
func (l *delayLine) next() (delayed, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.heap) == 0 || l.heap[0].at > time.Since(l.start) {
		return delayed{}, false
	}
	return l.pop(), true
}

// wait returns when the time of a frame may have come, or done is closed.
func (l *delayLine) wait(done <-chan struct{}) {
	l.mu.Lock()
	if len(l.heap) > 0 {
		l.timer.Reset(l.heap[0].at - time.Since(l.start))
	}
	l.mu.Unlock()
	select {
	case <-l.wake:
	case <-l.timer.C:
	case <-done:
	}
	l.timer.Stop()
}

func (a *delayed) before(b *delayed) bool {
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

// push and pop keep a binary heap. Mostly a frame is due last of all, which push finds
// with one comparison.
func (l *delayLine) push(f delayed) {
	l.heap = append(l.heap, f)
	i := len(l.heap) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !f.before(&l.heap[up]) {
			break
		}
		l.heap[i], i = l.heap[up], up
	}
	l.heap[i] = f
}

func (l *delayLine) pop() delayed {
	top, n := l.heap[0], len(l.heap)-1
	f := l.heap[n]
	l.heap[n] = delayed{}
	l.heap = l.heap[:n]
	if n == 0 {
		return top
	}
	i := 0
	for {
		down := 2*i + 1
		if down >= n {
			break
		}
		if down+1 < n && l.heap[down+1].before(&l.heap[down]) {
			down++
		}
		if !l.heap[down].before(&f) {
			break
		}
		l.heap[i], i = l.heap[down], down
	}
	l.heap[i] = f
	return top
}
