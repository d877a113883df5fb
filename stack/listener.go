package stack

import (
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// DefaultBacklog is how many connections may wait to be accepted, as Linux's
// net.core.somaxconn.
const DefaultBacklog = 4096

// A TCPListener accepts connections. It is a net.Listener.
type TCPListener struct {
	pollable
	s        *Stack
	addr     *net.TCPAddr
	unlisten func() // gives the address free, see listeners
	acceptMu sync.Mutex
	// fixedRecv is the size in bytes of the connections' receive buffers if the program
	// has chosen it, else 0.
	fixedRecv int64
}

var _ net.Listener = (*TCPListener)(nil)

func newTCPListener(s *Stack, ep tcpip.Endpoint, wq *waiter.Queue, addr *net.TCPAddr) *TCPListener {
	l := &TCPListener{s: s, addr: addr}
	l.pollable.init(ep, wq, s.closed)
	return l
}

// Accept implements net.Listener.
func (l *TCPListener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AcceptTCP waits for the next connection. One that was reset meanwhile is a connection, too, whose
// reads fail with ECONNRESET behind the data that came before.
func (l *TCPListener) AcceptTCP() (*TCPConn, error) {
	l.acceptMu.Lock()
	defer l.acceptMu.Unlock()
	for {
		if c, err := l.tryAccept(); c != nil || err != nil {
			return c, err
		}
		if err := l.waitRead(); err != nil {
			return nil, opErr("accept", "tcp", nil, l.addr, err)
		}
	}
}

// TryAcceptTCP is AcceptTCP that does not wait: it returns nil and nil where no connection is there, or
// another goroutine waits for one.
func (l *TCPListener) TryAcceptTCP() (*TCPConn, error) {
	if !l.acceptMu.TryLock() {
		return nil, nil
	}
	defer l.acceptMu.Unlock()
	return l.tryAccept()
}

func (l *TCPListener) tryAccept() (*TCPConn, error) {
	if err := l.checkRead(); err != nil {
		return nil, opErr("accept", "tcp", nil, l.addr, err)
	}
	var from tcpip.FullAddress
	ep, wq, terr := l.ep.Accept(&from)
	switch terr.(type) {
	case nil:
		c, err := newTCPConn(l.s, ep, wq, from, l.fixedRecv)
		if err != nil {
			ep.Close()
			return nil, opErr("accept", "tcp", nil, l.addr, err)
		}
		c.setDefaults()
		return c, nil
	case *tcpip.ErrWouldBlock:
		return nil, nil
	}
	if l.isClosed() {
		return nil, opErr("accept", "tcp", nil, l.addr, net.ErrClosed)
	}
	return nil, opErr("accept", "tcp", nil, l.addr, sysErr("accept", terr))
}

// SetDeadline sets the deadline of Accept.
func (l *TCPListener) SetDeadline(t time.Time) error { return l.SetReadDeadline(t) }

// Addr returns the *net.TCPAddr it listens on.
func (l *TCPListener) Addr() net.Addr { return l.addr }

// Close stops listening. Connections that wait to be accepted are reset.
func (l *TCPListener) Close() error {
	if !l.release(func() { l.ep.Close(); l.unlisten() }) {
		return opErr("close", "tcp", nil, l.addr, net.ErrClosed)
	}
	return nil
}
