package stack

import (
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/ustack/ustack/link"
)

// Bounds on the connections that their owner has closed. One in TIME-WAIT costs
// some 20 kB for a minute, so without a bound a busy client grows with its rate;
// one that still delivers costs its send buffer. Linux has tcp_max_tw_buckets and
// tcp_max_orphans.
const (
	maxTimeWait = 1024
	maxOrphans  = 8192
)

// timeWait is how long a connection stays in TIME-WAIT where their number allows
// it, as in Linux (TCP_TIMEWAIT_LEN).
const timeWait = 60 * time.Second

// orphanTimeout is how long a connection that its owner has closed may go on
// without its peer acknowledging anything; Linux gives up after about as long
// (tcp_orphan_retries).
const orphanTimeout = 100 * time.Second

// conns knows which connections their owner has not closed, which netstack does
// not tell of one in FIN-WAIT-2, and bounds those that were closed.
type conns struct {
	company   company
	observers *link.Observers
	mu        sync.Mutex
	open      map[tcpip.Endpoint]*TCPConn
	// deep writes for the connections once there are manyConns, unless ended.
	deep  atomic.Pointer[deepWriter]
	ended bool
	// closed holds the last maxOrphans connections that were closed, oldest at
	// next. It keeps none of them alive.
	closed [maxOrphans]weak.Pointer[tcp.Endpoint]
	next   int
	// when holds the times at which the last maxTimeWait of closed were.
	when [maxTimeWait]time.Time
	// waits is what setTimeWait was told last; 0 stands for timeWait.
	waits time.Duration
	// setTimeWait sets how long connections stay in TIME-WAIT that come there from
	// now on; nil does not.
	setTimeWait func(time.Duration)
}

// opened enters a connection that has an owner now.
func (c *conns) opened(ep tcpip.Endpoint, conn *TCPConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = make(map[tcpip.Endpoint]*TCPConn)
	}
	c.open[ep] = conn
	if len(c.open) == manyConns && c.deep.Load() == nil && !c.ended {
		c.deep.Store(newDeepWriter())
	}
}

// end waits for the goroutines that write for connections.
func (c *conns) end() {
	c.mu.Lock()
	c.ended = true
	deep := c.deep.Swap(nil)
	c.mu.Unlock()
	if deep != nil {
		deep.close()
	}
}

// isOpen reports whether the connection's owner has not closed it.
func (c *conns) isOpen(ep tcpip.Endpoint) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.open[ep]
	return ok
}

// close closes a connection for its owner.
func (c *conns) close(ep tcpip.Endpoint) {
	limit := tcpip.TCPUserTimeoutOption(orphanTimeout)
	ep.SetSockOpt(&limit) // cannot fail for a TCP endpoint
	ep.Close()
	old, oldest := c.forget(ep)
	if old != nil && old.EndpointState() == tcp.StateTimeWait {
		old.Abort()
	}
	if oldest == nil {
		return
	}
	switch oldest.EndpointState() {
	case tcp.StateFinWait1, tcp.StateFinWait2, tcp.StateClosing, tcp.StateLastAck, tcp.StateTimeWait:
		oldest.Abort()
	}
}

// abort resets a connection for its owner.
func (c *conns) abort(ep tcpip.Endpoint) {
	c.mu.Lock()
	delete(c.open, ep)
	c.mu.Unlock()
	ep.Abort()
}

// forget moves a connection from those that are open to those that are closed. It
// returns those that were closed maxTimeWait and maxOrphans connections before it,
// nil where there is none any more.
func (c *conns) forget(ep tcpip.Endpoint) (old, oldest *tcp.Endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, ep)
	e, ok := ep.(*tcp.Endpoint)
	if !ok {
		return nil, nil
	}
	old = c.closed[(c.next+maxOrphans-maxTimeWait)%maxOrphans].Value()
	oldest = c.closed[c.next].Value()
	c.pace(time.Now())
	c.closed[c.next] = weak.Make(e)
	c.next = (c.next + 1) % maxOrphans
	return old, oldest
}

// pace shortens TIME-WAIT while connections are closed so fast that more than
// maxTimeWait would be in it. Those that their timer ends, end in silence; ending
// one before its time costs a reset, which is a frame more for each connection. mu
// is held.
func (c *conns) pace(now time.Time) {
	last := &c.when[c.next%maxTimeWait]
	waits := timeWait
	if since := now.Sub(*last); since < timeWait {
		waits = since / 2 // the rate is not even
	}
	*last = now
	if c.waits == 0 {
		c.waits = timeWait
	}
	if d := (waits - c.waits).Abs(); d <= c.waits/8 && (waits < timeWait || d == 0) {
		return
	}
	c.waits = waits
	if c.setTimeWait != nil {
		c.setTimeWait(waits)
	}
}

// setTimeWait sets how long the connections of this stack stay in TIME-WAIT.
func (s *Stack) setTimeWait(d time.Duration) {
	opt := tcpip.TCPTimeWaitTimeoutOption(d)
	s.ns.SetTransportProtocolOption(tcp.ProtocolNumber, &opt) // cannot fail
}
