package control_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

func TestManyFlows(t *testing.T) {
	const flows = 200
	_, c := startServer(t, &controltest.Backend{})
	l, err := c.Listen(testContext(t), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	for range flows {
		wg.Go(func() {
			a, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			io.Copy(a, a)
			a.Close()
		})
		wg.Go(func() {
			conn, err := c.DialContext(testContext(t), "tcp", l.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			sent := bytes.Repeat([]byte{1, 2, 3}, 10000)
			go func() {
				conn.Write(sent)
				conn.(*control.StreamConn).CloseWrite()
			}()
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	if !eventually(time.Second, func() bool {
		st, err := c.Status(testContext(t))
		return err == nil && st.Flows == 0
	}) {
		t.Error("flows are left over")
	}
}

func TestListener(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	l, err := c.Listen(testContext(t), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	sl := l.(*control.StreamListener)
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	sl.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Accept after the deadline: %v", err)
	}
	sl.SetDeadline(time.Time{})
	// What arrived after that Accept goes to the next, by both families.
	for _, a := range []string{"127.0.0.1", "::1"} {
		k, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(a), port).String())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if conn.RemoteAddr().String() != k.LocalAddr().String() {
			t.Errorf("accepted %v, dialled from %v", conn.RemoteAddr(), k.LocalAddr())
		}
		conn.Close()
		k.Close()
	}
	if _, err := c.Listen(testContext(t), "tcp", l.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second listener: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		done <- err
	}()
	l.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if again, err := c.Listen(testContext(t), "tcp", l.Addr().String()); err != nil {
		t.Errorf("listen again: %v", err)
	} else {
		again.Close()
	}
}

// A program that does not read holds up its own connection and no other.
func TestSlowReader(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	stuck := dialStream(t, c, kernelPeer(t, "tcp", func(c *net.TCPConn) {
		for {
			if _, err := c.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}))
	if _, err := io.ReadFull(stuck, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		conn := dialStream(t, c, kernelPeer(t, "tcp", echo))
		conn.Write([]byte("hello"))
		conn.CloseWrite()
		if b, err := io.ReadAll(conn); string(b) != "hello" || err != nil {
			t.Fatalf("%q, %v", b, err)
		}
		conn.Close()
	}
	stuck.Close()
}

// TestWriteAndCloseAtOnce accepts, writes a byte and closes without waiting for
// anything: the byte has to arrive, however early the close is seen.
func TestWriteAndCloseAtOnce(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	l, err := c.Listen(testContext(t), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("x"))
			conn.Close()
		}
	}()
	for i := range 1000 {
		k, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		k.SetDeadline(time.Now().Add(10 * time.Second))
		got, err := io.ReadAll(k)
		k.Close()
		if string(got) != "x" || err != nil {
			t.Fatalf("connection %d: %q, %v", i, got, err)
		}
	}
}

// A listener that is busy asks for connections ahead: none of them may get lost, and
// those that nobody accepts end with it.
func TestBusyListener(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	l, err := c.Listen(testContext(t), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func() net.Conn {
		k, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { k.Close() })
		return k
	}
	const n = 100
	for i := range n {
		k := dial()
		k.Write([]byte{byte(i)})
	}
	seen := make(map[byte]bool)
	for range n {
		a, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1)
		if _, err := io.ReadFull(a, b); err != nil {
			t.Fatal(err)
		}
		seen[b[0]] = true
		a.Close()
	}
	if len(seen) != n {
		t.Errorf("%d different connections of %d", len(seen), n)
	}
	var left []net.Conn
	for range 50 {
		left = append(left, dial())
	}
	l.Close()
	for _, k := range left {
		if n, err := k.Read(make([]byte, 1)); err == nil {
			t.Errorf("a connection that nobody accepted read %d bytes", n)
		}
	}
	if !eventually(time.Second, func() bool {
		st, err := c.Status(testContext(t))
		return err == nil && st.Flows == 0
	}) {
		t.Error("flows are left over")
	}
}
