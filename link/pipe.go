package link

import (
	"bytes"
	"fmt"
	"net"
	"sync"
)

// Defaults of PipeConfig.
const (
	// DefaultMTU is the payload of an ordinary Ethernet frame in bytes (RFC 894).
	DefaultMTU = 1500
	// DefaultPipeDepth is the number of frames that each direction of each queue
	// of a pipe holds.
	DefaultPipeDepth = 512
)

// A PipeConfig describes a Pipe. The zero value is a pipe of one queue with MTU
// 1500, without offloads. Index 0 is the end that Pipe returns first.
type PipeConfig struct {
	// Names are what the ends call themselves; "" means "pipe0" and "pipe1".
	Names [2]string
	// HardwareAddrs are what the ends state in Info.HardwareAddr: each the address
	// of the station at the *other* end. nil means none.
	HardwareAddrs [2]net.HardwareAddr
	// MTU is in bytes; 0 means DefaultMTU.
	MTU int
	// Offloads are those that frames may carry, in both directions. OffloadTSO4
	// and OffloadTSO6 imply OffloadCsum.
	Offloads Offloads
	// Queues is the number of queues of each end; 0 means 1. What is written to a
	// queue is read from the queue of the same number at the other end.
	Queues int
	// Depth bounds, in frames, what each direction of each queue holds; 0 means
	// DefaultPipeDepth. A frame written to a full queue is dropped and counted as
	// DropTxFull.
	Depth int
}

// Pipe returns the two ends of a wire in memory. Frames are copied when they are
// written, so that neither side sees what the other does to its buffers.
//
// Closing one end lets the other read what was written before, and then answers
// its Reads, and its Writes at once, with ErrGone.
//
// Pipe panics when the MTU is one that CheckMTU refuses, or Queues or Depth is
// negative.
func Pipe(cfg PipeConfig) (a, b Device) {
	if cfg.MTU == 0 {
		cfg.MTU = DefaultMTU
	}
	if err := CheckMTU(cfg.MTU); err != nil {
		panic("link.Pipe: " + err.Error())
	}
	if cfg.Queues < 0 || cfg.Depth < 0 {
		panic(fmt.Sprintf("link.Pipe: %d queues of depth %d", cfg.Queues, cfg.Depth))
	}
	cfg.Queues = max(cfg.Queues, 1)
	if cfg.Depth == 0 {
		cfg.Depth = DefaultPipeDepth
	}
	if cfg.Offloads&(OffloadTSO4|OffloadTSO6) != 0 {
		cfg.Offloads |= OffloadCsum
	}
	pool := newFramePool(cfg.MTU)
	ends := [2]*pipeEnd{new(pipeEnd), new(pipeEnd)}
	for i, e := range ends {
		name := cfg.Names[i]
		if name == "" {
			name = fmt.Sprintf("pipe%d", i)
		}
		e.info = Info{
			Name: name, Kind: "pipe", Driver: "memory", MTU: cfg.MTU,
			HardwareAddr: bytes.Clone(cfg.HardwareAddrs[i]),
			RX:           cfg.Offloads, TX: cfg.Offloads,
		}
	}
	for range cfg.Queues {
		ab, ba := newLane(cfg.Depth, pool), newLane(cfg.Depth, pool)
		ends[0].queues = append(ends[0].queues, &pipeQueue{end: ends[0], in: ba, out: ab})
		ends[1].queues = append(ends[1].queues, &pipeQueue{end: ends[1], in: ab, out: ba})
	}
	return ends[0], ends[1]
}

// A pipeEnd is one of the two Devices of a Pipe.
type pipeEnd struct {
	Counters
	info   Info
	queues []Queue
}

func (e *pipeEnd) Info() Info {
	i := e.info
	i.HardwareAddr = bytes.Clone(i.HardwareAddr)
	return i
}

func (e *pipeEnd) Queues() []Queue { return e.queues }

func (e *pipeEnd) Close() error {
	for _, q := range e.queues {
		q := q.(*pipeQueue)
		q.in.closeReader()
		q.out.closeWriter()
	}
	return nil
}

type pipeQueue struct {
	end     *pipeEnd
	in, out *lane
}

func (q *pipeQueue) Read(frames []Frame) (int, error) {
	return q.in.read(&q.end.Counters, frames)
}

func (q *pipeQueue) Write(frames []OutFrame) (int, error) {
	return q.out.write(q.end, frames)
}

// A lane is one direction of one queue: a ring of frames.
type lane struct {
	pool *framePool

	mu    sync.Mutex
	ready sync.Cond // a frame came or an end was closed

	// All below are guarded by mu.
	ring         []laneFrame
	head, n      int
	readerClosed bool // the end that reads this lane
	writerClosed bool // the end that writes it
}

type laneFrame struct {
	buf     *frameBuf
	n       int
	offload Offload
}

func newLane(depth int, pool *framePool) *lane {
	l := &lane{pool: pool, ring: make([]laneFrame, depth)}
	l.ready.L = &l.mu
	return l
}

func (l *lane) read(c *Counters, frames []Frame) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if l.readerClosed {
			return 0, ErrClosed
		}
		if len(frames) == 0 {
			return 0, nil
		}
		got, size := 0, 0
		for got < len(frames) && l.n > 0 {
			f := l.ring[l.head]
			l.ring[l.head] = laneFrame{}
			l.head = (l.head + 1) % len(l.ring)
			l.n--
			if out := &frames[got]; f.n > len(out.Buf) {
				c.DropFrame(DropRxOversize, f.buf.b[:f.n])
			} else {
				out.N, out.Offload = copy(out.Buf, f.buf.b[:f.n]), f.offload
				got, size = got+1, size+f.n
			}
			l.pool.put(f.buf)
		}
		if got > 0 {
			c.Rx(got, size)
			return got, nil
		}
		if l.writerClosed {
			return 0, ErrGone
		}
		l.ready.Wait()
	}
}

func (l *lane) write(e *pipeEnd, frames []OutFrame) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.writerClosed:
		return 0, ErrClosed
	case l.readerClosed:
		return 0, ErrGone
	}
	taken, size := 0, 0
	for i := range frames {
		f := &frames[i]
		n, why, ok := e.info.CheckOut(f)
		switch {
		case !ok:
			e.Drop(why)
		case l.n == len(l.ring):
			e.Drop(DropTxFull)
		default:
			buf := l.pool.get(n)
			at := 0
			for _, p := range f.Pieces {
				at += copy(buf.b[at:], p)
			}
			l.ring[(l.head+l.n)%len(l.ring)] = laneFrame{buf: buf, n: n, offload: f.Offload}
			l.n++
			taken, size = taken+1, size+n
		}
	}
	if taken > 0 {
		e.Tx(taken, size)
		l.ready.Signal()
	}
	return taken, nil
}

// closeReader ends the lane and drops what nobody will read.
func (l *lane) closeReader() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readerClosed = true
	clear(l.ring)
	l.n = 0
	l.ready.Broadcast()
}

// closeWriter lets the reader have what is left.
func (l *lane) closeWriter() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writerClosed = true
	l.ready.Broadcast()
}

// A framePool holds buffers of two sizes, so that a queue of ordinary frames does
// not occupy the memory of super-frames.
type framePool struct {
	small        int // bytes
	smalls, bigs sync.Pool
}

type frameBuf struct{ b []byte }

func newFramePool(mtu int) *framePool {
	p := &framePool{small: min(HeaderLen+vlanLen+mtu, MaxFrame)}
	p.smalls.New = func() any { return &frameBuf{make([]byte, p.small)} }
	p.bigs.New = func() any { return &frameBuf{make([]byte, MaxFrame)} }
	return p
}

func (p *framePool) get(n int) *frameBuf {
	if n <= p.small {
		return p.smalls.Get().(*frameBuf)
	}
	return p.bigs.Get().(*frameBuf)
}

func (p *framePool) put(b *frameBuf) {
	if len(b.b) == p.small {
		p.smalls.Put(b)
	} else {
		p.bigs.Put(b)
	}
}
