package control_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

func TestUDP(t *testing.T) {
	for _, network := range []string{"udp4", "udp6"} {
		t.Run(network, func(t *testing.T) {
			_, c := startServer(t, &controltest.Backend{})
			address := map[string]string{"udp4": "127.0.0.1:0", "udp6": "[::1]:0"}[network]
			pc, err := c.ListenPacket(testContext(t), network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			conn, err := c.DialContext(testContext(t), "udp", pc.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			deadline := time.Now().Add(10 * time.Second)
			pc.SetDeadline(deadline)
			conn.SetDeadline(deadline)
			buf := make([]byte, 70000)
			for _, n := range []int{0, 1, 1472, 65507} {
				sent := bytes.Repeat([]byte{byte(n)}, n)
				if m, err := conn.Write(sent); m != n || err != nil {
					t.Fatal(m, err)
				}
				m, from, err := pc.ReadFrom(buf)
				if err != nil || !bytes.Equal(buf[:m], sent) || from.String() != conn.LocalAddr().String() {
					t.Fatalf("%d bytes: got %d from %v, %v", n, m, from, err)
				}
				if _, err := pc.WriteTo(buf[:m], from); err != nil {
					t.Fatal(err)
				}
				if m, err := conn.Read(buf); err != nil || !bytes.Equal(buf[:m], sent) {
					t.Fatalf("%d bytes: got %d back, %v", n, m, err)
				}
			}
			if _, err := conn.Write(make([]byte, 65528)); !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("65,528 bytes: %v", err)
			}
			if _, err := pc.WriteTo(nil, nil); err == nil {
				t.Error("WriteTo nowhere succeeds")
			}
			if _, err := conn.(*control.DatagramConn).WriteTo(nil, pc.LocalAddr()); !errors.Is(err, net.ErrWriteToConnected) {
				t.Errorf("WriteTo on a connected socket: %v", err)
			}
			conn.SetReadDeadline(time.Unix(1, 0))
			if _, err := conn.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read after the deadline: %v", err)
			}
			conn.SetReadDeadline(deadline)
			pc.Close()
			if _, _, err := pc.ReadFrom(buf); !errors.Is(err, net.ErrClosed) {
				t.Errorf("read after Close: %v", err)
			}
			conn.Write([]byte("x"))
			if _, err := conn.Read(buf); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("read after the peer has gone: %v", err)
			}
		})
	}
}

func TestUDPAnyFamily(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	pc, err := c.ListenPacket(testContext(t), "udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	pc.SetDeadline(time.Now().Add(10 * time.Second))
	port := pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	for _, a := range []string{"127.0.0.1", "::1"} {
		k, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(a), port).String())
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		k.Write([]byte(a))
		buf := make([]byte, 100)
		n, from, err := pc.ReadFrom(buf)
		if err != nil || string(buf[:n]) != a || from.String() != k.LocalAddr().String() {
			t.Errorf("%q from %v, %v; sent from %v", buf[:n], from, err, k.LocalAddr())
		}
		pc.WriteTo([]byte("back"), from)
		k.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := k.Read(buf); string(buf[:n]) != "back" || err != nil {
			t.Errorf("%q, %v", buf[:n], err)
		}
	}
}

// A raw flow carries bare datagrams, empty ones too; errors come as events.
func TestUDPRaw(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	k, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	k.SetDeadline(time.Now().Add(10 * time.Second))
	r := newRawSession(t, c)
	ours, theirs := pair(t, unix.SOCK_DGRAM)
	f := os.NewFile(uintptr(ours), "ours")
	defer f.Close()
	r.send(`{"id":1,"op":"udp","network":"udp","address":"`+k.LocalAddr().String()+`","fd":true}`+"\n", theirs)
	unix.Close(theirs)
	m := r.reply()
	buf := make([]byte, 100)
	for _, s := range []string{"", "one", "", "two"} {
		if err := unix.Send(ours, []byte(s), 0); err != nil {
			t.Fatal(err)
		}
		n, from, err := k.ReadFromUDP(buf)
		if err != nil || string(buf[:n]) != s || from.String() != m["local"] {
			t.Fatalf("%q: %q from %v (%v), %v", s, buf[:n], from, m["local"], err)
		}
		k.WriteToUDP(buf[:n], from)
		if n, err := unix.Read(ours, buf); err != nil || string(buf[:n]) != s {
			t.Fatalf("%q: %q back, %v", s, buf[:n], err)
		}
	}
	k.Close()
	unix.Send(ours, []byte("x"), 0)
	if m := r.reply(); m["event"] != "error" || m["errno"] != "ECONNREFUSED" || m["flow"] != 1.0 {
		t.Errorf("%v", m)
	}
	unix.Send(ours, []byte("last words"), 0)
	r.send(`{"id":2,"op":"close","flow":1}` + "\n")
	for m := r.message(); m["event"] != "ended"; m = r.message() {
	}
}

func TestICMP(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	conn, err := c.ListenICMP(testContext(t), "ip6")
	if err != nil {
		t.Fatal(err)
	}
	echo := append([]byte{128, 0, 0, 0, 1, 2, 0, 1}, make([]byte, 60000)...)
	self := netip.IPv6Loopback()
	if err := conn.WriteICMP(echo, self); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	m, err := conn.ReadICMP()
	if err != nil || len(m.Data) != len(echo) || m.Data[0] != 129 || m.From != self || m.To != self || m.TTL != 64 || time.Since(m.At) > time.Minute {
		t.Errorf("%d bytes %v %v %d %v, %v", len(m.Data), m.From, m.To, m.TTL, m.At, err)
	}
	if err := conn.WriteICMP(echo[:8], netip.MustParseAddr("2001:db8::1")); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("write to nowhere: %v", err)
	}
	if err := conn.WriteICMP(nil, self); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("empty write: %v", err)
	}
	if err := conn.WriteICMP(make([]byte, 70000), self); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("long write: %v", err)
	}
	if err := conn.SetOption("ip.ttl", 3); err != nil {
		t.Error(err)
	}
	if v, err := conn.Option("ip.ttl"); v != 3 || err != nil {
		t.Errorf("ip.ttl: %d, %v", v, err)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := conn.ReadICMP(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after the deadline: %v", err)
	}
	conn.SetReadDeadline(time.Time{})
	done := make(chan error, 1)
	go func() {
		_, err := conn.ReadICMP()
		done <- err
	}()
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if err := conn.WriteICMP(echo[:8], self); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
}

// A frame that is none is answered, and the flow goes on.
func TestBadFrames(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	r := newRawSession(t, c)
	for i, line := range []string{
		`{"id":1,"op":"udp","network":"udp4","local":"127.0.0.1:0","fd":true}`,
		`{"id":1,"op":"icmp","network":"ip4","fd":true}`,
	} {
		ours, theirs := pair(t, unix.SOCK_SEQPACKET)
		r.send(line+"\n", theirs)
		unix.Close(theirs)
		if m := r.reply(); m["error"] != nil {
			t.Fatal(m)
		}
		for _, frame := range [][]byte{{1}, make([]byte, 100), bytes.Repeat([]byte{0xff}, 70000)} {
			unix.Send(ours, frame, 0)
			buf := make([]byte, 100)
			if n, err := unix.Read(ours, buf); err != nil || n < 24 || buf[0] != 2 || buf[7] != byte(syscall.EINVAL) {
				t.Errorf("%d: %d bytes: answered %v, %v", i, len(frame), buf[:max(n, 0)], err)
			}
		}
		unix.Close(ours)
		if m := r.message(); m["event"] != "ended" || m["flow"] != float64(i+1) {
			t.Errorf("%v", m) // the daemon sees the close by itself
		}
	}
}
