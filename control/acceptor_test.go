package control

import (
	"errors"
	"net"
	"testing"
)

// A fakeListener has connections at once, or by Accept.
type fakeListener struct {
	Listener
	there []Conn
	come  chan Conn
}

func (l *fakeListener) TryAccept() (Conn, error) {
	if len(l.there) == 0 {
		return nil, nil
	}
	c := l.there[0]
	l.there = l.there[1:]
	return c, nil
}

func (l *fakeListener) Accept() (Conn, error) {
	if c, ok := <-l.come; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l *fakeListener) Close() error {
	close(l.come)
	return nil
}

type numbered struct {
	Conn
	n int
}

func TestAcceptor(t *testing.T) {
	l := &fakeListener{there: []Conn{numbered{n: 1}}, come: make(chan Conn)}
	a := &acceptor{lis: l}
	type got struct {
		c   Conn
		err error
	}
	results := make(chan got, 10)
	wait := func() *acceptWait {
		w := &acceptWait{}
		w.then = func(c Conn, err error) { results <- got{c, err} }
		a.accept(w)
		return w
	}
	w := wait()
	select {
	case g := <-results:
		if g.c != (numbered{n: 1}) || g.err != nil {
			t.Fatalf("what is there: %+v", g)
		}
	default:
		t.Fatal("what is there was not given at once")
	}
	if a.forget(w) {
		t.Error("a request was taken back that has its connection")
	}
	wait()
	taken := wait()
	wait()
	if !a.forget(taken) {
		t.Error("a request that waits cannot be taken back")
	}
	for n := 2; n <= 3; n++ {
		l.come <- numbered{n: n}
		if g := <-results; g.c != (numbered{n: n}) || g.err != nil {
			t.Fatalf("connection %d: %+v", n, g)
		}
	}
	late := &acceptWait{then: func(Conn, error) { t.Error("a request was answered that had been taken back before it came") }}
	if !a.forget(late) {
		t.Error("a request that has not come cannot be taken back")
	}
	a.accept(late)
	last := wait()
	a.close()
	if g := <-results; !errors.Is(g.err, net.ErrClosed) {
		t.Errorf("close: %+v", g)
	}
	if a.forget(last) {
		t.Error("a request was taken back after its answer")
	}
	wait()
	if g := <-results; !errors.Is(g.err, net.ErrClosed) {
		t.Errorf("after close: %+v", g)
	}
}
