package control

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

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
	if r.Skip != 0 && ep == nil || r.Skip < 0 {
		return result{err: invalid("skip: takes a number of bytes and a descriptor")}
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
	res := f.started(ep)
	if start := res.then; r.Skip > 0 {
		res.then = func() {
			// What the program does as soon as it can write comes to the client behind the reply.
			s.out.sync()
			ep.skip(r.Skip)
			start()
		}
	}
	return res
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
		f.mu.Lock()
		f.starting = true
		f.mu.Unlock()
		res.then = func() { f.startStream(ep) }
	}
	return res
}

// dialConn connects, from the socket flow r names or anew, and returns the flow
// that the connection belongs to. A failed dial ends the socket flow.
func (s *session) dialConn(ctx context.Context, r Request) (*flow, Conn, error) {
	b := s.srv.cfg.Backend
	if r.Flow == 0 {
		conn, err := dialTCP(ctx, b, nil, r, s.using(r))
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
	conn, err := dialTCP(ctx, b, sock, r, s.using(r))
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

// accept answers an accept request, at once where a connection is there.
func (s *session) accept(r Request, fd int) {
	ep, err := streamEnd(fd)
	fail := func(err error) result {
		if ep != nil {
			ep.Close()
		}
		return result{err: err}
	}
	var l *flow
	if err == nil {
		l, err = s.flow(r.Flow)
	}
	if err != nil {
		s.finish(r, fail(err))
		return
	}
	l.mu.Lock()
	acc := l.acc
	l.mu.Unlock()
	if acc == nil {
		s.finish(r, fail(syscall.EINVAL))
		return
	}
	ctx, done, err := s.begin(r.ID)
	if err != nil {
		s.finish(r, fail(err))
		return
	}
	s.ops.Add(1)
	w := &acceptWait{}
	stop := context.AfterFunc(ctx, func() {
		if acc.forget(w) {
			defer s.ops.Done()
			done()
			s.finish(r, fail(ctx.Err()))
		}
	})
	w.then = func(conn Conn, err error) {
		defer s.ops.Done()
		stop()
		done() // the id is free when its reply is there
		if err != nil {
			s.finish(r, fail(err))
			return
		}
		f := &flow{network: "tcp", hold: r.Hold}
		if err := s.addFlow(f); err != nil {
			conn.Abort()
			s.finish(r, fail(err))
			return
		}
		if err := f.becomeStream(conn); err != nil {
			s.finish(r, fail(err))
			return
		}
		s.finish(r, f.started(ep))
	}
	acc.accept(w)
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
