package runner

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func FuzzSockaddr(f *testing.F) {
	for _, a := range []string{"127.0.0.1:80", "10.0.0.4:65535", "[::1]:443", "[::ffff:10.0.0.4]:1", "[fe80::1%3]:22"} {
		ap := netip.MustParseAddrPort(a)
		f.Add(appendSockaddr(nil, unix.AF_INET6, ap), true)
		if ap.Addr().Is4() {
			f.Add(appendSockaddr(nil, unix.AF_INET, ap), false)
		}
	}
	f.Add([]byte{0, 0}, false)
	f.Add([]byte{}, true)
	f.Add(bytes.Repeat([]byte{0xff}, maxSockaddr+1), true)
	f.Fuzz(func(t *testing.T, b []byte, six bool) {
		domain := unix.AF_INET
		if six {
			domain = unix.AF_INET6
		}
		s, errno := parseSockaddr(b, domain)
		switch {
		case errno != 0:
			if s.addr.IsValid() {
				t.Fatalf("%x: an error and an address", b)
			}
			return
		case s.family == unix.AF_UNSPEC:
			if s.addr.IsValid() {
				t.Fatalf("%x: AF_UNSPEC has an address", b)
			}
			return
		case int(s.family) != domain || s.addr.Addr().Is4() == six:
			t.Fatalf("%x: %+v on domain %d", b, s, domain)
		}
		again, errno := parseSockaddr(appendSockaddr(nil, domain, s.addr), domain)
		if errno != 0 || again != s {
			t.Fatalf("%x: %+v became %+v, %v", b, s, again, errno)
		}
		if w := parseWire(s.wire()); w.Port() != s.addr.Port() || w.Addr() != s.addr.Addr().Unmap() {
			t.Fatalf("%v goes over the wire as %v", s.addr, w)
		}
	})
}
