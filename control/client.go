package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"
)

// A Client talks to a daemon. Its zero value uses the path that SocketPath
// finds. It is safe for concurrent use. Close it when done: what it opened shares
// one connection to the daemon, which stays until then.
type Client struct {
	// Path is the daemon's socket; "" stands for SocketPath("").
	Path string

	mu      sync.Mutex
	session *Session
	opening chan struct{} // closed when the attempt to open session is over
	closed  bool
}

// ErrNoDaemon is what errors.Is finds when no daemon listens at the Client's path.
var ErrNoDaemon = errors.New("no ustack daemon runs")

// A DaemonError says why the daemon could not be reached, and what to do, in one line.
type DaemonError struct {
	Path string
	Err  error
}

func (e *DaemonError) Error() string {
	switch {
	case errors.Is(e, ErrNoDaemon):
		return fmt.Sprintf("no ustack daemon at %s (%v): start one with: ustack up", e.Path, e.Err)
	case errors.Is(e.Err, fs.ErrPermission):
		return fmt.Sprintf("no permission for the daemon's socket %s: run this as its owner or with sudo, or start the daemon with --socket-group set to a group of yours", e.Path)
	case len(e.Path) > maxPath:
		return fmt.Sprintf("socket path %s is %d bytes long, and a unix socket's is at most %d", e.Path, len(e.Path), maxPath)
	}
	return fmt.Sprintf("ask the ustack daemon at %s: %v", e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *DaemonError) Unwrap() error { return e.Err }

// Is makes errors.Is find ErrNoDaemon where there is no socket or nobody behind it.
func (e *DaemonError) Is(target error) bool {
	return target == ErrNoDaemon &&
		(errors.Is(e.Err, fs.ErrNotExist) || errors.Is(e.Err, syscall.ECONNREFUSED) || errors.Is(e.Err, syscall.ENOTDIR))
}

func (c *Client) path() string {
	if c.Path != "" {
		return c.Path
	}
	return SocketPath("")
}

// connect opens a connection to the daemon.
func (c *Client) connect(ctx context.Context) (*net.UnixConn, error) {
	path := c.path()
	if len(path) > maxPath {
		return nil, &DaemonError{path, syscall.ENAMETOOLONG}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var errno syscall.Errno
		if errors.As(err, &errno) {
			err = errno
		}
		return nil, &DaemonError{path, err}
	}
	return conn.(*net.UnixConn), nil
}

// Status tells how the daemon is.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.do(ctx, "GET", "/v1/status", nil, &s)
}

// Links lists the network interfaces of the stack.
func (c *Client) Links(ctx context.Context) (v []Link, err error) {
	return v, c.do(ctx, "GET", "/v1/links", nil, &v)
}

// Addrs lists the addresses of the stack.
func (c *Client) Addrs(ctx context.Context) (v []Addr, err error) {
	return v, c.do(ctx, "GET", "/v1/addrs", nil, &v)
}

// Routes lists the routing table of the stack.
func (c *Client) Routes(ctx context.Context) (v []Route, err error) {
	return v, c.do(ctx, "GET", "/v1/routes", nil, &v)
}

// Neighbours lists the ARP and NDP tables of the stack.
func (c *Client) Neighbours(ctx context.Context) (v []Neighbour, err error) {
	return v, c.do(ctx, "GET", "/v1/neighbours", nil, &v)
}

// Sockets lists the sockets of the stack, with their owners.
func (c *Client) Sockets(ctx context.Context) (v []SocketInfo, err error) {
	return v, c.do(ctx, "GET", "/v1/sockets", nil, &v)
}

// Stats returns the counters of the stack.
func (c *Client) Stats(ctx context.Context) (s Stats, err error) {
	return s, c.do(ctx, "GET", "/v1/stats", nil, &s)
}

// AddAddr gives the stack an address.
func (c *Client) AddAddr(ctx context.Context, a netip.Prefix) error {
	return c.do(ctx, "POST", "/v1/addrs", addrBody{a}, nil)
}

// DelAddr takes an address from the stack.
func (c *Client) DelAddr(ctx context.Context, a netip.Prefix) error {
	return c.do(ctx, "DELETE", "/v1/addrs", addrBody{a}, nil)
}

// AddRoute adds a route; only Dst, Gateway and Link count.
func (c *Client) AddRoute(ctx context.Context, r Route) error {
	return c.do(ctx, "POST", "/v1/routes", r, nil)
}

// DelRoute removes a route.
func (c *Client) DelRoute(ctx context.Context, r Route) error {
	return c.do(ctx, "DELETE", "/v1/routes", r, nil)
}

// AddNeighbour adds a permanent entry to the ARP or NDP table.
func (c *Client) AddNeighbour(ctx context.Context, n Neighbour) error {
	return c.do(ctx, "POST", "/v1/neighbours", n, nil)
}

// DelNeighbour removes an entry of the ARP or NDP table.
func (c *Client) DelNeighbour(ctx context.Context, ip netip.Addr) error {
	return c.do(ctx, "DELETE", "/v1/neighbours", Neighbour{IP: ip}, nil)
}

// LookupNetIP resolves a name through the stack's DNS servers; network is "ip", "ip4" or
// "ip6". Its errors are *net.DNSError unless the daemon cannot be asked.
func (c *Client) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	var res resolved
	q := url.Values{"network": {network}, "name": {host}}
	if err := c.do(ctx, "GET", "/v1/resolve?"+q.Encode(), nil, &res); err != nil {
		return nil, err
	}
	return res.Addrs, nil
}

// do sends one request on a connection of its own and decodes the answer into out.
func (c *Client) do(ctx context.Context, method, target string, in, out any) error {
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	fail := func(err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return &DaemonError{c.path(), plainCause(err)}
	}
	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequest(method, "http://ustack"+target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return fail(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return fail(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return fail(err)
	}
	if res.StatusCode/100 != 2 {
		var w wireError
		if json.Unmarshal(answer, &w) != nil || w.err() == nil {
			return fail(fmt.Errorf("it answered %s", res.Status))
		}
		return w.err()
	}
	if out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			return fail(err)
		}
	}
	return nil
}

// Close ends what the client has open.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	s := c.session
	c.session = nil
	c.mu.Unlock()
	if s != nil {
		return s.Close()
	}
	return nil
}

// shared returns the session that all flows of the client share, and opens it when
// there is none or the last one has ended.
func (c *Client) shared(ctx context.Context) (*Session, error) {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, net.ErrClosed
		}
		if c.session != nil && c.session.Err() == nil {
			defer c.mu.Unlock()
			return c.session, nil
		}
		if wait := c.opening; wait != nil {
			c.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		wait := make(chan struct{})
		c.opening = wait
		old := c.session
		c.session = nil
		c.mu.Unlock()
		if old != nil {
			old.Close()
		}
		s, err := c.OpenSession(ctx)
		c.mu.Lock()
		c.opening = nil
		close(wait)
		if err == nil && !c.closed {
			c.session = s
			c.mu.Unlock()
			return s, nil
		}
		c.mu.Unlock()
		if err != nil {
			return nil, err
		}
		s.Close()
		return nil, net.ErrClosed
	}
}
