package control

import (
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/ustack/ustack/link"
)

// downstream copies from the stack to the program. Its error is what ended the
// connection; nil when the peer half-closed or this side has closed.
func (p *pump) downstream() error {
	d := &downWriter{p: p, traffic: traffic{with: p.with}}
	d.try = d.send
	_, err := p.conn.WriteTo(d)
	if d.gone == nil {
		return p.downEnded(err)
	}
	// Data for a program that has closed is answered by a reset (RFC 9293 section 3.6.1,
	// RFC 1122 section 4.2.2.13).
	p.closing.Store(true)
	if !errors.Is(d.gone, net.ErrClosed) {
		p.conn.Abort()
	}
	return nil
}

func (p *pump) downEnded(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		p.peerDone.Store(true)
		p.ep.CloseWrite()
		if r, ok := p.conn.(Resettable); ok {
			if err := r.AwaitReset(); err != nil && !errors.Is(err, net.ErrClosed) && !p.closing.Load() {
				return err
			}
		}
		return nil
	}
	if p.closing.Load() {
		return nil
	}
	return err
}

// A downWriter writes to the program. Its errors mean that the program is gone.
type downWriter struct {
	p       *pump
	discard bool  // the program shut down its reading
	gone    error // why the program does not take any more
	traffic traffic

	try    func(fd int) error // send, bound once
	pieces [][]byte           // what it sends, and how much the socket took
	sent   int
}

var errProgramGone = errors.New("program has closed its end")

// Write writes all of b.
func (d *downWriter) Write(b []byte) (int, error) {
	d.traffic.step(d.p.ep, len(b), d.p.touch())
	if d.discard {
		return len(b), nil
	}
	n, err := d.p.ep.Write(b)
	d.p.told.stream(link.StepClientIn, d.p.conn, n)
	if err == nil {
		return n, nil
	}
	return d.refused(n, len(b), err)
}

// TryWrite writes as much of the pieces as there is room for. It does not use the
// connection.
func (d *downWriter) TryWrite(pieces [][]byte) (int, error) {
	size := 0
	for _, b := range pieces {
		size += len(b)
	}
	d.traffic.step(d.p.ep, size, d.p.touch())
	if d.discard {
		return size, nil
	}
	d.pieces, d.sent = pieces, 0
	err := d.p.ep.control(d.try)
	d.pieces = nil
	d.p.told.stream(link.StepClientIn, d.p.conn, d.sent)
	if err == nil || err == syscall.EAGAIN {
		return d.sent, nil
	}
	return d.refused(0, size, err)
}

func (d *downWriter) send(fd int) (err error) {
	d.sent, err = sendPieces(fd, d.pieces)
	return err
}

// WaitWrite waits for room.
func (d *downWriter) WaitWrite() error {
	if err := d.p.ep.waitRoom(); err != nil {
		d.gone = err
		return errProgramGone
	}
	return nil
}

// refused says what becomes of size bytes, of which the program took n.
func (d *downWriter) refused(n, size int, err error) (int, error) {
	if err == syscall.EPIPE && !d.p.ep.hup() {
		d.discard = true
		return size, nil
	}
	d.gone = err
	return n, errProgramGone
}
