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
	var dev link.Device
	ns.Do(t, func() {
		var err error
		if dev, err = tap.Open(cfg); err != nil {
			t.Fatal(err)
		}
	})
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

// TestKernelPeer moves data between the stack and kernel sockets both ways, over
// both families and every driver, and checks the content: a wrong checksum is
// silent where both sides trust the offloads.
func TestKernelPeer(t *testing.T) {
	for name, cfg := range map[string]tap.Config{
		"native":     {},
		"offloadOff": {Offload: tap.OffloadOff},
		"queues":     {Queues: 2},
		"water":      {Driver: tap.DriverWater},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Name = "tap0"
			ns, s := tapStack(t, cfg)
			for _, ips := range [][2]string{{"10.0.0.4", "10.0.0.5"}, {"fd00::4", "fd00::5"}} {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				defer cancel()
				var l net.Listener
				ns.Do(t, func() {
					var err error
					if l, err = net.Listen("tcp", net.JoinHostPort(ips[1], "0")); err != nil {
						t.Fatal(err)
					}
				})
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
