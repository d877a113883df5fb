package control

import (
	"context"
	"net"
	"sync"
	"syscall"
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
	starting bool // startStream is about to run, after the reply
	graceful bool // the client closed it in good order
	aborted  bool // the client aborted it
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
//
// A client may close the flow as soon as it has the reply, and so before this: what
// it wrote has to go out all the same.
func (f *flow) startStream(ep *endpoint) {
	f.mu.Lock()
	starting, closed, linger0 := f.starting, f.closed, f.linger0
	f.starting = false
	if f.pump != nil || closed && !starting {
		f.mu.Unlock()
		ep.Close()
		return
	}
	p := newPump(f.conn, ep, &f.s.srv.flows)
	p.told = f.s.cc.observed()
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
		if p.err.Load() != nil {
			return
		}
		f.mu.Lock()
		aborted := f.aborted
		f.mu.Unlock()
		why := p.ending()
		if aborted {
			why = nil // it was the client's wish, not the daemon's end
		}
		// Whoever holds an end open after a reset is not in a hurry to hear of a good end.
		f.s.out.send(Reply{Event: "ended", Flow: f.id, wireError: toWire(why)}, p.hold && why == nil)
	})
	switch {
	case !closed:
	case linger0:
		p.kill(false)
	default:
		p.drain()
	}
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
	busy, linger0, starting := f.busy, f.linger0, f.starting
	f.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	switch {
	case starting:
		return // startStream sees that it is closed
	case pump != nil:
		pump.drain()
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
	f.linger0, f.aborted = true, true
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
