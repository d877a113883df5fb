package stack_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/tap"
	"github.com/ustack/ustack/stack"
)

// tapStack returns a stack at 10.0.0.4 and fd00::4 on a tap of a namespace, whose
// kernel is 10.0.0.5 and fd00::5.
func tapStack(t testing.TB, cfg tap.Config) (*netlab.NS, *stack.Stack) {
	t.Helper()
	netlab.Require(t)
	ns := netlab.New(t, "host")
	dev := openTap(t, ns, cfg)
	ns.Up(t, cfg.Name)
	ns.Addr(t, cfg.Name, "10.0.0.5/24")
	ns.Addr(t, cfg.Name, "fd00::5/64")
	s, err := stack.New(stack.Config{Device: dev, Addrs: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.4/24"), netip.MustParsePrefix("fd00::4/64"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return ns, s
}

// openTap opens a tap of a namespace.
func openTap(t testing.TB, ns *netlab.NS, cfg tap.Config) (dev link.Device) {
	t.Helper()
	ns.Do(t, func() {
		var err error
		if dev, err = tap.Open(cfg); err != nil {
			t.Fatal(err)
		}
	})
	return dev
}

// tapKinds are the ways to open a tap.
func tapKinds() map[string]tap.Config {
	return map[string]tap.Config{
		"native":     {},
		"offloadOff": {Offload: tap.OffloadOff},
		"queues":     {Queues: 2},
		"water":      {Driver: tap.DriverWater},
	}
}

// TestConnsOverTaps holds connections of two stacks to what package net promises, on
// taps that a bridge joins: one of each kind and one with offloads, so that what
// either kernel path does to a frame is met.
func TestConnsOverTaps(t *testing.T) {
	for name, cfg := range tapKinds() {
		t.Run(name, func(t *testing.T) {
			netlab.Require(t)
			ns := netlab.New(t, "host")
			cfg.Name = "tap0"
			var stacks [2]*stack.Stack
			for i, c := range []tap.Config{cfg, {Name: "tap1"}} {
				s, err := stack.New(stack.Config{Device: openTap(t, ns, c), Addrs: []netip.Prefix{
					netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd00::%d/64", i+1)),
				}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				stacks[i] = s
			}
			ns.Bridge(t, "br0", "tap0", "tap1")
			for _, addr := range []string{"10.0.0.2:0", "[fd00::2]:0"} {
				t.Run(addr, func(t *testing.T) {
					l, err := stacks[1].Listen("tcp", addr)
					if err != nil {
						t.Fatal(err)
					}
					defer l.Close()
					nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
						return connectTo(l, stacks[0].DialContext)
					})
				})
			}
		})
	}
}

// TestConnsWithTheKernel is the same with a kernel socket at the other end.
func TestConnsWithTheKernel(t *testing.T) {
	for name, cfg := range tapKinds() {
		t.Run(name, func(t *testing.T) {
			cfg.Name = "tap0"
			ns, s := tapStack(t, cfg)
			kernel := listenIn(t, ns, "[fd00::5]:0")
			defer kernel.Close()
			ours, err := s.Listen("tcp", "10.0.0.4:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			t.Run("dialled", func(t *testing.T) {
				nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
					return connectTo(kernel, s.DialContext)
				})
			})
			t.Run("accepted", func(t *testing.T) {
				nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
					return connectTo(ours, func(ctx context.Context, network, addr string) (c net.Conn, err error) {
						ns.Do(t, func() { c, err = new(net.Dialer).DialContext(ctx, network, addr) })
						return c, err
					})
				})
			})
		})
	}
}

// connectTo returns both ends of a new connection to a listener.
func connectTo(l net.Listener, dial func(ctx context.Context, network, addr string) (net.Conn, error)) (c1, c2 net.Conn, stop func(), err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if c1, err = dial(ctx, "tcp", l.Addr().String()); err != nil {
		return nil, nil, nil, err
	}
	if c2, err = l.Accept(); err != nil {
		c1.Close()
		return nil, nil, nil, err
	}
	return c1, c2, func() { c1.Close(); c2.Close() }, nil
}

// listenIn listens with a kernel socket.
func listenIn(t testing.TB, ns *netlab.NS, addr string) (l net.Listener) {
	t.Helper()
	ns.Do(t, func() {
		var err error
		if l, err = net.Listen("tcp", addr); err != nil {
			t.Fatal(err)
		}
	})
	return l
}

// TestKernelPeer moves data between the stack and kernel sockets both ways, over
// both families and every driver, and checks the content: a wrong checksum is
// silent where both sides trust the offloads.
func TestKernelPeer(t *testing.T) {
	for name, cfg := range tapKinds() {
		t.Run(name, func(t *testing.T) {
			cfg.Name = "tap0"
			ns, s := tapStack(t, cfg)
			for _, ips := range [][2]string{{"10.0.0.4", "10.0.0.5"}, {"fd00::4", "fd00::5"}} {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				defer cancel()
				l := listenIn(t, ns, net.JoinHostPort(ips[1], "0"))
				defer l.Close()
				accepted := make(chan net.Conn, 1)
				go func() {
					if k, err := l.Accept(); err == nil {
						accepted <- k
					}
				}()
				c, err := s.DialContext(ctx, "tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				k := <-accepted
				const size = 16 << 20
				for _, way := range []struct {
					name     string
					from, to net.Conn
				}{{"from the stack", c, k}, {"to the stack", k, c}} {
					start := time.Now()
					if err := transfer(way.from, way.to, size); err != nil {
						t.Errorf("%s %s: %v", ips[0], way.name, err)
					}
					t.Logf("%s %s: %.1f Gbit/s", ips[0], way.name, size*8/time.Since(start).Seconds()/1e9)
				}
				c.Close()
				k.Close()
			}
		})
	}
}

// transfer moves size random bytes and compares their hashes.
func transfer(from io.Writer, to io.Reader, size int64) error {
	block := make([]byte, 256<<10)
	src := rand.NewChaCha8([32]byte{1})
	src.Read(block)
	errs := make(chan error, 1)
	want := sha256.New()
	go func() {
		var err error
		for left := size; left > 0 && err == nil; left -= int64(len(block)) {
			_, err = from.Write(block)
		}
		errs <- err
	}()
	for left := size; left > 0; left -= int64(len(block)) {
		want.Write(block)
	}
	got := sha256.New()
	if _, err := io.CopyN(got, to, size); err != nil {
		return err
	}
	if err := <-errs; err != nil {
		return err
	}
	if string(got.Sum(nil)) != string(want.Sum(nil)) {
		return fmt.Errorf("content changed on its way")
	}
	return nil
}

func TestPingKernel(t *testing.T) {
	_, s := tapStack(t, tap.Config{Name: "tap0"})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, ip := range []string{"10.0.0.5", "fd00::5", "10.0.0.4"} {
		d, err := s.Ping(ctx, netip.MustParseAddr(ip))
		t.Log(ip, d)
		if err != nil || d <= 0 {
			t.Errorf("ping %s: %v, %v", ip, d, err)
		}
	}
}
