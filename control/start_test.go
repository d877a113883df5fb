package control_test

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

// Start and OnEnd call back once: with a reply, a refusal, after a cancel, and when the session
// is over.
func TestStart(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	peer := kernelPeer(t, "tcp", func(c *net.TCPConn) { c.Read(make([]byte, 1)) })
	s, err := c.OpenSession(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	type answer struct {
		rep control.Reply
		err error
	}
	start := func(ctx context.Context, r control.Request) <-chan answer {
		got := make(chan answer, 2)
		s.Start(ctx, r, -1, func(rep control.Reply, err error) { got <- answer{rep, err} })
		return got
	}
	dial := control.Request{Op: "dial", Network: "tcp4", Address: peer}
	a := <-start(t.Context(), dial)
	if a.err != nil || a.rep.Remote != peer {
		t.Fatalf("%+v", a)
	}
	ended := make(chan error, 2)
	a.rep.OnEnd(func(err error) { ended <- err })
	s.Post(control.Request{Op: "abort", Flow: a.rep.Flow})
	if err := <-ended; err != nil {
		t.Errorf("ended: %v", err)
	}
	a.rep.OnEnd(func(err error) { ended <- err }) // late
	if err := <-ended; err != nil {
		t.Errorf("ended, told late: %v", err)
	}

	if a := <-start(t.Context(), control.Request{Op: "dial", Network: "tcp4", Address: "127.0.0.1:1"}); !errors.Is(a.err, syscall.ECONNREFUSED) {
		t.Errorf("refused dial: %+v", a)
	}

	l := <-start(t.Context(), control.Request{Op: "listen", Network: "tcp4", Address: "127.0.0.1:0"})
	if l.err != nil {
		t.Fatal(l.err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waits := start(ctx, control.Request{Op: "accept", Flow: l.rep.Flow})
	cancel()
	if a := <-waits; !errors.Is(a.err, context.Canceled) {
		t.Errorf("cancelled accept: %+v", a)
	}

	waits = start(t.Context(), control.Request{Op: "accept", Flow: l.rep.Flow})
	l.rep.OnEnd(func(err error) { ended <- err })
	s.Close()
	if a := <-waits; !errors.Is(a.err, net.ErrClosed) {
		t.Errorf("accept of a closed session: %+v", a)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("flow of a closed session: %v", err)
	}
	if a := <-start(t.Context(), dial); !errors.Is(a.err, net.ErrClosed) {
		t.Errorf("dial after the end: %+v", a)
	}
	if n := len(waits) + len(ended); n != 0 {
		t.Errorf("%d told twice", n)
	}
}
