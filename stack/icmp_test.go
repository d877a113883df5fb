package stack

import (
	"bytes"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

// echo sends an echo request of size bytes in all and waits for its reply.
func echo(c *ICMPConn, to netip.Addr, size int) (ICMPMessage, error) {
	msg := bytes.Repeat([]byte{7}, size)
	msg[0], msg[1] = 8, 0
	reply := byte(0)
	if to.Is6() {
		msg[0], reply = 128, 129
	}
	if err := c.WriteICMP(msg, to); err != nil {
		return ICMPMessage{}, err
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		m, err := c.ReadICMP()
		if err != nil || m.Data[0] == reply && len(m.Data) == size {
			return m, err
		}
	}
}

func TestEcho(t *testing.T) {
	a, _ := pair(t, link.PipeConfig{})
	for _, tc := range []struct{ network, to string }{
		{"ip4", "10.0.0.2"}, {"ip6", "fd00::2"}, {"ip4", "10.0.0.1"}, {"ip6", "fd00::1"}, {"ip4", "127.0.0.1"}, {"ip6", "::1"},
	} {
		c, err := a.ICMP(tc.network)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		to := netip.MustParseAddr(tc.to)
		for _, size := range []int{8, 64, 1480, 1481, 4008, 60008} { // fragments above the MTU
			m, err := echo(c, to, size)
			if err != nil || m.From != to || m.TTL != 64 || !bytes.Equal(m.Data[8:], bytes.Repeat([]byte{7}, size-8)) {
				t.Errorf("%s, %d bytes: %d bytes from %v, TTL %d, %v", tc.to, size, len(m.Data), m.From, m.TTL, err)
			}
		}
	}
}

func TestICMPErrors(t *testing.T) {
	a, _ := pair(t, link.PipeConfig{})
	c, err := a.ICMP("ip4")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer := netip.MustParseAddr("10.0.0.2")
	msg := make([]byte, 2000)
	msg[0] = 8
	if err := c.SetOption("ip.mtu_discover", pmtuDo); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteICMP(msg, peer); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("2000 bytes that may not be fragmented: %v, want EMSGSIZE", err)
	}
	for to, want := range map[string]error{"10.0.0.255": syscall.EACCES, "192.0.2.1": syscall.ENETUNREACH, "fd00::2": syscall.EINVAL} {
		if err := c.WriteICMP(msg[:8], netip.MustParseAddr(to)); !errors.Is(err, want) {
			t.Errorf("write to %s: %v, want %v", to, err, want)
		}
	}
	if err := c.WriteICMP(msg[:3], peer); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("write of 3 bytes: %v, want EINVAL", err)
	}
}

// TestUnreachable pings a station that is not there: the stack itself reports it,
// quoting the request.
func TestUnreachable(t *testing.T) {
	a, _ := pair(t, link.PipeConfig{})
	for network, to := range map[string]string{"ip4": "10.0.0.99", "ip6": "fd00::99"} {
		c, err := a.ICMP(network)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		msg := []byte{8, 0, 0, 0, 0xab, 0xcd, 0, 1}
		want, at := []byte{3, 1}, 8+20
		if network == "ip6" {
			msg[0], want, at = 128, []byte{1, 3}, 8+40
		}
		if err := c.WriteICMP(msg, netip.MustParseAddr(to)); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		m, err := c.ReadICMP()
		for err == nil && (m.Data[0] == 135 || m.Data[0] == 136) { // neighbour discovery of both stations
			m, err = c.ReadICMP()
		}
		if err != nil || !bytes.Equal(m.Data[:2], want) || !bytes.Equal(m.Data[at+4:at+8], msg[4:]) {
			t.Errorf("%s: % x from %v, %v", to, m.Data, m.From, err)
		}
	}
}
