// Package trace follows frames: from the wire through the layers of the stack to the
// socket that gets their bytes, or to the place and the reason where they end, and back.
//
// Run watches a stack while it lasts. Every frame has a number and ends in exactly one
// way, see Record.End. netstack gives no reasons, so they are derived: the frames are handed
// to it one at a time, and what its counters, the sockets and the frames that it sends
// meanwhile tell is that frame's doing. Where they do not tell, the trace says so.
//
// Merge joins these steps with those of the kernel (package trace/kernel) in one order of
// time, and follows a frame across the kernel's devices by what its headers say. Printer
// writes one line a step.
package trace

import (
	"context"
	"net/netip"
	"time"

	"github.com/ustack/ustack/capture/filter"
	"github.com/ustack/ustack/link"
)

// A Stack is what a trace asks of a stack.
type Stack interface {
	// Observers is where the trace is added while it lasts.
	Observers() *link.Observers
	// Counters returns the names of what ReadCounters appends to dst, in its order.
	Counters() []string
	ReadCounters(dst []uint64) []uint64
	// Drops returns the counters of the wire's drops.
	Drops() map[string]uint64
	// TCPSocket returns the TCP socket that segments from remote to local are for, or the
	// listener where remote is the zero AddrPort.
	TCPSocket(local, remote netip.AddrPort) (TCPSocket, bool)
	// HasSocket reports whether there is a socket for packets from remote to local; network is
	// "tcp" or "udp".
	HasSocket(network string, local, remote netip.AddrPort) bool
	// DrainTCP waits until that socket has worked on what was queued for it, at most limit,
	// and reports whether it has.
	DrainTCP(local, remote netip.AddrPort, limit time.Duration) bool
}

// A TCPSocket is a TCP socket at one moment.
type TCPSocket struct {
	Local, Remote netip.AddrPort // Remote is the zero AddrPort of a listener's
	State         string         // as ss(8) writes it
	// Segments counts those taken for the socket, the others those that were not.
	Segments, Malformed, Checksum, QueueFull, SynOverflow, AckOverflow uint64
	// Arrived counts the peer's bytes that came in order.
	Arrived uint64
}

// A Config configures Run. Only Stack is required.
type Config struct {
	Stack Stack
	// Filter selects the frames; nil selects all.
	Filter *filter.Filter
	// Frames is how many are traced before Run returns; 0 is without end.
	Frames int
	// Owner says who holds a socket, such as "pid 1234 (curl)", or "". nil knows nobody.
	Owner func(network string, local, remote netip.AddrPort) string
}

const (
	// queueLen is how many records may wait for their reader.
	queueLen = 16 << 10
	// drainLimit is how long a segment may take to be worked on.
	drainLimit = 100 * time.Millisecond
	// The bounds of what is remembered.
	maxHeld    = 4096 // fragments
	maxPending = 64   // frames that were answered by what was not sent yet
	maxFlows   = 4096 // flows with something to be told of
	maxQueued  = 8192 // datagrams that were not read
	maxUntold  = 16   // datagrams of one flow between socket and program
)

// Run traces until ctx ends or Config.Frames frames have ended, and calls emit with each
// record, from one goroutine; more says that others wait already. An error of emit ends it, and is returned. Traffic does not
// wait for emit: what it is too slow for is lost and counted, see Record.Lost.
func Run(ctx context.Context, cfg Config, emit func(r *Record, more bool) error) error {
	t := newTracer(cfg)
	t.drops = cfg.Stack.Drops()
	remove := cfg.Stack.Observers().Add(t, true)
	err := t.pass(ctx, emit)
	remove()
	t.unseen(cfg.Stack.Drops())
	t.mu.Lock()
	t.abandon("the trace ended before it did")
	t.mu.Unlock()
	if err == nil {
		err = t.rest(emit)
	}
	return err
}

// pass hands records over until the trace ends.
func (t *tracer) pass(ctx context.Context, emit func(r *Record, more bool) error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case r := <-t.out:
			if err := emit(&r, len(t.out) > 0); err != nil {
				return err
			}
		case <-tick.C:
			t.unseen(t.cfg.Stack.Drops())
			t.mu.Lock()
			t.expire(time.Now())
			t.mu.Unlock()
		case <-t.full:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// rest hands over what is left, and tells of what was lost last.
func (t *tracer) rest(emit func(r *Record, more bool) error) error {
	for {
		select {
		case r := <-t.out:
			if err := emit(&r, len(t.out) > 0); err != nil {
				return err
			}
		default:
			if t.lost > 0 {
				return emit(&Record{Time: t.clock.of(time.Now()), Side: "user", Step: "lost", Lost: t.lost}, false)
			}
			return nil
		}
	}
}
