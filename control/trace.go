package control

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
)

const tracePath = "/v1/trace"

// TraceOptions say which frames to follow; the zero value is every one without end.
type TraceOptions struct {
	// Filter is an expression as package capture/filter takes it.
	Filter string
	// Count ends the trace after so many frames, unless it is 0.
	Count int
}

// An OwnerFunc says who holds a socket of the stack, such as "pid 1234 (curl)", or "".
type OwnerFunc func(network string, local, remote netip.AddrPort) string

// A Tracer is a Backend whose frames can be followed.
type Tracer interface {
	// Trace writes the steps of frames to w, one JSON object a line, until ctx is done, as many
	// frames have ended as o.Count says, or w fails. It begins to write at once, unless it
	// returns an error instead.
	Trace(ctx context.Context, o TraceOptions, owner OwnerFunc, w io.Writer) error
}

func (o *TraceOptions) query() url.Values {
	q := url.Values{}
	if o.Filter != "" {
		q.Set("filter", o.Filter)
	}
	if o.Count != 0 {
		q.Set("count", strconv.Itoa(o.Count))
	}
	return q
}

// traceOptions is the inverse of query, and strict.
func traceOptions(q url.Values) (o TraceOptions, err error) {
	for name, values := range q {
		value := values[len(values)-1]
		switch name {
		case "filter":
			o.Filter = value
		case "count":
			if o.Count, err = strconv.Atoi(value); err != nil || o.Count < 0 {
				return o, invalid(fmt.Sprintf("%s: count %q is not a number of frames", tracePath, value))
			}
		default:
			return o, invalid(fmt.Sprintf("%s takes no %q: use filter or count", tracePath, name))
		}
	}
	return o, nil
}

// trace answers GET /v1/trace until the client half-closes.
func (cc *clientConn) trace(req *http.Request, br *bufio.Reader) error {
	return cc.answerStream(br, "application/x-ndjson", func(ctx context.Context, w io.Writer) error {
		tracer, ok := cc.srv.cfg.Backend.(Tracer)
		if !ok {
			return &remoteError{text: "this daemon follows no frames", errno: syscall.EOPNOTSUPP}
		}
		o, err := traceOptions(req.URL.Query())
		if err != nil {
			return err
		}
		return tracer.Trace(ctx, o, cc.srv.ownerOf, w)
	})
}

// ownerOf is an OwnerFunc.
func (s *Server) ownerOf(network string, local, remote netip.AddrPort) string {
	port := strconv.Itoa(int(local.Port()))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range []ownerKey{
		newOwnerKey(network, local.String(), remote.String()),
		newOwnerKey(network, local.String(), ""),
		newOwnerKey(network, "*:"+port, ""),
	} {
		if who, ok := s.owners[k]; ok {
			return who
		}
	}
	return ""
}

// Trace begins to follow frames: JSON objects, one a line. What cannot be done is told here; ctx is
// for the beginning only. The stream must be closed.
func (c *Client) Trace(ctx context.Context, o TraceOptions) (*Stream, error) {
	return c.openStream(ctx, tracePath+"?"+o.query().Encode())
}
