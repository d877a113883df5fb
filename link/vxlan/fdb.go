package vxlan

import (
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what is learned (RFC 7348 section 4.1 says how, IEEE 802.1D-2004 table 7-5 for how long).
const (
	ageing      = 300 * time.Second
	maxStations = 8192 // for each remote
)

// An fdb tells behind which remote a station is. One remote needs none.
type fdb struct {
	used  bool
	begin time.Time
	mu    sync.RWMutex
	at    map[[6]byte]*station
	count []int // by remote
	swept time.Duration
}

type station struct {
	remote int32
	seen   atomic.Int64 // since begin, in ns
}

func (f *fdb) init(remotes int) {
	f.used = remotes > 1
	f.begin = time.Now()
	f.at = make(map[[6]byte]*station)
	f.count = make([]int, remotes)
}

// learn notes where a frame came from.
func (f *fdb) learn(mac [6]byte, remote int) {
	if !f.used || mac[0]&1 != 0 {
		return
	}
	now := time.Since(f.begin)
	f.mu.RLock()
	s := f.at[mac]
	f.mu.RUnlock()
	if s != nil && int(s.remote) == remote {
		s.seen.Store(int64(now))
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count[remote] >= maxStations {
		if now-f.swept < time.Second {
			return
		}
		f.sweep(now)
		if f.count[remote] >= maxStations {
			return
		}
	}
	if s = f.at[mac]; s != nil {
		f.count[s.remote]--
	}
	s = &station{remote: int32(remote)}
	s.seen.Store(int64(now))
	f.at[mac] = s
	f.count[remote]++
}

// sweep forgets the silent. mu is held.
func (f *fdb) sweep(now time.Duration) {
	f.swept = now
	for mac, s := range f.at {
		if now-time.Duration(s.seen.Load()) > ageing {
			f.count[s.remote]--
			delete(f.at, mac)
		}
	}
}

// lookup returns the remote of a station.
func (f *fdb) lookup(mac [6]byte) (remote int, ok bool) {
	if !f.used {
		return 0, true
	}
	if mac[0]&1 != 0 {
		return 0, false
	}
	f.mu.RLock()
	s := f.at[mac]
	f.mu.RUnlock()
	if s == nil || time.Since(f.begin)-time.Duration(s.seen.Load()) > ageing {
		return 0, false
	}
	return int(s.remote), true
}
