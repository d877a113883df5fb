package stack

import (
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// openConns are the connections that their owner has not closed, which netstack
// does not tell of a connection in FIN-WAIT-2.
type openConns struct {
	mu sync.Mutex
	m  map[tcpip.Endpoint]struct{}
}

func (o *openConns) add(ep tcpip.Endpoint) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.m == nil {
		o.m = make(map[tcpip.Endpoint]struct{})
	}
	o.m[ep] = struct{}{}
}

func (o *openConns) remove(ep tcpip.Endpoint) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.m, ep)
}

func (o *openConns) has(ep tcpip.Endpoint) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.m[ep]
	return ok
}
