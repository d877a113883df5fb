package control_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

func startServer(t *testing.T, b *controltest.Backend) (*control.Server, *control.Client) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	s := control.NewServer(control.ServerConfig{Backend: b, Path: path})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	c := &control.Client{Path: path}
	t.Cleanup(func() {
		c.Close()
		s.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, c
}

func TestSmoke(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	st, err := c.Status(ctx)
	if err != nil || st.Version != "test" {
		t.Fatal(st, err)
	}
	if err := c.AddAddr(ctx, netip.MustParsePrefix("10.0.0.4/24")); err != nil {
		t.Fatal(err)
	}
	if err := c.AddAddr(ctx, netip.MustParsePrefix("10.0.0.4/24")); !errors.Is(err, syscall.EEXIST) {
		t.Fatal(err)
	}
	l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		a, err := l.Accept()
		if err != nil {
			return
		}
		io.Copy(a, a)
		a.Close()
	}()
	conn, err := c.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	conn.(*control.StreamConn).CloseWrite()
	b, err := io.ReadAll(conn)
	if err != nil || string(b) != "hello" {
		t.Fatalf("%q %v", b, err)
	}
	conn.Close()
	addr := l.Addr().String()
	l.Close()
	if _, err := c.DialContext(ctx, "tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	} else {
		t.Log(err)
	}
	if _, err := c.DialContext(ctx, "tcp", "nix.test:80"); err == nil {
		t.Fatal()
	} else {
		t.Log(err)
	}
	pc, err := c.ListenPacket(ctx, "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := c.DialContext(ctx, "udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 1400, 65507} {
		if _, err := u.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 70000)
		m, from, err := pc.ReadFrom(buf)
		if err != nil || m != n || from.String() != u.LocalAddr().String() {
			t.Fatal(m, from, err)
		}
		if _, err := pc.WriteTo(buf[:m], from); err != nil {
			t.Fatal(err)
		}
		if m, err = u.Read(buf); err != nil || m != n {
			t.Fatal(m, err)
		}
	}
	pc.Close()
	u.Write([]byte("x"))
	u.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := u.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
	u.Close()
	ic, err := c.ListenICMP(ctx, "ip4")
	if err != nil {
		t.Fatal(err)
	}
	if err := ic.WriteICMP([]byte{8, 0, 0, 0, 1, 2, 3, 4}, netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Fatal(err)
	}
	m, err := ic.ReadICMP()
	if err != nil || m.Data[0] != 0 || m.TTL != 64 || m.At.IsZero() {
		t.Fatal(m, err)
	}
	if err := ic.WriteICMP([]byte{8, 0, 0, 0, 1, 2, 3, 4}, netip.MustParseAddr("192.0.2.1")); !errors.Is(err, syscall.ENETUNREACH) {
		t.Fatal(err)
	}
	ic.Close()
	if _, err := (&control.Client{Path: "/nonexistent/s"}).Status(ctx); !errors.Is(err, control.ErrNoDaemon) {
		t.Fatal(err)
	} else {
		t.Log(err)
	}
	var _ net.Conn = u
}
