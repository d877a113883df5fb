package control

import (
	"slices"
	"strings"
	"sync/atomic"
)

// Counts are a Server's own figures since it was made.
type Counts struct {
	// Clients are the connections that are open, and Accepted those that ever were.
	Clients  int
	Accepted uint64
	// Flows are the data paths that are open.
	Flows int
	// Requests has every request there is, whether it came or not, in a fixed order.
	Requests []RequestCount
}

// A RequestCount is how often a request was answered.
type RequestCount struct {
	// Kind is "http", or "flow" for the requests of a flows connection.
	Kind string
	// Request is a path, CONNECT, or an operation of a flow; "other" for what is none.
	Request string
	// OK and Failed are the answers without and with an error.
	OK, Failed uint64
}

// otherRequest stands for all requests that the protocol does not know: clients do not
// make up names.
const otherRequest = "other"

// The requests of protocol.md, which a test reads.
var (
	httpRequests = [...]string{
		"CONNECT", metricsPath, "/v1/addrs", capturePath, "/v1/fdb", "/v1/flows", "/v1/links", "/v1/neighbours", "/v1/resolve", "/v1/routes",
		"/v1/sockets", "/v1/stats", "/v1/status", tracePath, otherRequest,
	}
	flowRequests = [...]string{
		"abort", "accept", "attach", "bind", "cancel", "close", "connect", "detach", "dial", "getopt", "icmp", "join",
		"leave", "listen", "local", "remote", "resolve", "send", "setopt", "shutdown", "socket", "udp", otherRequest,
	}
)

// requestCounts count by kind and name. The map does not change once it is made.
type requestCounts map[requestName]*requestCount

type requestName struct{ kind, name string }

type requestCount struct{ ok, failed atomic.Uint64 }

func newRequestCounts() requestCounts {
	c := make(requestCounts)
	for _, name := range httpRequests {
		c[requestName{"http", name}] = new(requestCount)
	}
	for _, name := range flowRequests {
		c[requestName{"flow", name}] = new(requestCount)
	}
	return c
}

// add counts one answer.
func (c requestCounts) add(kind, name string, err error) {
	n := c[requestName{kind, name}]
	if n == nil {
		n = c[requestName{kind, otherRequest}]
	}
	if err != nil {
		n.failed.Add(1)
	} else {
		n.ok.Add(1)
	}
}

// Counts returns the server's figures.
func (s *Server) Counts() Counts {
	c := Counts{Accepted: s.accepted.Load(), Flows: s.flowCount()}
	s.mu.Lock()
	c.Clients = len(s.conns)
	s.mu.Unlock()
	for name, n := range s.requests {
		c.Requests = append(c.Requests, RequestCount{Kind: name.kind, Request: name.name, OK: n.ok.Load(), Failed: n.failed.Load()})
	}
	slices.SortFunc(c.Requests, func(a, b RequestCount) int {
		if d := strings.Compare(a.Kind, b.Kind); d != 0 {
			return d
		}
		return strings.Compare(a.Request, b.Request)
	})
	return c
}
