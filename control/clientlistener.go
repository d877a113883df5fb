package control

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxAccepts is how many accept requests a listener has under way.
	maxAccepts = 64
	// maxAhead is how many of them no Accept waits for, and aheadTime how soon one
	// connection must follow another for that: then replies come together, and a
	// connection does not cost a round trip to the daemon.
	maxAhead  = 16
	aheadTime = 5 * time.Millisecond
)

// A StreamListener accepts TCP connections of the stack, as *StreamConns.
type StreamListener struct {
	s       *Session
	id      uint64
	addr    *net.TCPAddr
	network string
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	dl      deadline

	mu      sync.Mutex
	waiters int
	pending int       // requests under way and results not taken
	ahead   int       // how many requests there are to be at least
	last    time.Time // of the last connection
	closed  bool
	results chan acceptResult
	wg      sync.WaitGroup
}

type acceptResult struct {
	conn *StreamConn
	err  error
}

// Listen listens for TCP connections; network is "tcp", "tcp4" or "tcp6". The
// result is a *StreamListener.
func (c *Client) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	s, rep, _, err := c.open(ctx, Request{Op: "listen", Network: network, Address: address}, 0)
	if err != nil {
		return nil, netError("listen", network, address, err)
	}
	l := &StreamListener{s: s, id: rep.Flow, addr: tcpAddr(rep.Local), network: network, results: make(chan acceptResult, maxAccepts)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l, nil
}

// Addr returns the stack's address, a *net.TCPAddr.
func (l *StreamListener) Addr() net.Addr { return l.addr }

// SetDeadline sets the time at which Accept gives up; a zero time is never.
func (l *StreamListener) SetDeadline(t time.Time) error {
	l.dl.set(t)
	return nil
}

// Accept waits for a connection, a *StreamConn.
func (l *StreamListener) Accept() (net.Conn, error) {
	timeout := l.dl.passed()
	if isClosed(timeout) {
		return nil, l.opError(os.ErrDeadlineExceeded)
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, l.opError(net.ErrClosed)
	}
	l.waiters++
	l.fill()
	l.mu.Unlock()
	taken := 0
	defer func() {
		l.mu.Lock()
		l.waiters--
		l.pending -= taken
		if taken > 0 {
			l.pace(time.Now())
		}
		l.fill()
		l.mu.Unlock()
	}()
	select {
	case r := <-l.results:
		taken = 1
		closed := l.ctx.Err() != nil
		if r.err == nil && !closed {
			return r.conn, nil
		}
		if r.conn != nil {
			r.conn.Abort()
		}
		if closed {
			r.err = net.ErrClosed
		}
		return nil, l.opError(r.err)
	case <-l.ctx.Done():
		return nil, l.opError(net.ErrClosed)
	case <-timeout:
		return nil, l.opError(os.ErrDeadlineExceeded)
	}
}

// pace looks how fast connections are taken; one is at now. mu is held.
func (l *StreamListener) pace(now time.Time) {
	if now.Sub(l.last) < aheadTime {
		l.ahead = min(l.ahead+1, maxAhead)
	} else {
		l.ahead = 0
	}
	l.last = now
}

// fill has a request under way for each Accept, and more where connections come
// fast. A request outlives an Accept that ran
// into its deadline; the next one takes the result, so no connection is lost. mu is held.
func (l *StreamListener) fill() {
	for !l.closed && l.pending < min(max(l.waiters, l.ahead), maxAccepts) {
		l.pending++
		l.wg.Add(1)
		go l.request()
	}
}

func (l *StreamListener) request() {
	defer l.wg.Done()
	var r acceptResult
	ep, fd, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		r.err = err
	} else if rep, err := l.s.Call(l.ctx, Request{Op: "accept", Flow: l.id}, fd); err != nil {
		ep.Close()
		r.err = err
	} else {
		r.conn = newStreamConn(l.s, rep, ep)
	}
	l.results <- r // has room for every request
}

func (l *StreamListener) opError(err error) error {
	var daemon *DaemonError
	if errors.As(err, &daemon) {
		return err
	}
	return &net.OpError{Op: "accept", Net: l.network, Addr: l.addr, Err: err}
}

// Close stops listening. Connections that nobody accepted are reset.
func (l *StreamListener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return &net.OpError{Op: "close", Net: l.network, Addr: l.addr, Err: net.ErrClosed}
	}
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.dl.stop()
	// The address is free again when this returns.
	ctx, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	_, _ = l.s.Call(ctx, Request{Op: "close", Flow: l.id}, -1)
	l.wg.Wait()
	for {
		select {
		case r := <-l.results:
			if r.conn != nil {
				r.conn.Abort()
			}
		default:
			return nil
		}
	}
}

// SetOption sets a socket option of the listener.
func (l *StreamListener) SetOption(name string, value int) error {
	_, err := l.s.Call(l.ctx, Request{Op: "setopt", Flow: l.id, Name: name, Value: value}, -1)
	return optionError("set", name, err)
}

// Option reads a socket option of the listener.
func (l *StreamListener) Option(name string) (int, error) {
	rep, err := l.s.Call(l.ctx, Request{Op: "getopt", Flow: l.id, Name: name}, -1)
	return rep.Value, optionError("get", name, err)
}
