package control_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

// turn waits for replies of a polled session and handles them.
func turn(t *testing.T, s *control.Session) {
	t.Helper()
	p := [1]unix.PollFd{{Fd: int32(s.FD()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p[:], 10000)
		if err == unix.EINTR {
			continue
		}
		if n != 1 || err != nil {
			t.Fatalf("poll: %d, %v", n, err)
		}
		s.Receive()
		return
	}
}

// What fills a program's socket until its connection stands is no data, and the reply is there
// before the program notices.
func TestPolledDialSkips(t *testing.T) {
	srv, c := startServer(t, &controltest.Backend{})
	peer := kernelPeer(t, "tcp", echo)
	s, err := c.OpenPolledSession(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ours, theirs := pair(t, unix.SOCK_STREAM)
	f := os.NewFile(uintptr(ours), "ours")
	defer f.Close()
	filler := bytes.Repeat([]byte{'x'}, 300<<10) // more than is read at a time
	if err := unix.SetsockoptInt(ours, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2<<20); err != nil {
		filler = filler[:4096]
	}
	if _, err := f.Write(append(filler, "data"...)); err != nil {
		t.Fatal(err)
	}
	var rep control.Reply
	done := errors.New("not done")
	s.Start(testContext(t), control.Request{Op: "dial", Network: "tcp", Address: peer, Skip: len(filler)}, theirs,
		func(r control.Reply, err error) { rep, done = r, err })
	for rep.Flow == 0 && s.Err() == nil {
		turn(t, s)
	}
	if done != nil || rep.Remote != peer {
		t.Fatalf("dial: %+v, %v", rep, done)
	}
	if err := unix.Shutdown(ours, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(f); string(b) != "data" || err != nil {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	ended := false
	rep.OnEnd(func(err error) {
		if ended = true; err != nil {
			t.Errorf("ended: %v", err)
		}
	})
	for !ended && s.Err() == nil {
		turn(t, s)
	}
	srv.Close()
	for s.Err() == nil {
		turn(t, s)
	}
}

func TestSkipRules(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	s, err := c.OpenSession(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, r := range []control.Request{
		{Op: "dial", Network: "tcp", Address: "127.0.0.1:1", Skip: -1},
		{Op: "dial", Network: "tcp", Address: "127.0.0.1:1", Skip: 1},
	} {
		if _, err := s.Call(testContext(t), r, -1); !errors.Is(err, unix.EINVAL) {
			t.Errorf("skip %d without a descriptor: %v", r.Skip, err)
		}
	}
}

// A request that comes behind another one's descriptor.
func TestStartAfter(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	s, err := c.OpenSession(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	flow, err := s.Call(testContext(t), control.Request{Op: "listen", Network: "tcp", Address: "127.0.0.1:0"}, -1)
	if err != nil {
		t.Fatal(err)
	}
	arrived := make(chan control.Reply, 1)
	accept := func(first control.Request, fd int) {
		s.StartAfter(testContext(t), first, fd, control.Request{Op: "accept", Flow: flow.Flow}, func(rep control.Reply, err error) {
			if err != nil {
				t.Error(err)
			}
			arrived <- rep
		})
	}
	first := control.Request{Op: "none"} // without a number, so nobody hears that it is unknown
	fd := -1
	for range 3 {
		accept(first, fd)
		k, err := net.Dial("tcp", flow.Local)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		rep := <-arrived
		if rep.Remote != k.LocalAddr().String() {
			t.Fatalf("accept: %+v", rep)
		}
		ours, theirs := pair(t, unix.SOCK_STREAM)
		f := os.NewFile(uintptr(ours), "ours")
		defer f.Close()
		first, fd = control.Request{Op: "attach", Flow: rep.Flow}, theirs
		go io.WriteString(f, "hello")
		defer func() {
			k.SetReadDeadline(time.Now().Add(10 * time.Second))
			b := make([]byte, 5)
			if _, err := io.ReadFull(k, b); err != nil || string(b) != "hello" {
				t.Errorf("%q, %v", b, err)
			}
		}()
	}
	s.PostFD(first, fd)
}
