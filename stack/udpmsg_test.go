package stack

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

func TestUDPMessages(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	for _, tt := range []struct{ network, any, a, b string }{
		{"udp4", "0.0.0.0", "10.0.0.1", "10.0.0.2"},
		{"udp6", "::", "fd00::1", "fd00::2"},
		{"udp6", "::", "10.0.0.1", "10.0.0.2"},
	} {
		server, err := b.UDPOptions(tt.network, netip.AddrPortFrom(netip.MustParseAddr(tt.any), 0), netip.AddrPort{},
			map[string]int{"so.reuseaddr": 1, "so.rcvbuf": 100000})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		at, _ := addrPort(server.LocalAddr())
		at = netip.AddrPortFrom(netip.MustParseAddr(tt.b), at.Port())
		client, err := a.UDP(tt.network, netip.AddrPortFrom(netip.MustParseAddr(tt.any), 0), netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		deadline := time.Now().Add(10 * time.Second)
		server.SetDeadline(deadline)
		client.SetDeadline(deadline)
		from := netip.MustParseAddr(tt.a)
		buf := make([]byte, 4000)
		for _, size := range []int{0, 1, 3000} {
			if err := client.WriteMessage(make([]byte, size), at, from, 7); err != nil {
				t.Fatalf("%s to %v from %v: %v", tt.network, at, from, err)
			}
			m, err := server.ReadMessage(buf)
			if err != nil || m.N != size || m.From.Addr() != from || m.To != at.Addr() || m.TTL != 7 {
				t.Fatalf("%s to %v: %+v, %v", tt.network, at, m, err)
			}
		}
		if err := client.WriteMessage(nil, at, netip.MustParseAddr(tt.b), 0); err == nil {
			t.Errorf("%s: sent from another's address", tt.network)
		}
		// A connected one may send elsewhere, and receives from its peer.
		local, _ := addrPort(client.LocalAddr())
		if err := server.Connect(netip.AddrPortFrom(from, local.Port())); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Write([]byte("connected")); err != nil {
			t.Fatal(err)
		}
		if n, _, err := client.ReadFromUDPAddrPort(buf); string(buf[:n]) != "connected" || err != nil {
			t.Fatalf("%q, %v", buf[:n], err)
		}
		if err := server.Connect(netip.AddrPort{}); err != nil {
			t.Fatal(err)
		}
		if server.RemoteAddr() != nil {
			t.Errorf("still connected to %v", server.RemoteAddr())
		}
		if err := client.WriteMessage([]byte("anybody"), at, netip.Addr{}, 0); err != nil {
			t.Fatal(err)
		}
		if m, err := server.ReadMessage(buf); string(buf[:m.N]) != "anybody" || err != nil {
			t.Fatalf("%q, %v", buf[:m.N], err)
		}
	}
}

func TestUDPMembership(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	group := netip.MustParseAddr("239.1.2.3")
	server, err := b.UDP("udp4", netip.MustParseAddrPort("0.0.0.0:5353"), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := server.Join(group, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if err := server.Join(group, netip.Addr{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("joined twice: %v", err)
	}
	if err := server.Join(netip.MustParseAddr("10.0.0.1"), netip.Addr{}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("joined an address: %v", err)
	}
	client, err := a.UDP("udp4", netip.MustParseAddrPort("0.0.0.0:0"), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server.SetDeadline(time.Now().Add(10 * time.Second))
	if err := client.WriteMessage([]byte("all"), netip.AddrPortFrom(group, 5353), netip.MustParseAddr("10.0.0.1"), 0); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, from, err := server.ReadFromUDPAddrPort(buf); string(buf[:n]) != "all" || err != nil {
		t.Errorf("%q from %v, %v", buf[:n], from, err)
	}
	if err := server.Leave(group, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if err := server.Leave(group, netip.Addr{}); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("left twice: %v", err)
	}
}
