package stack

import (
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
)

const (
	// manyConns is how many open connections are so many that their goroutines'
	// stacks count.
	manyConns = 512
	// deepWriters is how many goroutines write for others.
	deepWriters = 4
)

// A deepWriter writes to connections for goroutines that are to keep a small stack.
// From a write to the frame on the wire there are 8 KB of stack, which a goroutine
// keeps until the collector has come by several times. Among many connections most
// of which are idle, that is more than all else a connection needs, and to bring it
// back to the processor's cache is most of what a write costs.
type deepWriter struct {
	calls chan *deepWrite
	done  chan struct{}
	wg    sync.WaitGroup
}

// A deepWrite is one call of an endpoint's Write.
type deepWrite struct {
	ep   tcpip.Endpoint
	r    tcpip.Payloader
	n    int64
	terr tcpip.Error
	done chan struct{} // has room for one
}

var deepWrites = sync.Pool{New: func() any { return &deepWrite{done: make(chan struct{}, 1)} }}

func newDeepWriter() *deepWriter {
	w := &deepWriter{calls: make(chan *deepWrite), done: make(chan struct{})}
	for range deepWriters {
		w.wg.Go(w.run)
	}
	return w
}

func (w *deepWriter) run() {
	for {
		select {
		case c := <-w.calls:
			c.n, c.terr = c.ep.Write(c.r, tcpip.WriteOptions{})
			c.done <- struct{}{}
		case <-w.done:
			return
		}
	}
}

// write is ep.Write, which does not wait for room.
func (w *deepWriter) write(ep tcpip.Endpoint, r tcpip.Payloader) (int64, tcpip.Error) {
	if w == nil {
		return ep.Write(r, tcpip.WriteOptions{})
	}
	c := deepWrites.Get().(*deepWrite)
	c.ep, c.r = ep, r
	select {
	case w.calls <- c:
		<-c.done
	default: // all of them are at work
		c.n, c.terr = ep.Write(r, tcpip.WriteOptions{})
	}
	n, terr := c.n, c.terr
	*c = deepWrite{done: c.done}
	deepWrites.Put(c)
	return n, terr
}

// close waits for the goroutines; writes go on without them.
func (w *deepWriter) close() {
	close(w.done)
	w.wg.Wait()
}
