package nc

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

	"github.com/ustack/ustack/control"
)

// limit is how long anything here may take on a busy machine.
const limit = 20 * time.Second

// kernelNet is the kernel's loopback as a Network.
type kernelNet struct {
	names map[string][]netip.Addr
	// dial replaces DialFlow, if set.
	dial func(ctx context.Context) (net.Conn, error)

	listening chan net.Addr
}

func newNet() *kernelNet {
	return &kernelNet{
		names:     map[string][]netip.Addr{"www.x": {netip.MustParseAddr("::1"), netip.MustParseAddr("127.0.0.1")}},
		listening: make(chan net.Addr, 1),
	}
}

func (k *kernelNet) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	switch host {
	case "slow.x":
		return nil, &net.DNSError{Err: "i/o timeout", Name: host, IsTimeout: true}
	case "gone.x":
		return nil, noDaemon
	}
	var out []netip.Addr
	for _, ip := range k.names[host] {
		if network == "ip" || ip.Is4() == (network == "ip4") {
			out = append(out, ip)
		}
	}
	if out == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return out, nil
}

func (k *kernelNet) DialFlow(ctx context.Context, network, address string, cfg control.DialConfig) (net.Conn, error) {
	if k.dial != nil {
		return k.dial(ctx)
	}
	var d net.Dialer
	if cfg.Local.IsValid() {
		if strings.HasPrefix(network, "udp") {
			d.LocalAddr = net.UDPAddrFromAddrPort(cfg.Local)
		} else {
			d.LocalAddr = net.TCPAddrFromAddrPort(cfg.Local)
		}
	}
	return d.DialContext(ctx, network, address)
}

func (k *kernelNet) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, network, address)
	if err == nil {
		k.listening <- l.Addr()
	}
	return l, err
}

func (k *kernelNet) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	c, err := (&net.ListenConfig{}).ListenPacket(ctx, network, address)
	if err == nil {
		k.listening <- c.LocalAddr()
	}
	return c, err
}

// A buffer is a bytes.Buffer that tests may look into while nc writes.
type buffer struct {
	mu     sync.Mutex
	b      bytes.Buffer
	closed chan struct{}
	wrote  chan struct{}
}

func newBuffer() *buffer {
	return &buffer{wrote: make(chan struct{}, 1), closed: make(chan struct{})}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.closed:
		return 0, io.ErrClosedPipe
	default:
	}
	select {
	case b.wrote <- struct{}{}:
	default:
	}
	return b.b.Write(p)
}

// Close may be called once.
func (b *buffer) Close() error { close(b.closed); return nil }

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// await waits until the buffer holds want.
func (b *buffer) await(t *testing.T, want string) {
	t.Helper()
	end := time.After(limit)
	for !strings.Contains(b.String(), want) {
		select {
		case <-b.wrote:
		case <-end:
			t.Fatalf("%q did not come, only %q", want, b.String())
		}
	}
}

func (b *buffer) awaitClose(t *testing.T) {
	t.Helper()
	select {
	case <-b.closed:
	case <-time.After(limit):
		t.Fatal("standard output stays open")
	}
}

// A running is one nc.
type running struct {
	t        *testing.T
	net      *kernelNet
	out, err *buffer
	code     chan int
	cancel   context.CancelFunc
}

// start runs nc beside the test.
func start(t *testing.T, k *kernelNet, stdin io.Reader, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{t: t, net: k, out: newBuffer(), err: newBuffer(), code: make(chan int, 1), cancel: cancel}
	go func() {
		r.code <- Main(ctx, args, Env{Stdin: stdin, Stdout: r.out, Stderr: r.err, Network: k})
	}()
	t.Cleanup(cancel)
	return r
}

// port waits until nc listens.
func (r *running) port() string {
	r.t.Helper()
	select {
	case a := <-r.net.listening:
		_, port, _ := net.SplitHostPort(a.String())
		return port
	case <-time.After(limit):
		r.t.Fatal("nc does not listen")
		return ""
	}
}

// wait waits for the end and checks the exit code and standard error.
func (r *running) wait(code int, errOut string) {
	r.t.Helper()
	select {
	case got := <-r.code:
		if got != code || !strings.Contains(r.err.String(), errOut) || errOut == "" && r.err.String() != "" {
			r.t.Errorf("exit code %d, %q; want %d, %q", got, r.err, code, errOut)
		}
	case <-time.After(limit):
		r.t.Fatalf("nc does not end; output %d bytes, %q", len(r.out.String()), r.err)
	}
}

// serve accepts one connection.
func serve(t *testing.T, f func(c *net.TCPConn)) (port string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(limit))
		f(c.(*net.TCPConn))
	}()
	t.Cleanup(func() { l.Close(); <-done })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// never is standard input that neither has data nor ends before the test does.
func never(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	return r
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("read: %v", err)
	}
	return string(b)
}

var errBroken = errors.New("the disk is broken")

var noDaemon = &control.DaemonError{Path: "/run/none.sock", Err: syscall.ENOENT}
