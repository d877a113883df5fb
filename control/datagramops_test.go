package control_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

// A socket that received from anybody is connected, and the other way round, with another
// descriptor each time.
func TestUDPConnectedLater(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	s, err := c.OpenSession(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	_ = peer.SetDeadline(time.Now().Add(10 * time.Second))
	call := func(r control.Request, fd int) control.Reply {
		t.Helper()
		rep, err := s.Call(testContext(t), r, fd)
		if err != nil {
			t.Fatalf("%s: %v", r.Op, err)
		}
		return rep
	}
	pair := func(typ int) (own, theirs int) {
		fds, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fds[0]) })
		return fds[0], fds[1]
	}
	read := func(fd int) []byte {
		t.Helper()
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1000)
		n, err := unix.Read(fd, b)
		if err != nil {
			t.Fatal(err)
		}
		return b[:n]
	}

	own, theirs := pair(unix.SOCK_SEQPACKET)
	rep := call(control.Request{Op: "udp", Network: "udp4", Local: "127.0.0.1:0", Framed: true, Info: true}, theirs)
	local := net.UDPAddrFromAddrPort(mustAddrPort(t, rep.Local))
	if _, err := peer.WriteTo([]byte("one"), local); err != nil {
		t.Fatal(err)
	}
	b := read(own)
	if len(b) != 51 || b[0] != 1 || int(binary.BigEndian.Uint16(b[2:])) != peer.LocalAddr().(*net.UDPAddr).Port || string(b[48:]) != "one" {
		t.Fatalf("%q", b)
	}
	if _, err := s.Call(testContext(t), control.Request{Op: "connect", Flow: rep.Flow, Address: peer.LocalAddr().String()}, -1); !errors.Is(err, syscall.EISCONN) {
		t.Errorf("connect with a descriptor: %v", err)
	}
	call(control.Request{Op: "detach", Flow: rep.Flow}, -1)
	if _, err := s.Call(testContext(t), control.Request{Op: "detach", Flow: rep.Flow}, -1); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("detach twice: %v", err)
	}
	if b := read(own); len(b) != 0 {
		t.Errorf("%q after detach", b)
	}
	// What comes in between is there afterwards.
	if _, err := peer.WriteTo([]byte("two"), local); err != nil {
		t.Fatal(err)
	}
	if r := call(control.Request{Op: "connect", Flow: rep.Flow, Address: peer.LocalAddr().String()}, -1); r.Remote != peer.LocalAddr().String() {
		t.Errorf("connected to %q", r.Remote)
	}
	bare, theirs := pair(unix.SOCK_DGRAM)
	call(control.Request{Op: "attach", Flow: rep.Flow}, theirs)
	if b := read(bare); string(b) != "two" {
		t.Errorf("%q", b)
	}
	if _, err := unix.Write(bare, []byte("three")); err != nil {
		t.Fatal(err)
	}
	n, _, err := peer.ReadFromUDP(b[:cap(b)])
	if err != nil || string(b[:n]) != "three" {
		t.Errorf("%q, %v", b[:n], err)
	}
	// Written and detached: it goes out.
	if _, err := unix.Write(bare, []byte("four")); err != nil {
		t.Fatal(err)
	}
	call(control.Request{Op: "detach", Flow: rep.Flow}, -1)
	if n, _, err := peer.ReadFromUDP(b[:cap(b)]); err != nil || string(b[:n]) != "four" {
		t.Errorf("%q, %v", b[:n], err)
	}
	for _, r := range []control.Request{
		{Op: "connect", Flow: rep.Flow, Address: "nonsense"}, {Op: "send", Flow: rep.Flow, Address: "x"},
		{Op: "send", Flow: rep.Flow, Address: "127.0.0.1:1", Local: "x"}, {Op: "join", Flow: rep.Flow, Address: "x"},
		{Op: "leave", Flow: rep.Flow, Address: "224.0.0.251", Local: "x"},
	} {
		if _, err := s.Call(testContext(t), r, -1); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s %s: %v", r.Op, r.Address, err)
		}
	}
	if _, err := s.Call(testContext(t), control.Request{Op: "detach", Flow: 4711}, -1); !errors.Is(err, syscall.EBADF) {
		t.Errorf("detach of no flow: %v", err)
	}
}

func TestUDPSendOne(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	s, err := c.OpenSession(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	_ = peer.SetDeadline(time.Now().Add(10 * time.Second))
	rep, err := s.Call(testContext(t), control.Request{Op: "udp", Network: "udp4", Local: "127.0.0.1:0", Framed: true}, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Call(testContext(t), control.Request{Op: "send", Flow: rep.Flow, Address: peer.LocalAddr().String(), Data: []byte("one")}, -1); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, _, err := peer.ReadFromUDP(b); err != nil || string(b[:n]) != "one" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if _, err := s.Call(testContext(t), control.Request{Op: "send", Flow: rep.Flow, Address: "[::1]:1", Data: []byte("x")}, -1); err == nil {
		t.Error("IPv6 from an IPv4 socket")
	}
}

func mustAddrPort(t *testing.T, s string) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
