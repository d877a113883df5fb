package stack

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"github.com/ustack/ustack/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns two stacks on one in-memory wire: 10.0.0.1 and 10.0.0.2, fd00::1
// and fd00::2.
func pair(t testing.TB, pipe link.PipeConfig, change ...func(a, b *Config)) (a, b *Stack) {
	t.Helper()
	wireA, wireB := link.Pipe(pipe)
	ca := Config{Device: wireA, Addrs: prefixes("10.0.0.1/24", "fd00::1/64")}
	cb := Config{Device: wireB, Addrs: prefixes("10.0.0.2/24", "fd00::2/64")}
	for _, f := range change {
		f(&ca, &cb)
	}
	return newStack(t, ca), newStack(t, cb)
}

func newStack(t testing.TB, cfg Config) *Stack {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func prefixes(list ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// connect returns the two ends of one TCP connection over the wire.
func connect(t testing.TB, a, b *Stack, addr string) (client, server *TCPConn) {
	t.Helper()
	l, err := b.Listen("tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := a.DialContext(testContext(t), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*TCPConn), s.(*TCPConn)
}

func TestConn(t *testing.T) {
	for name, addr := range map[string]string{"IPv4": "10.0.0.2", "IPv6": "fd00::2", "loopback4": "127.0.0.1", "loopback6": "::1"} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, link.PipeConfig{})
			if strings.HasPrefix(name, "loopback") {
				b = a
			}
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				c, s := connect(t, a, b, addr)
				return c, s, func() { c.Close(); s.Close() }, nil
			})
		})
	}
}

func TestDialErrors(t *testing.T) {
	a, _ := pair(t, link.PipeConfig{})
	for _, tc := range []struct {
		network, addr string
		want          error
	}{
		{"tcp", "10.0.0.2:1", syscall.ECONNREFUSED},
		{"tcp", "[fd00::2]:1", syscall.ECONNREFUSED},
		{"tcp", "127.0.0.1:1", syscall.ECONNREFUSED},
		{"tcp", "10.0.0.77:1", syscall.EHOSTUNREACH},
		{"tcp", "192.0.2.1:1", syscall.ENETUNREACH},
		{"udp", "192.0.2.1:1", syscall.ENETUNREACH},
		{"tcp", "[2001:db8::1]:1", syscall.ENETUNREACH},
	} {
		_, err := a.DialContext(testContext(t), tc.network, tc.addr)
		var op *net.OpError
		if !errors.Is(err, tc.want) || !errors.As(err, &op) {
			t.Errorf("dial %s %s: %v, want %v in an OpError", tc.network, tc.addr, err, tc.want)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.DialContext(ctx, "tcp", "10.0.0.77:1"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("dial with a deadline: %v, want a timeout", err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := a.DialContext(ctx, "tcp", "10.0.0.77:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled dial: %v, want context.Canceled", err)
	}
}

func TestReset(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	c, s := connect(t, a, b, "10.0.0.2")
	defer c.Close()
	s.SetLinger(0)
	s.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read after a reset: %v", err)
	}
	c, s = connect(t, a, b, "fd00::2")
	defer c.Close()
	s.Abort()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read after an abort: %v", err)
	}
}

func TestHalfCloseAndBulk(t *testing.T) {
	for _, pipe := range []link.PipeConfig{
		{},
		{MTU: 9000},
		{Offloads: link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6},
	} {
		for _, addr := range []string{"10.0.0.2", "fd00::2", "127.0.0.1"} {
			a, b := pair(t, pipe)
			if addr == "127.0.0.1" {
				b = a
			}
			c, s := connect(t, a, b, addr)
			const size = 6 << 20
			sum := make(chan [32]byte, 1)
			go func() {
				h := sha256.New()
				io.Copy(struct{ io.Writer }{h}, s) // until the client's FIN
				sum <- [32]byte(h.Sum(nil))
				s.Write(h.Sum(nil))
				s.Close()
			}()
			want := sha256.New()
			src := io.TeeReader(io.LimitReader(&pattern{}, size), want)
			if n, err := io.Copy(c, src); err != nil || n != size {
				t.Fatalf("sent %d bytes: %v", n, err)
			}
			c.CloseWrite()
			back, err := io.ReadAll(c)
			if err != nil || [32]byte(back) != [32]byte(want.Sum(nil)) || <-sum != [32]byte(back) {
				t.Errorf("%+v %s: the content changed on its way (%v)", pipe, addr, err)
			}
			c.Close()
		}
	}
}

// pattern is an endless, non-repeating stream.
type pattern struct{ n uint64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		p.n = p.n*6364136223846793005 + 1442695040888963407
		b[i] = byte(p.n >> 56)
	}
	return len(b), nil
}
