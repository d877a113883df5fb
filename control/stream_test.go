package control_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

func TestNettestConn(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			_, c := startServer(t, &controltest.Backend{})
			l, err := c.Listen(testContext(t), "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				accepted := make(chan error, 1)
				go func() {
					var err error
					c2, err = l.Accept()
					accepted <- err
				}()
				c1, err = c.DialContext(context.Background(), "tcp", l.Addr().String())
				if aerr := <-accepted; err == nil {
					err = aerr
				}
				return c1, c2, func() {
					c1.Close()
					c2.Close()
				}, err
			})
		})
	}
}

func TestDialErrors(t *testing.T) {
	closedPort := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}()
	fail := map[string]error{
		"192.0.2.1:1": syscall.EHOSTUNREACH,
		"192.0.2.2:1": syscall.ENETUNREACH,
		"192.0.2.3:1": syscall.ETIMEDOUT,
		"192.0.2.4:1": os.ErrDeadlineExceeded,
	}
	b := &controltest.Backend{BeforeDial: func(_ context.Context, _, address string) error { return fail[address] }}
	_, c := startServer(t, b)
	for _, tc := range []struct {
		network, address string
		want             error
		text             string
	}{
		{"tcp", closedPort, syscall.ECONNREFUSED, "dial tcp " + closedPort + ": connect: connection refused"},
		{"tcp", "192.0.2.1:1", syscall.EHOSTUNREACH, "no route to host"},
		{"tcp4", "192.0.2.2:1", syscall.ENETUNREACH, "network is unreachable"},
		{"tcp", "192.0.2.3:1", syscall.ETIMEDOUT, "timed out"},
		{"tcp", "192.0.2.4:1", syscall.ETIMEDOUT, "timeout"},
		{"tcp", "127.0.0.1", syscall.EINVAL, "missing port"},
		{"tcp", "127.0.0.1:nosuchport", syscall.EINVAL, "no such port"},
	} {
		_, err := c.DialContext(testContext(t), tc.network, tc.address)
		var op *net.OpError
		if !errors.Is(err, tc.want) || !errors.As(err, &op) || op.Op != "dial" || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("dial %s %s: %v", tc.network, tc.address, err)
		}
		var ne net.Error
		if tc.want == syscall.ETIMEDOUT && (!errors.As(err, &ne) || !ne.Timeout()) {
			t.Errorf("dial %s: %v is not a timeout", tc.address, err)
		}
	}
	for name, ok := range map[string]func(*net.DNSError) bool{
		"nosuch.test":  func(e *net.DNSError) bool { return e.IsNotFound && !e.IsTimeout },
		"timeout.test": func(e *net.DNSError) bool { return e.IsTimeout && e.Server == "192.0.2.53:53" },
	} {
		_, err := c.DialContext(testContext(t), "tcp", name+":80")
		var dns *net.DNSError
		if !errors.As(err, &dns) || dns.Name != name || !ok(dns) {
			t.Errorf("dial %s: %#v", name, err)
		}
		_, err = c.LookupNetIP(testContext(t), "ip", name)
		if dns = nil; !errors.As(err, &dns) || !ok(dns) {
			t.Errorf("lookup %s: %#v", name, err)
		}
	}
	if _, err := c.DialContext(testContext(t), "sctp", "127.0.0.1:1"); !errors.As(err, new(net.UnknownNetworkError)) {
		t.Errorf("dial sctp: %v", err)
	}
}

func TestDialCancel(t *testing.T) {
	began, cancelled := make(chan struct{}, 1), make(chan struct{}, 1)
	b := &controltest.Backend{BeforeDial: func(ctx context.Context, _, address string) error {
		if !strings.HasPrefix(address, "192.") {
			return nil
		}
		began <- struct{}{}
		<-ctx.Done()
		cancelled <- struct{}{}
		return ctx.Err()
	}}
	_, c := startServer(t, b)
	ctx, cancel := context.WithCancel(testContext(t))
	go func() {
		<-began
		cancel()
	}()
	if _, err := c.DialContext(ctx, "tcp", "192.0.2.1:1"); !errors.Is(err, context.Canceled) {
		t.Fatalf("dial: %v", err)
	}
	<-cancelled
	// A pending dial holds up no other.
	ctx, cancel = context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() {
		_, err := c.DialContext(ctx, "tcp", "192.0.2.1:1")
		done <- err
	}()
	<-began
	conn := dialStream(t, c, kernelPeer(t, "tcp", echo))
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("dial: %v", err)
	}
	<-cancelled
}

func TestAddresses(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{Hosts: map[string][]netip.Addr{"one.test": {netip.MustParseAddr("127.0.0.1")}}})
	seen := make(chan string, 1)
	peer := kernelPeer(t, "tcp", func(c *net.TCPConn) {
		seen <- c.RemoteAddr().String()
		io.Copy(io.Discard, c)
	})
	_, port, _ := net.SplitHostPort(peer)
	conn := dialStream(t, c, "one.test:"+port)
	if got := <-seen; got != conn.LocalAddr().(*net.TCPAddr).String() || conn.RemoteAddr().(*net.TCPAddr).String() != peer {
		t.Errorf("local %v, remote %v; the peer sees %s at %s", conn.LocalAddr(), conn.RemoteAddr(), got, peer)
	}
	from, err := c.DialFlow(testContext(t), "tcp", peer, control.DialConfig{
		Local: netip.MustParseAddrPort("127.0.0.2:0"), Options: map[string]int{"ip.ttl": 9}})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if got := <-seen; got != from.LocalAddr().String() || !strings.HasPrefix(got, "127.0.0.2:") {
		t.Errorf("local %v, the peer sees %s", from.LocalAddr(), got)
	}
	s := from.(*control.StreamConn)
	if v, err := s.Option("ip.ttl"); v != 9 || err != nil {
		t.Errorf("ip.ttl: %d, %v", v, err)
	}
	if err := errors.Join(s.SetNoDelay(true), s.SetKeepAlive(true), s.SetKeepAlivePeriod(30*time.Second),
		s.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true}), s.SetLinger(-1)); err != nil {
		t.Error(err)
	}
	if v, err := s.Option("tcp.keepidle"); v != 15 || err != nil {
		t.Errorf("tcp.keepidle: %d, %v", v, err)
	}
	if err := s.SetOption("tcp.nonsense", 1); !errors.Is(err, syscall.ENOPROTOOPT) {
		t.Errorf("unknown option: %v", err)
	}
	if _, err := c.DialFlow(testContext(t), "tcp", peer, control.DialConfig{Local: netip.MustParseAddrPort("192.0.2.1:0")}); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("dial from a foreign address: %v", err)
	}
}

func TestHalfClose(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	conn := dialStream(t, c, kernelPeer(t, "tcp", func(c *net.TCPConn) {
		b, _ := io.ReadAll(c) // ends with the client's half-close
		c.Write(bytes.ToUpper(b))
	}))
	conn.Write([]byte("hello"))
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); string(b) != "HELLO" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("write after CloseWrite: %v", err)
	}

	got := make(chan string, 1)
	conn = dialStream(t, c, kernelPeer(t, "tcp", func(c *net.TCPConn) {
		c.Write([]byte("bye"))
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		got <- string(b)
	}))
	if b, err := io.ReadAll(conn); string(b) != "bye" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	conn.Write([]byte("still here"))
	conn.Close()
	if s := <-got; s != "still here" {
		t.Fatalf("peer got %q", s)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("read after Close: %v", err)
	}
	if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("second Close: %v", err)
	}
}

// A reset is seen after the data that came before it, by readers and by writers.
func TestPeerResets(t *testing.T) {
	for _, sent := range []int{0, 1, 1 << 20} {
		_, c := startServer(t, &controltest.Backend{})
		delivered := make(chan struct{})
		conn := dialStream(t, c, kernelPeer(t, "tcp", func(c *net.TCPConn) {
			c.Write(make([]byte, sent))
			<-delivered
			c.SetLinger(0)
		}))
		if _, err := io.ReadFull(conn, make([]byte, sent)); err != nil {
			t.Fatal(err)
		}
		close(delivered)
		n, err := io.Copy(io.Discard, conn)
		if n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after %d bytes: read %d, %v", sent, n, err)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("after %d bytes: write: %v", sent, err)
		}
	}
}

// A writer that never reads learns of a reset too, although what it wrote filled every buffer.
func TestPeerResetsWriter(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	conn := dialStream(t, c, kernelPeer(t, "tcp", func(c *net.TCPConn) {
		go c.Write(make([]byte, 8<<20)) // more than the client's socket holds
		io.ReadFull(c, make([]byte, 1<<20))
		c.SetLinger(0)
	}))
	var err error
	for block := make([]byte, 1<<20); err == nil; {
		_, err = conn.Write(block)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			break
		}
	}
	// The peer writes first, and ends only when the client has read.
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("write: %v", err)
	}
}

func TestClientResets(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	for name, end := range map[string]func(*control.StreamConn){
		"linger": func(c *control.StreamConn) { c.SetLinger(0); c.Close() },
		"abort":  func(c *control.StreamConn) { c.Abort() },
		"unread": func(c *control.StreamConn) { c.Close() },
	} {
		got, ready := make(chan error, 1), make(chan struct{})
		conn := dialStream(t, c, kernelPeer(t, "tcp", func(c *net.TCPConn) {
			if name == "unread" {
				c.Write([]byte("nobody reads this"))
			}
			close(ready)
			_, err := io.ReadAll(c)
			got <- err
		}))
		<-ready
		if name == "unread" {
			// It must be in the client's socket, not on its way.
			one := make([]byte, 1)
			io.ReadFull(conn, one)
		}
		end(conn)
		if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the peer read %v", name, err)
		}
	}
}

func TestBulk(t *testing.T) {
	size := 50 << 20
	if testing.Short() {
		size = 5 << 20
	}
	_, c := startServer(t, &controltest.Backend{})
	conn := dialStream(t, c, kernelPeer(t, "tcp", echo))
	rnd := rand.New(rand.NewSource(1))
	sent, got := sha256.New(), sha256.New()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, io.TeeReader(io.LimitReader(rnd, int64(size)), sent))
		conn.CloseWrite()
		done <- err
	}()
	n, err := io.Copy(got, conn)
	if werr := <-done; err != nil || werr != nil || n != int64(size) {
		t.Fatalf("wrote: %v, read %d: %v", werr, n, err)
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Fatal("other bytes came back")
	}
}

func TestCloseDelivers(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	const size = 4 << 20
	got, start := make(chan int64, 1), make(chan struct{})
	conn := dialStream(t, c, kernelPeer(t, "tcp", func(c *net.TCPConn) {
		<-start
		n, _ := io.Copy(io.Discard, c)
		got <- n
	}))
	done := make(chan error, 1)
	go func() {
		_, err := conn.Write(make([]byte, size))
		conn.Close()
		c.Close() // even the end of the client loses nothing
		done <- err
	}()
	close(start)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != size {
		t.Fatalf("the peer got %d of %d bytes", n, size)
	}
}
