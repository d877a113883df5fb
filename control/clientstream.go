package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// endWait bounds the wait for the daemon's word on why a data socket ended.
const endWait = 2 * time.Second

// A clientFlow is what the client's connections have in common.
type clientFlow struct {
	s    *Session
	id   uint64
	end  *flowEnd
	ep   *endpoint
	once sync.Once
	shut chan struct{} // closed by Close
}

func newClientFlow(s *Session, rep Reply, ep *endpoint) clientFlow {
	return clientFlow{s: s, id: rep.Flow, end: rep.end, ep: ep, shut: make(chan struct{})}
}

// SetOption sets a socket option by the name it has in protocol.md.
func (f *clientFlow) SetOption(name string, value int) error {
	_, err := f.call(Request{Op: "setopt", Name: name, Value: value})
	return optionError("set", name, err)
}

// Option reads a socket option by the name it has in protocol.md.
func (f *clientFlow) Option(name string) (int, error) {
	rep, err := f.call(Request{Op: "getopt", Name: name})
	return rep.Value, optionError("get", name, err)
}

func optionError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: op, Net: name, Err: err}
}

// call asks something about the flow; such answers wait for nothing but the daemon.
func (f *clientFlow) call(r Request) (Reply, error) {
	select {
	case <-f.shut:
		return Reply{}, net.ErrClosed
	default:
	}
	r.Flow = f.id
	return f.s.Call(context.Background(), r, -1)
}

// close ends the flow once; post says how.
func (f *clientFlow) close(post string) error {
	err := net.ErrClosed
	f.once.Do(func() {
		err = nil
		close(f.shut)
		f.ep.Close()
		select {
		case <-f.end.done: // the daemon knows
		default:
			f.s.Post(Request{Op: post, Flow: f.id})
		}
	})
	return err
}

// ended waits for the daemon's word on how the flow ended; ok is false if there is none.
func (f *clientFlow) ended() (err error, ok bool) {
	select {
	case <-f.end.done:
		return f.end.err, true
	default:
	}
	t := time.NewTimer(endWait)
	defer t.Stop()
	select {
	case <-f.end.done:
		return f.end.err, true
	case <-f.shut:
		return net.ErrClosed, true
	case <-t.C:
		return nil, false
	}
}

// A StreamConn is a TCP connection of the stack. Its data goes through a unix
// socket straight to the daemon. It implements Conn.
type StreamConn struct {
	clientFlow
	local, remote *net.TCPAddr
	readClosed    atomic.Bool
	writeClosed   atomic.Bool
	linger0       atomic.Bool
}

var _ Conn = (*StreamConn)(nil)

func newStreamConn(s *Session, rep Reply, ep *endpoint) *StreamConn {
	return &StreamConn{clientFlow: newClientFlow(s, rep, ep), local: tcpAddr(rep.Local), remote: tcpAddr(rep.Remote)}
}

func tcpAddr(s string) *net.TCPAddr {
	ap, _ := netip.ParseAddrPort(s)
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
}

// LocalAddr returns the stack's address, a *net.TCPAddr.
func (c *StreamConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the peer's address, a *net.TCPAddr.
func (c *StreamConn) RemoteAddr() net.Addr { return c.remote }

func (c *StreamConn) opError(op string, err error) error {
	var errno syscall.Errno
	if e, ok := err.(syscall.Errno); ok {
		errno = e
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// Read implements net.Conn. A reset by the peer is syscall.ECONNRESET.
func (c *StreamConn) Read(b []byte) (int, error) {
	n, err := c.ep.Read(b)
	if err == nil {
		return n, nil
	}
	return n, c.readError(err)
}

func (c *StreamConn) readError(err error) error {
	switch {
	case err == io.EOF:
		// A half-close of the peer leaves the socket half open. If it is closed, the daemon
		// has said why.
		if c.readClosed.Load() || !c.ep.hup() {
			return io.EOF
		}
		why, ok := c.ended()
		if ok && why == nil {
			return io.EOF
		}
		if !ok {
			why = syscall.ECONNRESET
		}
		return c.opError("read", why)
	case err == syscall.ECONNRESET:
		if why, ok := c.ended(); ok && why != nil {
			err = why
		}
	}
	return c.opError("read", err)
}

// Write implements net.Conn.
func (c *StreamConn) Write(b []byte) (int, error) {
	n, err := c.ep.Write(b)
	if err == nil {
		return n, nil
	}
	if (err == syscall.EPIPE || err == syscall.ECONNRESET) && !c.writeClosed.Load() {
		if why, ok := c.ended(); ok && why != nil {
			err = why
		}
	}
	return n, c.opError("write", err)
}

// ReadFrom implements io.ReaderFrom with large steps.
func (c *StreamConn) ReadFrom(r io.Reader) (int64, error) {
	return copyLarge(c.Write, r.Read)
}

// WriteTo implements io.WriterTo with large steps.
func (c *StreamConn) WriteTo(w io.Writer) (int64, error) {
	return copyLarge(w.Write, c.Read)
}

func copyLarge(write, read func([]byte) (int, error)) (total int64, err error) {
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	for {
		n, rerr := read(*p)
		if n > 0 {
			m, werr := write((*p)[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if rerr == io.EOF {
			return total, nil
		}
		if rerr != nil {
			return total, rerr
		}
	}
}

// Close closes the connection; what was written is delivered still. Unread data, or
// SetLinger(0), makes it a reset.
func (c *StreamConn) Close() error {
	op := "close"
	if c.linger0.Load() {
		op = "abort"
	}
	if err := c.close(op); err != nil {
		return c.opError("close", err)
	}
	return nil
}

// Abort resets the connection.
func (c *StreamConn) Abort() {
	ctx, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	select {
	case <-c.shut:
	default:
		// The daemon must hear of it before it sees the end of the data.
		_, _ = c.s.Call(ctx, Request{Op: "abort", Flow: c.id}, -1)
	}
	_ = c.close("abort")
}

// CloseRead shuts down reading; what still arrives is discarded.
func (c *StreamConn) CloseRead() error {
	c.readClosed.Store(true)
	if err := c.ep.CloseRead(); err != nil {
		return c.opError("close", err)
	}
	return nil
}

// CloseWrite shuts down writing: the peer reads to the end.
func (c *StreamConn) CloseWrite() error {
	c.writeClosed.Store(true)
	if err := c.ep.CloseWrite(); err != nil {
		return c.opError("close", err)
	}
	return nil
}

// SetDeadline implements net.Conn.
func (c *StreamConn) SetDeadline(t time.Time) error { return c.deadline(c.ep.SetDeadline(t)) }

// SetReadDeadline implements net.Conn.
func (c *StreamConn) SetReadDeadline(t time.Time) error { return c.deadline(c.ep.SetReadDeadline(t)) }

// SetWriteDeadline implements net.Conn.
func (c *StreamConn) SetWriteDeadline(t time.Time) error { return c.deadline(c.ep.SetWriteDeadline(t)) }

func (c *StreamConn) deadline(err error) error {
	if err == nil {
		return nil
	}
	return c.opError("set", rawError(err))
}

// SetLinger is (*net.TCPConn).SetLinger; 0 makes Close a reset.
func (c *StreamConn) SetLinger(sec int) error {
	if err := c.SetOption("so.linger", max(sec, -1)); err != nil {
		return err
	}
	c.linger0.Store(sec == 0)
	return nil
}

// SetNoDelay is (*net.TCPConn).SetNoDelay. It is on from the start.
func (c *StreamConn) SetNoDelay(on bool) error { return c.SetOption("tcp.nodelay", flag(on)) }

// SetKeepAlive is (*net.TCPConn).SetKeepAlive.
func (c *StreamConn) SetKeepAlive(on bool) error { return c.SetOption("so.keepalive", flag(on)) }

// SetKeepAlivePeriod is (*net.TCPConn).SetKeepAlivePeriod.
func (c *StreamConn) SetKeepAlivePeriod(d time.Duration) error {
	return errors.Join(c.SetOption("tcp.keepidle", seconds(d)), c.SetOption("tcp.keepintvl", seconds(d)))
}

// SetKeepAliveConfig is (*net.TCPConn).SetKeepAliveConfig; a zero value means 15 s or 9
// probes and a negative one leaves the setting alone.
func (c *StreamConn) SetKeepAliveConfig(k net.KeepAliveConfig) error {
	if err := c.SetKeepAlive(k.Enable); err != nil || !k.Enable {
		return err
	}
	const idle, count = 15 * time.Second, 9
	set := func(name string, v, zero int) error {
		if v == 0 {
			v = zero
		}
		if v < 0 {
			return nil
		}
		return c.SetOption(name, v)
	}
	return errors.Join(
		set("tcp.keepidle", seconds(k.Idle), seconds(idle)),
		set("tcp.keepintvl", seconds(k.Interval), seconds(idle)),
		set("tcp.keepcnt", k.Count, count))
}

// seconds rounds up to whole seconds.
func seconds(d time.Duration) int {
	if d < 0 {
		return -1
	}
	return int((d + time.Second - 1) / time.Second)
}

func flag(on bool) int {
	if on {
		return 1
	}
	return 0
}
