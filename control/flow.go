package control

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A flow is one socket of the stack as a session holds it. It is, by what is set, a
// TCP socket before it is connected (sock), a listener (acc), a TCP connection
// (conn, and pump once it has its descriptor) or a datagram socket (pkt).
type flow struct {
	s       *session
	id      uint64
	network string
	hold    bool
	local   net.Addr
	remote  net.Addr

	mu       sync.Mutex
	sock     Socket
	busy     bool               // a dial uses sock
	cancel   context.CancelFunc // of that dial
	acc      *acceptor
	conn     Conn
	pump     *pump
	pkt      *packetPump
	linger0  bool
	graceful bool // the client closed it in good order
	closed   bool
	owner    *ownerKey
}

// options is what the flow's options are set on.
func (f *flow) options() (Options, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
	case f.conn != nil:
		return f.conn, nil
	case f.acc != nil:
		return f.acc.lis, nil
	case f.pkt != nil:
		return f.pkt.conn, nil
	case f.sock != nil:
		return f.sock, nil
	}
	return nil, syscall.EBADF
}

// setAddrs notes the addresses, and who owns the socket.
func (f *flow) setAddrs(local, remote net.Addr) {
	key := newOwnerKey(f.network, addrString(local), addrString(remote))
	f.mu.Lock()
	f.local, f.remote = local, remote
	old := f.owner
	f.owner = &key
	f.mu.Unlock()
	if old != nil {
		f.s.srv.dropOwner(*old)
	}
	f.s.srv.setOwner(key, f.s.cc.who)
}

func (f *flow) dropOwner() {
	f.mu.Lock()
	old := f.owner
	f.owner = nil
	f.mu.Unlock()
	if old != nil {
		f.s.srv.dropOwner(*old)
	}
}

func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// reply describes the flow.
func (f *flow) reply() Reply {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Reply{Flow: f.id, Local: addrString(f.local), Remote: addrString(f.remote)}
}

// becomeStream makes the flow a connection. It fails when the client closed the flow meanwhile.
func (f *flow) becomeStream(conn Conn) error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		conn.Abort()
		return syscall.ECANCELED
	}
	f.sock, f.cancel, f.busy, f.conn = nil, nil, false, conn
	f.mu.Unlock()
	f.setAddrs(conn.LocalAddr(), conn.RemoteAddr())
	return nil
}

// startStream begins to move data through ep.
func (f *flow) startStream(ep *endpoint) {
	f.mu.Lock()
	if f.closed || f.pump != nil {
		f.mu.Unlock()
		ep.Close()
		return
	}
	p := newPump(f.conn, ep)
	p.hold = f.hold
	p.linger0.Store(f.linger0)
	p.failed = func(err error) {
		f.s.send(Reply{Event: "ended", Flow: f.id, wireError: toWire(err)})
	}
	f.pump = p
	f.s.paths.Add(1)
	f.mu.Unlock()
	f.s.srv.startPath(p, p.run, func() {
		defer f.s.paths.Done()
		f.s.forget(f)
		if p.err.Load() == nil {
			f.s.send(Reply{Event: "ended", Flow: f.id})
		}
	})
}

// close ends the flow in good order: what the program has written goes out.
func (f *flow) close() {
	f.mu.Lock()
	f.graceful = true
	f.mu.Unlock()
	f.clientGone()
}

// clientGone ends the flow when nobody will use it any more.
func (f *flow) clientGone() {
	f.mu.Lock()
	f.closed = true
	sock, acc, conn, pump, pkt, cancel := f.sock, f.acc, f.conn, f.pump, f.pkt, f.cancel
	busy, linger0 := f.busy, f.linger0
	f.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	switch {
	case pump != nil:
		pump.finish()
		return // it forgets the flow
	case pkt != nil:
		if pkt.finish(); pkt.attached() {
			return
		}
	case conn != nil && linger0:
		conn.Abort()
	case conn != nil:
		conn.Close()
	case acc != nil:
		acc.close()
	case sock != nil && !busy:
		sock.Close()
	}
	if f.s.forget(f) {
		f.s.send(Reply{Event: "ended", Flow: f.id})
	}
}

// abort resets the flow's connection; other flows are closed.
func (f *flow) abort() {
	f.mu.Lock()
	f.linger0 = true
	pump := f.pump
	f.mu.Unlock()
	if pump != nil {
		f.mu.Lock()
		f.closed = true
		f.mu.Unlock()
		pump.kill(false)
		return
	}
	f.clientGone()
}

// kill ends the data path at once, except, unless all, that of a graceful close.
func (f *flow) kill(all bool) {
	f.mu.Lock()
	pump, pkt, graceful := f.pump, f.pkt, f.graceful
	f.mu.Unlock()
	if graceful && !all {
		return
	}
	if pump != nil {
		pump.kill(false)
	}
	if pkt != nil {
		pkt.kill(false)
	}
}

// streamEnd checks the descriptor of a stream flow; nil without one.
func streamEnd(fd int) (*endpoint, error) {
	if fd < 0 {
		return nil, nil
	}
	return endpointFromFD(fd, unix.SOCK_STREAM)
}

func (s *session) dial(ctx context.Context, r Request, fd int) result {
	ep, err := streamEnd(fd)
	if err != nil {
		return result{err: err}
	}
	f, conn, err := s.dialConn(ctx, r)
	if err == nil {
		err = f.becomeStream(conn)
	}
	if err == nil {
		err = s.ready(ctx, f)
	}
	if err != nil {
		if ep != nil {
			ep.Close()
		}
		return result{err: err}
	}
	return f.started(ep)
}

// ready refuses a flow that came up although its request had been cancelled.
func (s *session) ready(ctx context.Context, f *flow) error {
	if ctx.Err() == nil {
		return nil
	}
	f.abort()
	return syscall.ECANCELED
}

func (f *flow) started(ep *endpoint) result {
	res := result{reply: f.reply()}
	if ep != nil {
		res.then = func() { f.startStream(ep) }
	}
	return res
}

// dialConn connects, from the socket flow r names or anew, and returns the flow
// that the connection belongs to. A failed dial ends the socket flow.
func (s *session) dialConn(ctx context.Context, r Request) (*flow, Conn, error) {
	b := s.srv.cfg.Backend
	if r.Flow == 0 {
		conn, err := dialTCP(ctx, b, nil, r)
		if err != nil {
			return nil, nil, err
		}
		f := &flow{network: "tcp", hold: r.Hold}
		if v, ok := r.Options["so.linger"]; ok {
			f.linger0 = v == 0
		}
		if err := s.addFlow(f); err != nil {
			conn.Abort()
			return nil, nil, err
		}
		return f, conn, nil
	}
	f, err := s.flow(r.Flow)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sock, err := f.take(cancel)
	if err != nil {
		return nil, nil, err
	}
	f.hold = f.hold || r.Hold
	r.Network = f.network
	conn, err := dialTCP(ctx, b, sock, r)
	if err != nil {
		sock.Close()
		f.clientGone()
		return nil, nil, err
	}
	return f, conn, nil
}

// take claims the unconnected socket of a flow for one dial or listen.
func (f *flow) take(cancel context.CancelFunc) (Socket, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, syscall.EBADF
	case f.conn != nil:
		return nil, syscall.EISCONN
	case f.sock == nil:
		return nil, syscall.EOPNOTSUPP
	case f.busy:
		return nil, syscall.EALREADY
	}
	f.busy, f.cancel = true, cancel
	return f.sock, nil
}

func (s *session) bind(ctx context.Context, r Request, fd int) result {
	if fd >= 0 {
		closeFD(fd)
		return result{err: errNoDescriptor}
	}
	f, err := s.flow(r.Flow)
	if err != nil {
		return result{err: err}
	}
	sock, err := f.take(nil)
	if err != nil {
		return result{err: err}
	}
	err = func() error {
		all, err := locals(ctx, s.srv.cfg.Backend, "tcp", f.network[len("tcp"):], r.Local)
		if err != nil {
			return err
		}
		return sock.Bind(all[0])
	}()
	f.mu.Lock()
	f.busy = false
	closed := f.closed
	f.mu.Unlock()
	if closed {
		sock.Close()
		return result{err: syscall.EBADF}
	}
	if err != nil {
		return result{err: err}
	}
	f.setAddrs(net.TCPAddrFromAddrPort(sock.LocalAddr()), nil)
	return result{reply: f.reply()}
}

func (s *session) listen(ctx context.Context, r Request, fd int) result {
	if fd >= 0 {
		closeFD(fd)
		return result{err: errNoDescriptor}
	}
	var f *flow
	var sock Socket
	if r.Flow != 0 {
		var err error
		if f, err = s.flow(r.Flow); err == nil {
			sock, err = f.take(nil)
		}
		if err != nil {
			return result{err: err}
		}
	}
	lis, err := listenTCP(ctx, s.srv.cfg.Backend, sock, r)
	if err != nil {
		if f != nil {
			sock.Close()
			f.clientGone()
		}
		return result{err: err}
	}
	acc := &acceptor{lis: lis}
	if f == nil {
		f = &flow{network: "tcp"}
		err = s.addFlow(f)
	}
	if err == nil {
		f.mu.Lock()
		if f.closed {
			err = syscall.EBADF
		} else {
			f.sock, f.busy, f.acc = nil, false, acc
		}
		f.mu.Unlock()
	}
	if err != nil {
		acc.close()
		return result{err: err}
	}
	f.setAddrs(lis.Addr(), nil)
	if err := s.ready(ctx, f); err != nil {
		return result{err: err}
	}
	return result{reply: f.reply()}
}

func (s *session) accept(ctx context.Context, r Request, fd int) result {
	ep, err := streamEnd(fd)
	if err != nil {
		return result{err: err}
	}
	fail := func(err error) result {
		if ep != nil {
			ep.Close()
		}
		return result{err: err}
	}
	l, err := s.flow(r.Flow)
	if err != nil {
		return fail(err)
	}
	l.mu.Lock()
	acc := l.acc
	l.mu.Unlock()
	if acc == nil {
		return fail(syscall.EINVAL)
	}
	conn, err := acc.accept(ctx)
	if err != nil {
		return fail(err)
	}
	f := &flow{network: "tcp", hold: r.Hold}
	if err := s.addFlow(f); err != nil {
		conn.Abort()
		return fail(err)
	}
	if err := f.becomeStream(conn); err != nil {
		return fail(err)
	}
	return f.started(ep)
}

func (s *session) resolve(ctx context.Context, r Request, fd int) result {
	if fd >= 0 {
		closeFD(fd)
		return result{err: errNoDescriptor}
	}
	addrs, err := resolve(ctx, s.srv.cfg.Backend, r.Network, r.Address)
	return result{reply: Reply{Addrs: addrs}, err: err}
}

var errNoDescriptor = badDescriptor(syscall.EINVAL, "came with a message that takes none")

// udpAddrPort converts an address of a datagram.
func udpAddrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		ap := u.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
