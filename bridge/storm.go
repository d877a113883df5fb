package bridge

import (
	"sync"
	"time"
)

// A bucket lets through so many frames a second, and a tenth of that at once.
type bucket struct {
	every time.Duration // for one frame
	burst time.Duration // what may be saved up

	mu   sync.Mutex
	next time.Time // when the bucket would be full but for what was taken
}

func newBucket(perSecond int) *bucket {
	every := max(time.Second/time.Duration(perSecond), 1)
	return &bucket{every: every, burst: max(time.Second/10, every)}
}

func (b *bucket) take() bool { return b.takeAt(time.Now()) }

func (b *bucket) takeAt(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next.Before(now) {
		b.next = now
	}
	if b.next.Sub(now)+b.every > b.burst {
		return false
	}
	b.next = b.next.Add(b.every)
	return true
}
