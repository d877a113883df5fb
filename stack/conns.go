package stack

import (
	"sync"
	"time"
	"weak"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Bounds on the connections that their owner has closed. One in TIME-WAIT costs
// some 20 kB for a minute, so without a bound a busy client grows with its rate;
// one that still delivers costs its send buffer. Linux has tcp_max_tw_buckets and
// tcp_max_orphans.
const (
	maxTimeWait = 1024
	maxOrphans  = 8192
)

// orphanTimeout is how long a connection that its owner has closed may go on
// without its peer acknowledging anything; Linux gives up after about as long
// (tcp_orphan_retries).
const orphanTimeout = 100 * time.Second

// conns knows which connections their owner has not closed, which netstack does
// not tell of one in FIN-WAIT-2, and bounds those that were closed.
type conns struct {
	mu   sync.Mutex
	open map[tcpip.Endpoint]struct{}
	// closed holds the last maxOrphans connections that were closed, oldest at
	// next. It keeps none of them alive.
	closed [maxOrphans]weak.Pointer[tcp.Endpoint]
	next   int
}

// opened enters a connection that has an owner now.
func (c *conns) opened(ep tcpip.Endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = make(map[tcpip.Endpoint]struct{})
	}
	c.open[ep] = struct{}{}
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
	c.closed[c.next] = weak.Make(e)
	c.next = (c.next + 1) % maxOrphans
	return old, oldest
}
