package control

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ustack/ustack/link"
)

// holdTime is how long a held data descriptor stays open after a reset.
const holdTime = time.Second

// A pump moves the bytes of one connection between the stack and the unix stream
// socket of a program, and turns the ending of one into that of the other.
type pump struct {
	conn Conn
	ep   *endpoint
	with *company
	told observed
	// head holds bytes from the program that were read before the pump began.
	head []byte
	// hold keeps ep open after an error until release or holdTime.
	hold bool
	// failed is called once, at most, when the connection is over by an error; it
	// comes before ep closes.
	failed func(error)

	// linger0 makes the program's close a reset (SO_LINGER with time 0).
	linger0 atomic.Bool
	// moved is the time of the last byte in Unix nanoseconds.
	moved    atomic.Int64
	closing  atomic.Bool // drain, finish or kill was called, or the program has gone
	cut      atomic.Bool // the daemon ended it, nobody else
	peerDone atomic.Bool // the peer's end has reached the program
	failOnce sync.Once
	// err is what fail told. Nothing is read from the program after it, so that what it
	// writes then stays unread.
	err      atomic.Pointer[error]
	readMu   sync.Mutex // held while reading, and to set err
	released chan struct{}
	relOnce  sync.Once
}

func newPump(conn Conn, ep *endpoint, with *company) *pump {
	p := &pump{conn: conn, ep: ep, with: with, released: make(chan struct{})}
	p.touch()
	return p
}

func (p *pump) touch() int64 {
	now := time.Now().UnixNano()
	p.moved.Store(now)
	return now
}

// run returns when both directions have ended and both sides are closed.
func (p *pump) run() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.upstream()
	}()
	if err := p.downstream(); err != nil {
		p.fail(err)
		p.waitHold()
		p.conn.Abort()
		p.ep.Close()
	}
	<-done
	p.waitHold()
	p.conn.Close()
	p.ep.Close()
}

// fail tells of the error that ended the connection.
func (p *pump) fail(err error) {
	if p.closing.Load() {
		return
	}
	p.failOnce.Do(func() {
		p.readMu.Lock()
		p.err.Store(&err)
		p.readMu.Unlock()
		if p.failed != nil {
			p.failed(err)
		}
	})
}

func (p *pump) waitHold() {
	if !p.hold || p.err.Load() == nil {
		return
	}
	t := time.NewTimer(holdTime)
	defer t.Stop()
	select {
	case <-p.released:
	case <-t.C:
	}
}

// finish is drain for a program that did not ask for it.
func (p *pump) finish() {
	p.cut.Store(true)
	p.drain()
}

// drain lets what the program has written so far go out, then closes.
func (p *pump) drain() {
	p.closing.Store(true)
	p.relOnce.Do(func() { close(p.released) })
	p.ep.CloseRead() // upstream drains what is queued and finds the end; it wakes waitHUP too
}

// kill ends the connection at once: by a reset, or where graceful by a close that
// leaves delivery of what the stack has taken to the stack.
func (p *pump) kill(graceful bool) {
	p.cut.Store(true)
	p.closing.Store(true)
	p.relOnce.Do(func() { close(p.released) })
	if graceful {
		p.conn.Close()
	} else {
		p.conn.Abort()
	}
	p.ep.Close()
}

// upstream copies from the program to the stack.
func (p *pump) upstream() {
	if len(p.head) > 0 {
		p.told.stream(link.StepClientOut, p.conn, len(p.head))
		if _, err := p.conn.Write(p.head); err != nil {
			p.writeFailed(err)
			return
		}
		p.head = nil
	}
	for {
		// The buffer is taken when data is there, so that an idle connection holds none.
		var buf *[]byte
		n, err := p.ep.recv(func(fd int) (int, error) {
			p.readMu.Lock()
			defer p.readMu.Unlock()
			if p.err.Load() != nil {
				return 0, errFailed
			}
			if buf == nil {
				buf = buffers.Get().(*[]byte)
			}
			n, err := recvNow(fd, *buf)
			if err == syscall.EAGAIN {
				buffers.Put(buf)
				buf = nil
			}
			return n, err
		})
		var werr error
		if n > 0 {
			p.touch()
			p.told.stream(link.StepClientOut, p.conn, n)
			_, werr = p.conn.Write((*buf)[:n])
		}
		if buf != nil {
			buffers.Put(buf)
		}
		switch {
		case werr != nil:
			p.writeFailed(werr)
			return
		case err == errFailed:
			return
		case err != nil:
			// ECONNRESET: the program closed with data it had not read.
			p.gone(!errors.Is(err, net.ErrClosed))
			return
		case n == 0:
			p.programEnded()
			return
		}
	}
}

// errFailed ends upstream after fail.
var errFailed = errors.New("connection has failed")

// programEnded follows the program's half-close or close.
func (p *pump) programEnded() {
	if !p.ep.hup() && !p.closing.Load() {
		if err := p.conn.CloseWrite(); err != nil {
			p.writeFailed(err)
			return
		}
		if err := p.ep.waitHUP(p.closing.Load); err != nil {
			return // closed by downstream or kill
		}
	}
	p.gone(p.ep.socketError() == syscall.ECONNRESET)
}

// gone closes the connection after the program has closed its end.
func (p *pump) gone(unread bool) {
	p.closing.Store(true)
	if unread || p.linger0.Load() {
		p.conn.Abort()
	}
	p.conn.Close()
	p.ep.Close()
}

// writeFailed makes the program's writes fail while downstream may still have data
// that arrived before the error.
func (p *pump) writeFailed(err error) {
	p.fail(err)
	if !p.hold {
		p.ep.CloseRead()
		p.ep.discardAllButOne()
	}
}

// ending is why the connection ended, for the client, which must not take a daemon's end
// for the peer's; nil in good order.
func (p *pump) ending() error {
	if p.cut.Load() && !p.peerDone.Load() {
		return &remoteError{text: "the daemon cut the connection off", errno: syscall.ECONNABORTED}
	}
	return nil
}

func (p *pump) lastMoved() time.Time { return time.Unix(0, p.moved.Load()) }
