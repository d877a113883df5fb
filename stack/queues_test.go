package stack_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/tap"
	"github.com/ustack/ustack/stack"
)

// A watched Device knows which TCP flow used which of its queues.
type watched struct {
	link.Device
	queues []link.Queue

	mu    sync.Mutex
	on    bool                   // frames count
	flows map[string]map[int]int // "rx" or "tx", addresses and ports → queue → frames
}

func watch(dev link.Device) *watched {
	w := &watched{Device: dev, flows: make(map[string]map[int]int)}
	for i, q := range dev.Queues() {
		w.queues = append(w.queues, &watchedQueue{q, w, i})
	}
	return w
}

func (w *watched) Queues() []link.Queue { return w.queues }

// start begins to count.
func (w *watched) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = true
}

// saw counts a frame if it is plain TCP.
func (w *watched) saw(dir string, queue int, f []byte) {
	var key string
	switch {
	case len(f) >= 38 && f[12] == 0x08 && f[13] == 0x00 && f[14] == 0x45 && f[23] == 6:
		key = fmt.Sprintf("%s %x", dir, f[26:38])
	case len(f) >= 58 && f[12] == 0x86 && f[13] == 0xdd && f[20] == 6:
		key = fmt.Sprintf("%s %x", dir, f[22:58])
	default:
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.on {
		return
	}
	if w.flows[key] == nil {
		w.flows[key] = make(map[int]int)
	}
	w.flows[key][queue]++
}

// check wants that many flows, one direction each, that kept their queues; together
// they used all.
func (w *watched) check(t *testing.T, flows int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.flows) != flows {
		t.Errorf("%d flows seen, want %d", len(w.flows), flows)
	}
	used := make(map[string]bool)
	for key, queues := range w.flows {
		if len(queues) != 1 {
			t.Errorf("%s used several queues: %v", key, queues)
		}
		for q := range queues {
			used[fmt.Sprint(key[:2], q)] = true
		}
	}
	if want := 2 * len(w.queues); len(used) != want {
		t.Errorf("queues used: %v, want %d", used, want)
	}
}

type watchedQueue struct {
	link.Queue
	w  *watched
	at int
}

func (q *watchedQueue) Read(frames []link.Frame) (int, error) {
	n, err := q.Queue.Read(frames)
	for i := range max(n, 0) {
		q.w.saw("rx", q.at, frames[i].Buf[:frames[i].N])
	}
	return n, err
}

func (q *watchedQueue) Write(frames []link.OutFrame) (int, error) {
	for i := range frames {
		var head []byte
		for _, p := range frames[i].Pieces {
			head = append(head, p[:min(len(p), 58)]...)
		}
		q.w.saw("tx", q.at, head)
	}
	return q.Queue.Write(frames)
}

// queueFlows are enough for all to be on one of two queues once in 2^15 runs: the
// queue of a flow is netstack's random choice.
const queueFlows = 16

// manyFlows makes connections both ways between a stack on a tap of two queues and the
// kernel, on which bytes have gone both ways.
func manyFlows(t *testing.T) (w *watched, s *stack.Stack, ours, theirs []net.Conn) {
	t.Helper()
	netlab.Require(t)
	ns := netlab.New(t, "host")
	w = watch(openTap(t, ns, tap.Config{Name: "tap0", Queues: 2}))
	ns.Up(t, "tap0")
	ns.Addr(t, "tap0", "10.0.0.5/24")
	ns.Addr(t, "tap0", "fd00::5/64")
	s, err := stack.New(stack.Config{Device: w, Addrs: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.4/24"), netip.MustParsePrefix("fd00::4/64"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	kernel := listenIn(t, ns, "[fd00::5]:0")
	defer kernel.Close()
	accepting, err := s.Listen("tcp", "10.0.0.4:0")
	if err != nil {
		t.Fatal(err)
	}
	defer accepting.Close()
	for i := range queueFlows {
		l, dial := accepting, func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			ns.Do(t, func() { c, err = new(net.Dialer).DialContext(ctx, network, addr) })
			return c, err
		}
		if i%2 == 0 {
			l, dial = kernel, s.DialContext
		}
		one, two, _, err := connectTo(l, dial)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 {
			one, two = two, one
		}
		ours, theirs = append(ours, one), append(theirs, two)
		// The kernel sends a flow to the queue on which it last received of it, once
		// it has (tun_flow_update in drivers/net/tun.c).
		for _, way := range [][2]net.Conn{{one, two}, {two, one}, {one, two}} {
			if err := transfer(way[0], way[1], 256<<10); err != nil {
				t.Fatal(err)
			}
		}
	}
	return w, s, ours, theirs
}

// A flow stays on one queue in each direction, and flows share the queues; what
// arrives is what was sent.
func TestFlowsKeepTheirQueues(t *testing.T) {
	w, _, ours, theirs := manyFlows(t)
	w.start()
	var all sync.WaitGroup
	for i := range ours {
		for _, way := range [][2]net.Conn{{ours[i], theirs[i]}, {theirs[i], ours[i]}} {
			all.Go(func() {
				if err := transfer(way[0], way[1], 1<<20); err != nil {
					t.Errorf("flow %d: %v", i, err)
				}
			})
		}
	}
	all.Wait()
	w.check(t, 2*queueFlows)
	for i := range ours {
		ours[i].Close()
		theirs[i].Close()
	}
}

// A stack that is closed while both queues are busy ends: connections with it, and,
// as TestMain checks, all that it started.
func TestCloseWithBusyQueues(t *testing.T) {
	_, s, ours, theirs := manyFlows(t)
	var all sync.WaitGroup
	busy := make(chan struct{}, 2*len(ours))
	for i := range ours {
		for _, c := range [][2]net.Conn{{ours[i], theirs[i]}, {theirs[i], ours[i]}} {
			all.Go(func() { // until the end
				block := make([]byte, 64<<10)
				for {
					if _, err := c[0].Write(block); err != nil {
						return
					}
				}
			})
			all.Go(func() {
				io.CopyN(io.Discard, c[1], 1)
				busy <- struct{}{}
				io.Copy(io.Discard, c[1])
			})
		}
	}
	for range cap(busy) {
		<-busy
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Errorf("Close: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Close hangs")
	}
	for i := range theirs { // whose resets may not have arrived
		theirs[i].Close()
	}
	all.Wait()
}
