package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

func TestNames(t *testing.T) {
	file := filepath.Join(t.TempDir(), "services")
	if err := os.WriteFile(file, []byte("# comment\nhttp\t80/tcp\twww # web\nwww-http 80/tcp\ndomain 53/udp\nbroken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNames()
	defer n.close()
	n.ports = services(file)
	for _, c := range []struct {
		proto string
		port  uint16
		want  string
	}{{"tcp", 80, "http"}, {"udp", 80, ""}, {"udp", 53, "domain"}, {"tcp", 1, ""}} {
		if got := n.port(c.proto, c.port); got != c.want {
			t.Errorf("%d/%s is %q", c.port, c.proto, got)
		}
	}
	if n := len(services(filepath.Join(t.TempDir(), "none"))); n != 0 {
		t.Errorf("%d services of no file", n)
	}
	// Nobody waits for a name, and what is asked for is bounded.
	for i := range 2 * nameLimit {
		if name := n.host(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})); name != "" && i > 1000 {
			t.Errorf("%d is %q at once", i, name)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) > nameLimit {
		t.Errorf("%d names are kept", len(n.known))
	}
}
