package nc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A peer is the other end: a connection, or what stands for one in UDP.
type peer interface {
	io.ReadWriteCloser
}

// relay carries standard input and output over p until both directions have ended,
// or the flags end them, and closes p. name is the peer in errors.
func (n *netcat) relay(ctx context.Context, p peer, name string) error {
	var active atomic.Int64 // when data last moved, nanoseconds since start
	start := time.Now()
	touch := func() { active.Store(int64(time.Since(start))) }

	var wg sync.WaitGroup
	stop := make(chan struct{})
	received, sent := make(chan error, 1), make(chan error, 1)
	wg.Go(func() { received <- n.receive(p, name, touch) })
	if n.stdin != nil {
		wg.Go(func() { sent <- n.send(p, name, stop, touch) })
	}
	defer func() {
		close(stop)
		p.Close()
		// When interrupted, a reader of standard output that is stuck must not hold nc.
		if ctx.Err() == nil {
			wg.Wait()
		}
	}()

	var idle <-chan time.Time
	if n.timeout > 0 {
		idle = time.After(n.timeout)
	}
	var quit <-chan time.Time
	sending := n.stdin != nil
	var sendErr error
	for {
		select {
		case err := <-received:
			switch {
			case err != nil:
				return err
			case sendErr != nil:
				return sendErr
			case !sending || n.interactive:
				return nil
			}
			received = nil
			if c, ok := n.env.Stdout.(io.Closer); ok && !n.keep {
				c.Close()
			}
		case err := <-sent:
			sending = false
			if received == nil {
				return err
			}
			switch {
			case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
				// What the peer sent before it broke the connection is still to come.
				sendErr = err
			case err != nil:
				return err
			case n.quit != nil && *n.quit >= 0:
				quit = time.After(*n.quit)
			}
		case <-quit:
			return nil
		case <-idle:
			left := n.timeout - (time.Since(start) - time.Duration(active.Load()))
			if left <= 0 {
				return sendErr
			}
			idle = time.After(left)
		case <-ctx.Done():
			return fmt.Errorf("%s: interrupted", name)
		}
	}
}

// receive copies from the peer to standard output until the peer ends.
func (n *netcat) receive(p peer, name string, touch func()) error {
	buf := make([]byte, bufferSize)
	for {
		k, err := p.Read(buf)
		if k > 0 {
			touch()
			if _, err := n.env.Stdout.Write(buf[:k]); err != nil {
				p.Close() // ends the other direction
				return fmt.Errorf("write to standard output: %s", errText(err))
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read from %s: %s", name, errText(err))
		}
	}
}

// send copies from standard input to the peer until either ends, and then shuts the
// sending side down, where the peer has one and the flags let it.
func (n *netcat) send(p peer, name string, stop <-chan struct{}, touch func()) error {
	for {
		select {
		case <-stop:
			return nil
		case chunk, ok := <-n.stdin.chunks:
			if !ok {
				if n.stdin.err != nil {
					// A clean end would make what was sent look complete.
					if a, ok := p.(interface{ Abort() }); ok {
						a.Abort()
					}
					return fmt.Errorf("read standard input: %s", errText(n.stdin.err))
				}
				return n.endSending(p, name)
			}
			_, err := p.Write(chunk)
			n.stdin.done(chunk)
			if err != nil {
				return fmt.Errorf("write to %s: %w", name, named{err})
			}
			touch()
		}
	}
}

func (n *netcat) endSending(p peer, name string) error {
	half, ok := p.(interface{ CloseWrite() error })
	if !ok || n.quit != nil && *n.quit < 0 {
		return nil
	}
	// ENOTCONN: the connection has ended already.
	if err := half.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		return fmt.Errorf("shut down %s: %s", name, errText(err))
	}
	return nil
}
