package stack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

func TestConfigErrors(t *testing.T) {
	mac := func(s string) net.HardwareAddr { m, _ := net.ParseMAC(s); return m }
	for _, tc := range []struct {
		want   string
		change func(*Config)
	}{
		{"multicast address", func(c *Config) { c.HardwareAddr = mac("01:00:5e:00:00:01") }},
		{"is not an address", func(c *Config) { c.HardwareAddr = mac("00:00:00:00:00:00") }},
		{"host's own", func(c *Config) { c.HardwareAddr = mac("02:00:00:00:00:aa") }},
		{"out of range", func(c *Config) { c.MTU = 67 }},
		{"more than the link's", func(c *Config) { c.MTU = 1501 }},
		{"at least 1280", func(c *Config) { c.MTU = 1279; c.Addrs = prefixes("fd00::1/64") }},
		{"on none of", func(c *Config) { c.Gateways = []netip.Addr{netip.MustParseAddr("10.0.1.1")} }},
		{"own address", func(c *Config) { c.Gateways = []netip.Addr{netip.MustParseAddr("10.0.0.1")} }},
		{"one for each", func(c *Config) {
			c.Gateways = []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")}
		}},
		{"network itself", func(c *Config) { c.Addrs = prefixes("10.0.0.0/24") }},
		{"broadcast", func(c *Config) { c.Addrs = prefixes("10.0.0.255/24") }},
		{"cannot be", func(c *Config) { c.Addrs = prefixes("224.0.0.1/24") }},
		{"file exists", func(c *Config) { c.Addrs = prefixes("10.0.0.1/24", "10.0.0.1/24") }},
	} {
		wire, far := link.Pipe(link.PipeConfig{HardwareAddrs: [2]net.HardwareAddr{mac("02:00:00:00:00:aa"), nil}})
		cfg := Config{Device: wire, Addrs: prefixes("10.0.0.1/24")}
		tc.change(&cfg)
		s, err := New(cfg)
		if err == nil {
			s.Close()
			t.Errorf("New took a Config with %q", tc.want)
		} else if !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "stack: ") {
			t.Errorf("New: %q, want %q in it", err, tc.want)
		}
		wire.Close()
		far.Close()
	}
	if _, err := New(Config{}); err == nil {
		t.Error("New took a Config without a Device")
	}
}

func TestChangeWhileRunning(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	ctx := testContext(t)
	extra := netip.MustParsePrefix("10.7.0.1/16")
	if err := b.AddAddr(ctx, extra); err != nil {
		t.Fatal(err)
	}
	if err := b.AddAddr(ctx, extra); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("same address again: %v, want EEXIST", err)
	}
	to := Route{Dst: netip.MustParsePrefix("10.7.0.0/16"), Gateway: netip.MustParseAddr("10.0.0.2")}
	if err := a.AddRoute(ctx, to); err != nil {
		t.Fatal(err)
	}
	if err := a.AddRoute(ctx, to); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("same route again: %v, want EEXIST", err)
	}
	if _, err := a.Ping(ctx, extra.Addr()); err != nil {
		t.Errorf("ping over the new route: %v", err)
	}
	if err := a.DelRoute(ctx, to); err != nil {
		t.Error(err)
	}
	if err := a.DelRoute(ctx, to); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("delete it again: %v, want ESRCH", err)
	}
	if _, err := a.Ping(ctx, extra.Addr()); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("ping without a route: %v, want ENETUNREACH", err)
	}
	if err := b.DelAddr(ctx, extra); err != nil {
		t.Error(err)
	}
	if err := b.DelAddr(ctx, extra); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("delete it again: %v, want EADDRNOTAVAIL", err)
	}
	for _, r := range b.Routes() {
		if r.Dst == extra.Masked() {
			t.Errorf("route %v outlived its address", r)
		}
	}
	bad := Route{Dst: netip.MustParsePrefix("10.8.0.0/16"), Gateway: netip.MustParseAddr("10.9.0.1")}
	if err := a.AddRoute(ctx, bad); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("route over an unreachable gateway: %v, want ENETUNREACH", err)
	}
}

func TestNeighbours(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	ctx := testContext(t)
	peer := netip.MustParseAddr("10.0.0.2")
	if _, err := a.Ping(ctx, peer); err != nil {
		t.Fatal(err)
	}
	find := func(ip netip.Addr) (n Neighbour, ok bool) {
		for _, n := range a.Neighbours() {
			if n.IP == ip {
				return n, true
			}
		}
		return n, false
	}
	n, ok := find(peer)
	if !ok || n.State != "reachable" || n.HardwareAddr.String() != b.HardwareAddr().String() || time.Since(n.Updated) > time.Minute {
		t.Errorf("neighbour %+v, want %v reachable", n, b.HardwareAddr())
	}
	// With a permanent entry to nowhere, the peer cannot be reached any more.
	if err := a.AddNeighbour(ctx, peer, net.HardwareAddr{2, 9, 9, 9, 9, 9}); err != nil {
		t.Fatal(err)
	}
	if n, _ := find(peer); n.State != "permanent" {
		t.Errorf("neighbour %+v, want it permanent", n)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := a.Ping(short, peer); err == nil {
		t.Error("ping reached a station by another's hardware address")
	}
	if got := b.Links()[0].Stats.Drops["rx_otherhost"]; got == 0 {
		t.Error("a frame for another station was not counted")
	}
	if err := a.DelNeighbour(ctx, peer); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Ping(ctx, peer); err != nil {
		t.Errorf("ping after the entry was removed: %v", err)
	}
	if err := a.DelNeighbour(ctx, netip.MustParseAddr("10.0.0.99")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("delete an entry that is not there: %v, want ENOENT", err)
	}
	if err := a.AddNeighbour(ctx, peer, net.HardwareAddr{1, 2}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("hardware address of 2 bytes: %v, want EINVAL", err)
	}
}

func TestSnake(t *testing.T) {
	for in, want := range map[string]string{
		"IP": "ip", "PacketsReceived": "packets_received", "ICMPv4PacketStats": "icmpv4_packet_stats",
		"V4": "v4", "UDPChecksumErrors": "udp_checksum_errors", "SegmentsAckedWithDSACK": "segments_acked_with_dsack",
	} {
		if got := snake(in); got != want {
			t.Errorf("snake(%q) = %q, want %q", in, got, want)
		}
	}
}
