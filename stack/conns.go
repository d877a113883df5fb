package stack

import (
	"sync"
	"weak"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// maxClosing bounds the connections that their owner has closed and that only
// wait, in TIME-WAIT or for the peer's FIN. Each costs some 20 kB for a minute, so
// without a bound a busy client grows with its rate; Linux has tcp_max_tw_buckets
// and tcp_max_orphans for it.
const maxClosing = 1024

// conns knows which connections their owner has not closed, which netstack does
// not tell of one in FIN-WAIT-2, and bounds those that were closed.
type conns struct {
	mu   sync.Mutex
	open map[tcpip.Endpoint]struct{}
	// closed holds the last maxClosing connections that were closed, oldest at
	// next. It keeps none of them alive.
	closed [maxClosing]weak.Pointer[tcp.Endpoint]
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
	ep.Close()
	if oldest := c.forget(ep); oldest != nil {
		switch oldest.EndpointState() {
		case tcp.StateTimeWait, tcp.StateFinWait2:
			oldest.Abort()
		}
	}
}

// abort resets a connection for its owner.
func (c *conns) abort(ep tcpip.Endpoint) {
	c.mu.Lock()
	delete(c.open, ep)
	c.mu.Unlock()
	ep.Abort()
}

// forget moves a connection from those that are open to those that are closed and
// returns the one that has to make room for it, or nil.
func (c *conns) forget(ep tcpip.Endpoint) *tcp.Endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, ep)
	e, ok := ep.(*tcp.Endpoint)
	if !ok {
		return nil
	}
	oldest := c.closed[c.next].Value()
	c.closed[c.next] = weak.Make(e)
	c.next = (c.next + 1) % maxClosing
	return oldest
}
