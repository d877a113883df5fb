package nc

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func listenUDP(t *testing.T) (*net.UDPConn, string) {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(limit))
	_, port, _ := net.SplitHostPort(c.LocalAddr().String())
	return c, port
}

func receive(t *testing.T, c *net.UDPConn) (string, net.Addr) {
	t.Helper()
	buf := make([]byte, 1<<16)
	k, from, err := c.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:k]), from
}

// Each read of standard input is one datagram.
func TestUDP(t *testing.T) {
	server, port := listenUDP(t)
	in, w := io.Pipe()
	r := start(t, newNet(), in, "-u", "-q0.2", "127.0.0.1", port)
	large := strings.Repeat("x", 60000)
	for _, s := range []string{"one", large, "three"} {
		io.WriteString(w, s)
		got, from := receive(t, server)
		if got != s {
			t.Fatalf("received %d bytes, want %d", len(got), len(s))
		}
		server.WriteTo([]byte("["+s[:3]+"]"), from)
	}
	r.out.await(t, "[one][xxx][thr]")
	w.Close()
	r.wait(0, "")
}

func TestUDPRefused(t *testing.T) {
	server, port := listenUDP(t)
	server.Close()
	r := start(t, newNet(), io.MultiReader(strings.NewReader("x"), never(t)), "-u", "127.0.0.1", port)
	r.wait(1, "Connection refused\n")
}

// The first peer is answered, others are not heard.
func TestUDPListen(t *testing.T) {
	in, w := io.Pipe()
	r := start(t, newNet(), in, "-luv", "127.0.0.1", "0")
	to, err := net.ResolveUDPAddr("udp4", "127.0.0.1:"+r.port())
	if err != nil {
		t.Fatal(err)
	}
	first, _ := listenUDP(t)
	other, _ := listenUDP(t)
	first.WriteTo([]byte("one "), to)
	r.out.await(t, "one ")
	other.WriteTo([]byte("other "), to)
	first.WriteTo([]byte("two "), to)
	r.out.await(t, "two ")
	io.WriteString(w, "answer")
	if got, _ := receive(t, first); got != "answer" {
		t.Errorf("received %q", got)
	}
	if got := r.out.String(); got != "one two " {
		t.Errorf("nc received %q", got)
	}
	r.cancel()
	r.wait(1, "Connection received on 127.0.0.1 ")
	w.Close()
}

func TestUDPListenKeep(t *testing.T) {
	in, w := io.Pipe()
	r := start(t, newNet(), in, "-luk", "127.0.0.1", "0")
	to, err := net.ResolveUDPAddr("udp4", "127.0.0.1:"+r.port())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"one ", "two "} {
		c, _ := listenUDP(t)
		c.WriteTo([]byte(s), to)
		r.out.await(t, s)
		io.WriteString(w, "answer to "+s)
		if got, _ := receive(t, c); got != "answer to "+s {
			t.Errorf("received %q", got)
		}
	}
	r.cancel()
	r.wait(1, "interrupted")
	w.Close()
}

func TestUDPScan(t *testing.T) {
	server, port := listenUDP(t)
	r := start(t, newNet(), nil, "-zuv", "-w0.1", "127.0.0.1", port)
	r.wait(0, "Connection to 127.0.0.1 "+port+" port [udp/*] succeeded!\n")
	server.Close()
	start(t, newNet(), nil, "-zuv", "127.0.0.1", port).wait(1, "(udp) failed: Connection refused\n")
}

func TestUDPInterruptedBeforeAnyPeer(t *testing.T) {
	r := start(t, newNet(), never(t), "-lu", "127.0.0.1", "0")
	r.port()
	r.cancel()
	r.wait(1, "nc: listen on 127.0.0.1:0: interrupted\n")
}
