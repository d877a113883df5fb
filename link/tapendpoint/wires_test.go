package tapendpoint_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/stack"
)

const allOffloads = link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6 | link.OffloadECN

func newStack(t *testing.T, dev link.Device, addrs ...string) *stack.Stack {
	t.Helper()
	cfg := stack.Config{Device: dev}
	for _, a := range addrs {
		cfg.Addrs = append(cfg.Addrs, netip.MustParsePrefix(a))
	}
	s, err := stack.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// exchange sends random bytes one way and then the other over one connection, and
// wants them to arrive as they were.
func exchange(t *testing.T, a, b *stack.Stack, addr string, size int) {
	t.Helper()
	// netstack takes the time until a repeated segment is acknowledged for a round trip, so
	// that a few losses in a row may cost tens of seconds.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	l, err := b.Listen("tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := a.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	deadline, _ := ctx.Deadline()
	client.SetDeadline(deadline)
	server.SetDeadline(deadline)

	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	want := sha256.Sum256(data)
	for _, c := range [][2]net.Conn{{client, server}, {server, client}} {
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := io.Copy(c[0], bytes.NewReader(data)); err != nil {
				t.Errorf("write: %v", err)
			}
			c[0].(*stack.TCPConn).CloseWrite()
		})
		h := sha256.New()
		if n, err := io.Copy(h, c[1]); err != nil || n != int64(size) || [32]byte(h.Sum(nil)) != want {
			t.Errorf("read %d bytes of %d, or others: %v", n, size, err)
		}
		wg.Wait()
	}
}

// Stacks whose wires take offloads and such whose wires take none understand each
// other, when the frames are finished in between; and what an impaired wire does to
// frames is repaired.
func TestWires(t *testing.T) {
	same := func(d link.Device) link.Device { return d }
	complete := func(takes link.Offloads) func(link.Device) link.Device {
		return func(d link.Device) link.Device { return link.Complete(d, takes) }
	}
	impair := func(cfg link.ImpairConfig) func(link.Device) link.Device {
		return func(d link.Device) link.Device {
			d, err := link.Impair(d, cfg)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	}
	for _, c := range []struct {
		name string
		wire link.Offloads
		a, b func(link.Device) link.Device
		size int
		gone []string // what a must have dropped
	}{
		{"a finishes", 0, complete(0), same, 4 << 20, nil},
		{"both finish", 0, complete(0), complete(0), 4 << 20, nil},
		{"b takes none", allOffloads, same, complete(0), 4 << 20, nil},
		{"b takes checksums", allOffloads, same, complete(link.OffloadCsum), 4 << 20, nil},
		{"the wire takes IPv4", link.OffloadTSO4, complete(allOffloads), complete(allOffloads), 4 << 20, nil},
		{"delay and rate", 0, impair(link.ImpairConfig{Delay: 2 * time.Millisecond, Rate: 1e9}), same, 1 << 20, nil},
		{"loss", allOffloads, impair(link.ImpairConfig{Delay: time.Millisecond, Loss: 0.01, Duplicate: 0.01, Reorder: 0.01, Seed: 1}), same, 1 << 19, []string{"rx_lost", "tx_lost"}},
		{"damage", allOffloads, impair(link.ImpairConfig{Corrupt: 0.01, Seed: 2}), same, 1 << 19, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, y := link.Pipe(link.PipeConfig{Offloads: c.wire, Depth: 4096})
			a := c.a(x)
			one := newStack(t, a, "10.0.0.1/24", "fd00::1/64")
			two := newStack(t, c.b(y), "10.0.0.2/24", "fd00::2/64")
			exchange(t, one, two, "fd00::2", c.size)
			// ARP has no checksum (RFC 826), so that damage could break more than is meant.
			if c.name != "damage" {
				exchange(t, one, two, "10.0.0.2", c.size)
			}
			drops := a.Stats().Drops
			for _, why := range c.gone {
				if drops[why] == 0 {
					t.Errorf("none dropped as %s: %v", why, drops)
				}
			}
			if drops["tx_offload"]+drops["rx_offload"] != 0 {
				t.Errorf("dropped %v", drops)
			}
		})
	}
}
