package stack

import (
	"io"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// copyBlock is how much ReadFrom and WriteTo move at once, in bytes: segments
// merge only what is written together.
const copyBlock = 256 << 10

var copyBlocks = sync.Pool{New: func() any { return new([copyBlock]byte) }}

// ReadFrom implements io.ReaderFrom: it writes all that r gives.
func (c *TCPConn) ReadFrom(r io.Reader) (int64, error) {
	block := copyBlocks.Get().(*[copyBlock]byte)
	defer copyBlocks.Put(block)
	var total int64
	for {
		n, rerr := r.Read(block[:])
		if n > 0 {
			w, err := c.Write(block[:n])
			total += int64(w)
			if err != nil {
				return total, err
			}
		}
		switch rerr {
		case nil:
		case io.EOF:
			return total, nil
		default:
			return total, rerr
		}
	}
}

// A blockWriter keeps what is written to it in a block that it takes when there is
// something to keep.
type blockWriter struct {
	block *[copyBlock]byte
	n     int
}

func (w *blockWriter) Write(b []byte) (int, error) {
	if w.block == nil {
		w.block = copyBlocks.Get().(*[copyBlock]byte)
	}
	n := copy(w.block[w.n:], b)
	w.n += n
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

func (w *blockWriter) release() {
	if w.block != nil {
		copyBlocks.Put(w.block)
	}
	*w = blockWriter{}
}

// A directWriter takes bytes where they lie. WriteTo passes what arrives straight from
// netstack's memory to a writer that is one.
type directWriter interface {
	// TryWrite writes as much of the pieces, in their order, as there is room for
	// without waiting, and returns how many bytes. It is called while the connection is
	// locked: it must not use it, and the pieces are valid until it returns.
	TryWrite(pieces [][]byte) (int, error)
	// WaitWrite returns when it is worth to try again.
	WaitWrite() error
}

// WriteTo implements io.WriterTo: it passes all that the peer sends to w, until
// the peer closes its side. It holds no memory while nothing arrives.
func (c *TCPConn) WriteTo(w io.Writer) (int64, error) {
	c.readMu.Lock()
	c.relay = true
	c.readMu.Unlock()
	direct, _ := w.(directWriter)
	var in blockWriter
	defer in.release()
	var total int64
	for {
		in.release()
		if direct != nil {
			n, err := c.passOn(direct)
			total += int64(n)
			if err != nil {
				return total, err
			}
			if n > 0 {
				continue
			}
		}
		if err := c.readBlock(&in); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, err
		}
		m, err := w.Write(in.block[:in.n])
		total += int64(m)
		if err != nil {
			return total, err
		}
		if m < in.n {
			return total, io.ErrShortWrite
		}
	}
}

// readBlock is Read into a block.
func (c *TCPConn) readBlock(in *blockWriter) error {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	err := c.checkRead()
	if err == nil {
		_, err = c.receive(in)
	}
	if err != nil && err != io.EOF {
		err = c.opErr("read", err)
	}
	return err
}

// passOn passes a turn of what is there to w, if it is in long pieces, and returns
// how many bytes w took: 0 where there is nothing like that. Its error is w's.
func (c *TCPConn) passOn(w directWriter) (int, error) {
	for {
		n, full, err := c.passTurn(w)
		if full {
			err = w.WaitWrite()
		}
		if n > 0 || err != nil || !full {
			return n, err
		}
	}
}

func (c *TCPConn) passTurn(w directWriter) (n int, full bool, err error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if c.checkRead() != nil {
		return 0, false, nil // for readBlock to say
	}
	queued, terr := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	if terr != nil || queued < longPiece {
		return 0, false, nil
	}
	g := gathers.Get().(*gather)
	defer g.release()
	g.w, g.turn = w, min(queued, copyBlock)
	c.ep.Read(g, tcpip.ReadOptions{Peek: true}) // what came of it is in g
	if g.sent > 0 {
		rest := consumed(g.sent)
		if w := c.conns.observers.Watching(); w != nil {
			c.beginRead()
			defer c.endRead(w, g.sent)
		}
		if _, terr := c.ep.Read(&rest, tcpip.ReadOptions{}); terr == nil {
			c.moderate(g.sent)
		}
	}
	return g.sent, g.full, g.err
}

// longPiece is the least length in bytes of a piece that is passed on where it lies;
// to copy shorter ones together costs less.
const longPiece = 8 << 10

// A gather collects the pieces that are at the front of a receive queue. While that is
// locked, for it may be emptied afterwards, it hands them to w: once it has turn bytes,
// or a piece comes that is not long.
type gather struct {
	w      directWriter
	turn   int
	pieces [][]byte
	size   int   // of pieces, in bytes
	done   bool  // w was asked
	sent   int   // bytes that w took
	full   bool  // it had no room for more
	err    error // its error
}

var gathers = sync.Pool{New: func() any { return &gather{pieces: make([][]byte, 0, 16)} }}

// Write implements io.Writer, for a Read that peeks.
func (g *gather) Write(b []byte) (int, error) {
	if g.done {
		return 0, io.ErrShortWrite
	}
	long := len(b) >= longPiece
	if long {
		g.pieces = append(g.pieces, b)
		g.size += len(b)
	}
	if !long || g.size >= g.turn || len(g.pieces) == cap(g.pieces) {
		g.done = true
		if g.size > 0 {
			g.sent, g.err = g.w.TryWrite(g.pieces)
			g.full = g.err == nil && g.sent < g.size
		}
		return 0, io.ErrShortWrite
	}
	return len(b), nil
}

// release forgets netstack's memory.
func (g *gather) release() {
	clear(g.pieces)
	*g = gather{pieces: g.pieces[:0]}
	gathers.Put(g)
}

// A consumed is how many bytes a Read has still to take that were passed on.
type consumed int

func (n *consumed) Write(b []byte) (int, error) {
	m := min(len(b), int(*n))
	*n -= consumed(m)
	if m < len(b) {
		return m, io.ErrShortWrite
	}
	return m, nil
}
