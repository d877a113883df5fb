package stack

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

func TestUDP(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	for _, ip := range []string{"10.0.0.2", "fd00::2"} {
		server, err := b.ListenPacket("udp", net.JoinHostPort(ip, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		client, err := a.Dial("udp", server.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for _, size := range []int{0, 1, 1472, 1473, 9000, 65507} { // fragments above the MTU
			if n, err := client.Write(make([]byte, size)); n != size || err != nil {
				t.Fatalf("write %d bytes to %s: %d, %v", size, ip, n, err)
			}
			buf := make([]byte, 65536)
			server.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, from, err := server.ReadFrom(buf)
			if n != size || err != nil || from.String() != client.LocalAddr().String() {
				t.Fatalf("read %d bytes from %v, %v; want %d from %v", n, from, err, size, client.LocalAddr())
			}
			if n, err := server.WriteTo(buf[:size], from); n != size || err != nil {
				t.Fatalf("answer %d bytes: %d, %v", size, n, err)
			}
			client.SetReadDeadline(time.Now().Add(10 * time.Second))
			if n, err := client.Read(buf); n != size || err != nil {
				t.Fatalf("read the answer: %d bytes, %v; want %d", n, err, size)
			}
		}
		if _, err := client.Write(make([]byte, 65508)); !errors.Is(err, syscall.EMSGSIZE) && ip == "10.0.0.2" {
			t.Errorf("write of 65508 bytes: %v, want EMSGSIZE", err)
		}
	}
}

// Where fragments are forbidden, for one family or the other, a datagram longer than the MTU is not sent.
func TestUDPInOnePiece(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	for _, tt := range []struct {
		ip, option string
		fits       int
	}{{"10.0.0.2", "ip.mtu_discover", 1472}, {"fd00::2", "ipv6.mtu_discover", 1452}} {
		server, err := b.ListenPacket("udp", net.JoinHostPort(tt.ip, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		client, err := a.ListenPacket("udp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c := client.(*UDPConn)
		for mode, want := range []error{nil, nil, syscall.EMSGSIZE} {
			if err := c.SetOption(tt.option, mode); err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{tt.fits, tt.fits + 1} {
				_, err := c.WriteTo(make([]byte, size), server.LocalAddr())
				if size > tt.fits && !errors.Is(err, want) || size == tt.fits && err != nil {
					t.Errorf("%s %d: %d bytes: %v", tt.option, mode, size, err)
				}
				if err == nil {
					server.SetReadDeadline(time.Now().Add(10 * time.Second))
					if n, _, err := server.ReadFrom(make([]byte, 2000)); n != size || err != nil {
						t.Errorf("%s %d: read %d of %d bytes: %v", tt.option, mode, n, size, err)
					}
				}
			}
		}
		if err := c.SetOption(tt.option, 7); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s 7: %v", tt.option, err)
		}
	}
}

func TestUDPAnyTakesBothFamilies(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	server, err := b.ListenPacket("udp", ":9")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for _, ip := range []string{"10.0.0.2", "fd00::2"} {
		c, err := a.Dial("udp", net.JoinHostPort(ip, "9"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("x"))
		server.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, from, err := server.ReadFrom(make([]byte, 10))
		if err != nil || from.String() != c.LocalAddr().String() {
			t.Errorf("%s: from %v, %v; want %v", ip, from, err, c.LocalAddr())
		}
	}
	only4, err := b.ListenPacket("udp4", ":10")
	if err != nil {
		t.Fatal(err)
	}
	defer only4.Close()
	only6, err := b.ListenPacket("udp6", ":10") // both at once, as in the kernel
	if err != nil {
		t.Fatal(err)
	}
	only6.Close()
}

func TestUDPErrors(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	c, err := a.Dial("udp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("x"))
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("read after port unreachable: %v, want ECONNREFUSED", err)
	}
	if _, err := c.(*UDPConn).WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 7}); !errors.Is(err, net.ErrWriteToConnected) {
		t.Errorf("WriteTo on a connected socket: %v", err)
	}
	p, err := b.ListenPacket("udp4", "10.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.ListenPacket("udp4", p.LocalAddr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second bind: %v, want EADDRINUSE", err)
	}
	if _, err := b.ListenPacket("udp4", "10.9.9.9:0"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("bind to a foreign address: %v, want EADDRNOTAVAIL", err)
	}
	p.SetReadDeadline(time.Now().Add(-time.Second))
	if _, _, err := p.ReadFrom(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after the deadline: %v", err)
	}
	p.SetReadDeadline(time.Time{})
	time.AfterFunc(10*time.Millisecond, func() { p.Close() })
	if _, _, err := p.ReadFrom(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of a closed socket: %v", err)
	}
	if _, err := a.UDP("udp4", netip.AddrPort{}, netip.MustParseAddrPort("[::1]:1")); !errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Errorf("udp4 to an IPv6 address: %v", err)
	}
}
