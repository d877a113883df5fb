package stack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

// TestShutdownDelivers closes a connection with much unsent data and takes the
// stack down: all must arrive, and the peer must not see a reset.
func TestShutdownDelivers(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	c, s := connect(t, a, b, "10.0.0.2")
	sent := bytes.Repeat([]byte("0123456789abcdef"), 60000) // 960 kB, more than a window
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	c.Close()
	done := make(chan error, 1)
	go func() { done <- a.Shutdown(testContext(t)) }()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d of %d bytes, %v", len(got), len(sent), err)
	}
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if n := b.Stats()["tcp.resets_received"]; n != 0 {
		t.Errorf("%d resets came with a shutdown in good order", n)
	}
	s.Close()
}

func TestCloseResetsWhatIsOpen(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	c, s := connect(t, a, b, "10.0.0.2")
	half, hs := connect(t, a, b, "10.0.0.2")
	half.CloseWrite() // its owner still reads
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for _, peer := range []*TCPConn{s, hs} {
		_, err := peer.Write([]byte("x"))
		for err == nil { // the reset may still be on its way
			_, err = peer.Write([]byte("x"))
		}
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write to a stack that was closed: %v", err)
		}
		peer.Close()
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("read from a connection of a closed stack works")
	}
	if _, err := a.Dial("tcp", "10.0.0.2:1"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial on a closed stack: %v, want net.ErrClosed", err)
	}
	if _, err := a.Listen("tcp", ":1"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listen on a closed stack: %v, want net.ErrClosed", err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

// TestShutdownIsBounded has a peer that takes nothing: ctx must end the wait.
func TestShutdownIsBounded(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	c, s := connect(t, a, b, "10.0.0.2")
	defer s.Close()
	c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	for {
		if _, err := c.Write(make([]byte, 1<<20)); err != nil {
			break
		}
	}
	c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	a.Shutdown(ctx)
	if _, err := io.Copy(io.Discard, s); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("peer of a connection that could not be drained: %v, want ECONNRESET", err)
	}
}

func TestWireGone(t *testing.T) {
	wire, far := link.Pipe(link.PipeConfig{})
	s := newStack(t, Config{Device: wire, Addrs: prefixes("10.0.0.1/24")})
	if err := s.Err(); err != nil {
		t.Errorf("Err of a running stack: %v", err)
	}
	far.Close()
	<-s.Done()
	if !errors.Is(s.Err(), link.ErrGone) || s.Links()[0].State != "gone" {
		t.Errorf("Err %v, state %s", s.Err(), s.Links()[0].State)
	}
}

func TestListener(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	l, err := b.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Listen("tcp", "10.0.0.2:80"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second listen: %v, want EADDRINUSE", err)
	}
	if _, err := b.Listen("tcp", "10.9.9.9:81"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("listen on a foreign address: %v, want EADDRNOTAVAIL", err)
	}
	// Many at once, over both families.
	const conns = 200
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			c, err := a.DialContext(testContext(t), "tcp", []string{"10.0.0.2:80", "[fd00::2]:80"}[i%2])
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if b, err := io.ReadAll(c); string(b) != "hi" || err != nil {
				t.Errorf("read %q, %v", b, err)
			}
		})
	}
	for range conns {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("hi"))
		c.Close()
	}
	wg.Wait()
	var states []string
	for _, k := range b.Sockets() {
		if k.State == "LISTEN" {
			states = append(states, k.Local.String())
		}
	}
	if len(states) != 1 || states[0] != "[::]:80" {
		t.Errorf("listening sockets %v, want [::]:80", states)
	}
	closed := make(chan struct{})
	time.AfterFunc(10*time.Millisecond, func() {
		l.Close()
		close(closed)
	})
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept on a closed listener: %v", err)
	}
	<-closed
	if _, err := a.DialContext(testContext(t), "tcp", "10.0.0.2:80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial of a closed listener: %v", err)
	}
}

func TestOptions(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	c, s := connect(t, a, b, "10.0.0.2")
	defer c.Close()
	defer s.Close()
	for name, want := range map[string]int{"tcp.nodelay": 1, "so.keepalive": 1, "tcp.keepidle": 15, "tcp.keepintvl": 15, "tcp.keepcnt": 9, "so.linger": -1, "tcp.info.state": 1, "so.error": 0} {
		if got, err := c.Option(name); got != want || err != nil {
			t.Errorf("%s = %d, %v; want %d", name, got, err, want)
		}
	}
	for name, v := range map[string]int{"tcp.nodelay": 0, "so.keepalive": 0, "tcp.keepidle": 7, "tcp.keepintvl": 8, "tcp.keepcnt": 3, "so.linger": 5, "tcp.user_timeout": 3000, "ip.tos": 16} {
		if err := c.SetOption(name, v); err != nil {
			t.Errorf("set %s: %v", name, err)
		}
		if got, err := c.Option(name); got != v || err != nil {
			t.Errorf("%s = %d, %v; want %d", name, got, err, v)
		}
	}
	for _, name := range []string{"tcp.info.state", "no.such", ""} {
		if err := c.SetOption(name, 1); !errors.Is(err, syscall.ENOPROTOOPT) {
			t.Errorf("set %q: %v, want ENOPROTOOPT", name, err)
		}
	}
	if err := c.SetOption("tcp.keepidle", -1); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("tcp.keepidle = -1: %v, want EINVAL", err)
	}
	for _, name := range OptionNames() { // none may panic on any socket
		c.Option(name)
		u, err := a.Dial("udp", "10.0.0.2:9")
		if err != nil {
			t.Fatal(err)
		}
		u.(*UDPConn).Option(name)
		u.(*UDPConn).SetOption(name, 1)
		u.Close()
	}
}

// TestListenConflicts holds pairs of listeners to what Linux allows.
func TestListenConflicts(t *testing.T) {
	for _, tc := range []struct {
		a, b  string // network address
		reuse bool   // SO_REUSEPORT on both
		want  bool   // the second one works
	}{
		{"tcp4 0.0.0.0", "tcp4 10.0.0.1", false, false},
		{"tcp4 10.0.0.1", "tcp4 0.0.0.0", false, false},
		{"tcp4 10.0.0.1", "tcp4 127.0.0.1", false, true},
		{"tcp6 ::", "tcp4 0.0.0.0", false, false},
		{"tcp6 ::", "tcp4 10.0.0.1", false, false},
		{"tcp6only ::", "tcp4 0.0.0.0", false, true},
		{"tcp4 10.0.0.1", "tcp4 10.0.0.1", true, true},
		{"tcp4 0.0.0.0", "tcp4 0.0.0.0", true, true},
	} {
		s, _ := pair(t, link.PipeConfig{})
		listen := func(where string) (*TCPListener, error) {
			network, ip, _ := strings.Cut(where, " ")
			k, err := s.Socket(strings.TrimSuffix(network, "only"))
			if err != nil {
				t.Fatal(err)
			}
			k.SetOption("ipv6.v6only", btoi(strings.HasSuffix(network, "only")))
			k.SetOption("so.reuseport", btoi(tc.reuse))
			if err := k.Bind(netip.AddrPortFrom(netip.MustParseAddr(ip), 80)); err != nil {
				k.Close()
				return nil, err
			}
			return k.Listen(0)
		}
		first, err := listen(tc.a)
		if err != nil {
			t.Fatalf("%s: %v", tc.a, err)
		}
		second, err := listen(tc.b)
		if tc.want != (err == nil) || err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s beside %s (reuseport %v): %v", tc.b, tc.a, tc.reuse, err)
		}
		if second != nil {
			second.Close()
		}
		first.Close()
		if again, err := listen(tc.a); err != nil {
			t.Errorf("%s after it was closed: %v", tc.a, err)
		} else {
			again.Close()
		}
	}
}

// TestClosedConnectionsAreBounded closes more connections than may wait in
// TIME-WAIT.
func TestClosedConnectionsAreBounded(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	l, err := b.Listen("tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	for range maxTimeWait + 200 {
		c, err := a.DialContext(testContext(t), "tcp", "10.0.0.2:80")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	waiting := func() int {
		n := 0
		for _, k := range a.Sockets() {
			if k.State == "TIME-WAIT" {
				n++
			}
		}
		return n
	}
	if n := waiting(); n > maxTimeWait || n == 0 {
		t.Errorf("%d connections in TIME-WAIT, want at most %d", n, maxTimeWait)
	}
	if n := len(a.conns.open); n != 0 {
		t.Errorf("%d connections still count as open", n)
	}
}

func TestResetAfterTheEnd(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	client, server := connect(t, a, b, "10.0.0.2")
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("read: %v, want the end", err)
	}
	got := make(chan error, 1)
	go func() { got <- client.AwaitReset() }()
	time.Sleep(50 * time.Millisecond)
	server.Abort()
	if err := <-got; !errors.Is(err, syscall.EPIPE) {
		t.Errorf("after a reset: %v", err)
	}
	client.Close()

	client, server = connect(t, a, b, "10.0.0.2")
	if err := errors.Join(server.CloseWrite(), client.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(client); err != nil {
		t.Fatal(err)
	}
	if err := client.AwaitReset(); err != nil {
		t.Errorf("both sides have ended: %v", err)
	}
	server.Close()
	client.Close()

	client, server = connect(t, a, b, "10.0.0.2")
	go func() { got <- client.AwaitReset() }()
	client.Close()
	if err := <-got; err != nil {
		t.Errorf("closed: %v", err)
	}
	server.Close()
}
