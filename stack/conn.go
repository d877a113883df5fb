package stack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A TCPConn is an established TCP connection: a net.Conn with what *net.TCPConn
// has besides.
type TCPConn struct {
	pollable
	conns         *conns
	local, remote netip.AddrPort
	account
	moderator

	readMu  sync.Mutex
	reader  tcpip.SliceWriter // where the current Read puts its bytes
	traffic traffic
	seen    readSeen
	relay   bool // WriteTo has been called

	writeMu sync.Mutex
	holder
	written int64 // bytes written so far
	refill  refill

	finished atomic.Bool // CloseWrite was called
}

var (
	_ net.Conn      = (*TCPConn)(nil)
	_ io.ReaderFrom = (*TCPConn)(nil)
	_ io.WriterTo   = (*TCPConn)(nil)
)

// newTCPConn returns the connection of an endpoint to remote. The endpoint cannot be asked for that any
// more where it has been reset already. fixed is the size of the receive buffer in bytes if the
// program has chosen it, else 0.
func newTCPConn(s *Stack, ep tcpip.Endpoint, wq *waiter.Queue, remote tcpip.FullAddress, fixed int64) (*TCPConn, error) {
	local, err := ep.GetLocalAddress()
	if err != nil {
		return nil, sysErr("getsockname", err)
	}
	c := &TCPConn{
		conns:  &s.conns,
		local:  fromFull(local, 0),
		remote: fromFull(remote, 0),
	}
	c.pollable.init(ep, wq, s.closed)
	c.pollable.account = &c.account
	recv := int64(firstReceive)
	if fixed > 0 {
		recv = fixed
		c.fixedRecv.Store(true)
	}
	send := int64(firstSend)
	if size := ep.SocketOptions().GetSendBufferSize(); size != int64(sendBuffers.Default) {
		send = size
		c.fixedSend.Store(true)
	}
	c.edge = firstReceive
	c.measureAt.Store(firstReceive / 4)
	s.mem.open(&c.account, c, recv, send)
	s.conns.opened(ep, c)
	return c, nil
}

// Keep-alive settings of new connections, as package net chooses them.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 9
)

// setDefaults gives a connection made by DialContext or Accept the options that
// package net gives one.
func (c *TCPConn) setDefaults() {
	c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true})
}

// LocalAddr returns a *net.TCPAddr.
func (c *TCPConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr returns a *net.TCPAddr.
func (c *TCPConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *TCPConn) opErr(op string, err error) error {
	return opErr(op, "tcp", c.LocalAddr(), c.RemoteAddr(), err)
}

// Read implements net.Conn. The error is io.EOF once the peer has closed its side.
func (c *TCPConn) Read(b []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	n, err := c.read(b)
	if err != nil && err != io.EOF {
		err = c.opErr("read", err)
	}
	return n, err
}

// read is Read with plain errors. readMu is held.
func (c *TCPConn) read(b []byte) (int, error) {
	if err := c.checkRead(); err != nil || len(b) == 0 {
		return 0, err
	}
	c.reader = b
	n, err := c.receive(&c.reader)
	c.reader = nil
	return n, err
}

// receive waits for data and passes it to dst, which ends it by io.ErrShortWrite
// when it has no more room. readMu is held.
func (c *TCPConn) receive(dst io.Writer) (int, error) {
	for {
		n, terr := c.take(dst)
		switch terr.(type) {
		case nil:
			c.moderate(n)
			return n, nil
		case *tcpip.ErrWouldBlock:
			c.unhold(false) // this may be what the peer waits for
			c.waiting.Store(true)
			err := c.waitRead()
			c.waiting.Store(false)
			if err != nil {
				return 0, err
			}
		default:
			return 0, c.ended(terr)
		}
	}
}

// take passes what is there to dst. It is no part of receive because its frame is
// large, and receive's is on the stack of every goroutine that waits.
//
//go:noinline
func (c *TCPConn) take(dst io.Writer) (int, tcpip.Error) {
	w := c.conns.observers.Watching()
	if w != nil {
		c.beginRead()
	}
	res, terr := c.ep.Read(dst, tcpip.ReadOptions{})
	if w != nil {
		c.endRead(w, res.Count)
	}
	return res.Count, terr
}

// ended translates the error of a read or write that will not work any more.
func (c *TCPConn) ended(terr tcpip.Error) error {
	if c.isClosed() {
		return net.ErrClosed
	}
	switch terr.(type) {
	case *tcpip.ErrClosedForReceive, *tcpip.ErrNotConnected:
		return io.EOF
	}
	return errno(terr)
}

// Write implements net.Conn. It returns once all of b is in the send buffer, or, among
// many writes that follow one another, held for the next of them, see holdFor.
func (c *TCPConn) Write(b []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	n, err := c.write(b)
	if err != nil {
		err = c.opErr("write", err)
	}
	return n, err
}

// write is Write with plain errors. writeMu is held.
func (c *TCPConn) write(b []byte) (int, error) {
	if err := c.checkWrite(); err != nil {
		return 0, err
	}
	c.observeWrite(len(b))
	done, many := 0, c.bulk.begin()
	if int64(len(b)) > c.send.Load() {
		c.growSend(len(b)) // so that it is not cut at what is there now
	}
	for done < len(b) {
		c.checkSend()
		n, terr := c.put(b[done:], many)
		done += n
		c.written += int64(n)
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			if c.growSend(len(b) - done) {
				continue
			}
			if err := c.awaitRoom(); err != nil {
				return done, err
			}
		default:
			if err := c.ended(terr); err != io.EOF {
				return done, err
			}
			return done, syscall.EPIPE
		}
	}
	c.payload = payload{}
	c.bulk.end(done)
	return done, nil
}

// CloseRead refuses what the peer still sends. See (*net.TCPConn).CloseRead.
func (c *TCPConn) CloseRead() error { return c.shutdown(tcpip.ShutdownRead) }

// CloseWrite sends FIN after what was written. See (*net.TCPConn).CloseWrite.
func (c *TCPConn) CloseWrite() error { return c.shutdown(tcpip.ShutdownWrite) }

func (c *TCPConn) shutdown(flags tcpip.ShutdownFlags) error {
	if c.isClosed() {
		return c.opErr("close", net.ErrClosed)
	}
	if flags&tcpip.ShutdownWrite != 0 {
		c.finished.Store(true)
		c.unhold(true)
	}
	if terr := c.ep.Shutdown(flags); terr != nil {
		return c.opErr("close", sysErr("shutdown", terr))
	}
	return nil
}

// Close gives the connection up. What was written is still delivered in the
// background, unless SetLinger says otherwise or received bytes were left unread:
// then the peer gets a reset, as from a kernel socket.
func (c *TCPConn) Close() error {
	if !c.release(func() { c.unhold(true); c.conns.close(c.ep); c.mem.close(&c.account, c.keeps()) }) {
		return c.opErr("close", net.ErrClosed)
	}
	return nil
}

// AwaitReset waits, after the end of what the peer sent, for an error that ends the other direction
// too, and returns it; a reset is EPIPE then, as on Linux. It returns nil once the
// connection is closed in good order.
func (c *TCPConn) AwaitReset() error {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for !c.isClosed() {
		switch tcp.EndpointState(c.ep.State()) {
		case tcp.StateError:
			err := error(syscall.ECONNRESET)
			if _, terr := c.take(io.Discard); terr != nil {
				if e := c.ended(terr); e != io.EOF {
					err = e
				}
			}
			return c.opErr("read", err)
		case tcp.StateClose:
			// Neither side has closed it in good order before this one has sent its end. Linux calls
			// that EPIPE (tcp_reset).
			if !c.finished.Load() && !c.isClosed() {
				return c.opErr("read", syscall.EPIPE)
			}
			return nil
		case tcp.StateTimeWait:
			return nil
		}
		if c.waitRead() != nil {
			return nil
		}
	}
	return nil
}

// Abort resets the connection (RFC 9293 section 3.10.5) and closes it.
func (c *TCPConn) Abort() {
	c.release(func() { c.conns.abort(c.ep); c.mem.close(&c.account, false) })
}

// keeps reports whether a closed connection may hold much that its peer has not
// acknowledged.
func (c *TCPConn) keeps() bool {
	return c.send.Load() > firstSend && delivering(c.ep.(*tcp.Endpoint))
}

// SetLinger sets what Close does with undelivered data; see
// (*net.TCPConn).SetLinger. 0 seconds resets the connection.
func (c *TCPConn) SetLinger(sec int) error {
	l := tcpip.LingerOption{Enabled: sec >= 0, Timeout: time.Duration(max(sec, 0)) * time.Second}
	return c.set(func(o *tcpip.SocketOptions) { o.SetLinger(l) })
}

// SetNoDelay turns Nagle's algorithm off (true, the default) or on.
func (c *TCPConn) SetNoDelay(noDelay bool) error {
	return c.set(func(o *tcpip.SocketOptions) { o.SetDelayOption(!noDelay) })
}

// SetKeepAlive turns keep-alive probes on or off.
func (c *TCPConn) SetKeepAlive(on bool) error {
	return c.set(func(o *tcpip.SocketOptions) { o.SetKeepAlive(on) })
}

// set changes options of a connection that is not closed.
func (c *TCPConn) set(f func(*tcpip.SocketOptions)) error {
	if c.isClosed() {
		return c.opErr("set", net.ErrClosed)
	}
	f(c.ep.SocketOptions())
	return nil
}

// SetKeepAlivePeriod sets the time before the first probe and between probes.
func (c *TCPConn) SetKeepAlivePeriod(d time.Duration) error {
	return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: d, Interval: d, Count: -1})
}

// SetKeepAliveConfig sets all of keep-alive; see net.KeepAliveConfig: zero values
// mean the defaults, negative ones leave a setting alone.
func (c *TCPConn) SetKeepAliveConfig(cfg net.KeepAliveConfig) error {
	var errs []error
	set := func(terr tcpip.Error) {
		if terr != nil {
			errs = append(errs, errno(terr))
		}
	}
	if cfg.Idle == 0 {
		cfg.Idle = keepAliveIdle
	}
	if cfg.Interval == 0 {
		cfg.Interval = keepAliveInterval
	}
	if cfg.Count == 0 {
		cfg.Count = keepAliveCount
	}
	if cfg.Idle > 0 {
		opt := tcpip.KeepaliveIdleOption(cfg.Idle)
		set(c.ep.SetSockOpt(&opt))
	}
	if cfg.Interval > 0 {
		opt := tcpip.KeepaliveIntervalOption(cfg.Interval)
		set(c.ep.SetSockOpt(&opt))
	}
	if cfg.Count > 0 {
		set(c.ep.SetSockOptInt(tcpip.KeepaliveCountOption, cfg.Count))
	}
	if err := c.set(func(o *tcpip.SocketOptions) { o.SetKeepAlive(cfg.Enable) }); err != nil {
		return err
	}
	if err := errors.Join(errs...); err != nil {
		return c.opErr("set", err)
	}
	return nil
}

// SetReadBuffer sets the size of the receive buffer in bytes, and ends its
// tuning to the path.
func (c *TCPConn) SetReadBuffer(bytes int) error { return c.SetOption("so.rcvbuf", bytes) }

// SetWriteBuffer sets the size of the send buffer in bytes.
func (c *TCPConn) SetWriteBuffer(bytes int) error { return c.SetOption("so.sndbuf", bytes) }
