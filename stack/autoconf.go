package stack

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ustack/ustack/link"
)

// autoconf is what happens to addresses by itself: duplicate address detection
// (dad.go), IPv6 autoconfiguration (slaac.go, ndp.go) and DHCP (dhcp.go).
type autoconf struct {
	s     *Stack
	slaac bool
	ipv6  bool // the link can carry IPv6; set before the first packet
	dhcp  atomic.Bool

	wg sync.WaitGroup
	// dadWindow is held while duplicate address detection is off, see addAddr6.
	dadWindow sync.Mutex

	mu      sync.Mutex
	stopped bool
	cancels map[int]context.CancelFunc // of the running goroutines
	next    int
	probing map[netip.Addr]chan net.HardwareAddr // addresses that are not ours yet
	ndp     ndpState
}

func newAutoconf(s *Stack, slaac bool) *autoconf {
	return &autoconf{
		s: s, slaac: slaac,
		cancels: make(map[int]context.CancelFunc),
		probing: make(map[netip.Addr]chan net.HardwareAddr),
		ndp:     newNDPState(),
	}
}

// setMTU says what the link carries, in bytes.
func (a *autoconf) setMTU(mtu int) { a.ipv6 = mtu >= link.MinMTU6 }

// start begins to check the static addresses; the interface is up.
func (a *autoconf) start(addrs []netip.Prefix) {
	a.spawn(a.applyNDP)
	if a.slaac {
		a.spawn(a.solicit)
	}
	for _, p := range addrs {
		a.check(p.Addr())
	}
}

// spawn runs f until it returns; its context ends with the stack. It reports
// whether the stack is still open.
func (a *autoconf) spawn(f func(context.Context)) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		return false
	}
	ctx, cancel := context.WithCancel(context.Background())
	id := a.next
	a.next++
	a.cancels[id] = cancel
	a.wg.Go(func() {
		defer func() {
			a.mu.Lock()
			delete(a.cancels, id)
			a.mu.Unlock()
			cancel()
		}()
		f(ctx)
	})
	return true
}

// stop ends what runs and waits for it.
func (a *autoconf) stop() {
	a.mu.Lock()
	a.stopped = true
	for _, cancel := range a.cancels {
		cancel()
	}
	a.mu.Unlock()
	a.wg.Wait()
}

// stateOf returns the state of an address if something is known of it.
func (a *autoconf) stateOf(ip netip.Addr) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ndp.addrs[ip].state
}

// sleep returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	return sleepUntil(ctx, time.Now().Add(d)) == nil
}
