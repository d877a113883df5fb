package nc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// printf 'GET …' | nc host 80
func TestRequest(t *testing.T) {
	port := serve(t, func(c *net.TCPConn) {
		io.WriteString(c, "answer to "+readAll(t, c)) // reads up to the half-close
	})
	r := start(t, newNet(), strings.NewReader("GET / HTTP/1.0\r\n\r\n"), "-v", "127.0.0.1", port)
	r.wait(0, "Connection to 127.0.0.1 "+port+" port [tcp/*] succeeded!\n")
	if got := r.out.String(); got != "answer to GET / HTTP/1.0\r\n\r\n" {
		t.Errorf("received %q", got)
	}
}

// echo hi | nc -l
func TestListen(t *testing.T) {
	r := start(t, newNet(), strings.NewReader("hi\n"), "-lv", "127.0.0.1", "0")
	port := r.port()
	c := start(t, newNet(), strings.NewReader("hello\n"), "127.0.0.1", port)
	c.wait(0, "")
	r.wait(0, "Listening on 127.0.0.1 "+port+"\nConnection received on 127.0.0.1 ")
	if r.out.String() != "hello\n" || c.out.String() != "hi\n" {
		t.Errorf("server received %q, client %q", r.out, c.out)
	}
}

// A peer that half-closes at once still gets everything: cat big | nc -l against
// nc host </dev/null.
func TestBothWaysToTheEnd(t *testing.T) {
	const size = 8 << 20
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	r := start(t, newNet(), iotest.HalfReader(strings.NewReader(string(data))), "-l", "127.0.0.1", "0")
	c := start(t, newNet(), strings.NewReader(""), "127.0.0.1", r.port())
	c.wait(0, "")
	r.wait(0, "")
	if got := c.out.String(); len(got) != size || sha256.Sum256([]byte(got)) != sha256.Sum256(data) {
		t.Errorf("received %d bytes, want %d", len(got), size)
	}
}

// ssh's ProxyCommand: standard input stays open until standard output ends.
func TestProxyCommand(t *testing.T) {
	port := serve(t, func(c *net.TCPConn) {
		buf := make([]byte, 100)
		k, _ := c.Read(buf)
		c.Write(append([]byte("SSH "), buf[:k]...))
	})
	in, ssh := io.Pipe()
	r := start(t, newNet(), in, "127.0.0.1", port)
	io.WriteString(ssh, "hello")
	r.out.await(t, "SSH hello")
	r.out.awaitClose(t)
	ssh.Close()
	r.wait(0, "")
}

func TestReset(t *testing.T) {
	port := serve(t, func(c *net.TCPConn) {
		io.WriteString(c, "some")
		c.Read(make([]byte, 1))
		c.SetLinger(0)
	})
	in, w := io.Pipe()
	defer w.Close()
	r := start(t, newNet(), in, "127.0.0.1", port)
	r.out.await(t, "some")
	io.WriteString(w, "x")
	r.wait(1, "nc: read from 127.0.0.1 port "+port+": Connection reset by peer\n")
}

// A write that fails does not lose what the peer had sent before.
func TestPeerEndsEarly(t *testing.T) {
	port := serve(t, func(c *net.TCPConn) { io.WriteString(c, "no thanks") })
	r := start(t, newNet(), zeros{}, "127.0.0.1", port)
	select {
	case code := <-r.code:
		if code != 1 || !strings.HasPrefix(r.err.String(), "nc: ") {
			t.Errorf("exit code %d, %q", code, r.err)
		}
	case <-time.After(limit):
		t.Fatal("nc does not end")
	}
}

// zeros is endless input.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestConnectErrors(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, free, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	for args, want := range map[string]string{
		"127.0.0.1 " + free:               "nc: connect to 127.0.0.1 port " + free + " (tcp) failed: Connection refused\n",
		"-4 www.x " + free:                "nc: connect to www.x (127.0.0.1) port " + free + " (tcp) failed: Connection refused\n",
		"nowhere.x " + free:               "nc: nowhere.x: Name or service not known\n",
		"slow.x " + free:                  "nc: slow.x: Temporary failure in name resolution (i/o timeout)\n",
		"gone.x " + free:                  "nc: " + noDaemon.Error() + "\n",
		"-n www.x " + free:                "nc: www.x: with -n, HOST must be an IP address\n",
		"-6 127.0.0.1 " + free:            "nc: 127.0.0.1: Address family for hostname not supported with -6\n",
		"-s 192.0.2.77 127.0.0.1 " + free: "Cannot assign requested address",
		"-s nowhere 127.0.0.1 " + free:    `option -s: "nowhere" is not an IP address`,
		"-l 192.0.2.77 0":                 "nc: listen on 192.0.2.77:0 (tcp): Cannot assign requested address\n",
		"-lu 192.0.2.77 0":                "nc: listen on 192.0.2.77:0 (udp): Cannot assign requested address\n",
	} {
		start(t, newNet(), never(t), strings.Fields(args)...).wait(1, want)
	}
}

func TestNoDaemon(t *testing.T) {
	k := newNet()
	k.dial = func(context.Context) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: noDaemon}
	}
	r := start(t, k, never(t), "127.0.0.1", "1-100")
	r.wait(1, noDaemon.Error())
	if lines := strings.Count(r.err.String(), "\n"); lines != 1 {
		t.Errorf("%d lines: %q", lines, r.err)
	}
}

func TestTimeouts(t *testing.T) {
	k := newNet()
	k.dial = func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	start(t, k, never(t), "-w0.05", "192.0.2.1", "80").wait(1,
		"nc: connect to 192.0.2.1 port 80 (tcp) failed: Connection timed out\n")
}

// An idle connection ends well, one on which something moves goes on.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		k := newNet()
		k.dial = func(context.Context) (net.Conn, error) { return ours, nil }
		go func() {
			for range 10 {
				time.Sleep(900 * time.Millisecond)
				io.WriteString(theirs, "x")
			}
		}()
		begin := time.Now()
		r := start(t, k, strings.NewReader(""), "-w1", "192.0.2.1", "80")
		r.wait(0, "")
		if took := time.Since(begin); r.out.String() != "xxxxxxxxxx" || took != 10*time.Second {
			t.Errorf("received %q in %v, want ten bytes in 10s", r.out, took)
		}
	})
}

func TestQuit(t *testing.T) {
	ended := make(chan struct{})
	port := serve(t, func(c *net.TCPConn) {
		readAll(t, c) // the half-close
		<-ended
	})
	r := start(t, newNet(), strings.NewReader("x"), "-q0.01", "127.0.0.1", port)
	r.wait(0, "")
	close(ended)

	// -q -1 leaves the connection whole.
	port = serve(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 1))
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err == io.EOF {
			t.Error("half-closed in spite of -q -1")
		}
	})
	start(t, newNet(), strings.NewReader("x"), "-q", "-1", "127.0.0.1", port).wait(0, "")
}

func TestNoStdin(t *testing.T) {
	port := serve(t, func(c *net.TCPConn) { io.WriteString(c, "hi") })
	r := start(t, newNet(), zeros{}, "-d", "127.0.0.1", port)
	r.wait(0, "")
	if r.out.String() != "hi" {
		t.Errorf("received %q", r.out)
	}
}

func TestBrokenStdinAndStdout(t *testing.T) {
	got := make(chan error, 1)
	port := serve(t, func(c *net.TCPConn) { _, err := io.Copy(io.Discard, c); got <- err })
	start(t, newNet(), iotest.ErrReader(errBroken), "127.0.0.1", port).wait(1, "nc: read standard input: the disk is broken\n")
	<-got

	port = serve(t, func(c *net.TCPConn) { io.WriteString(c, "hi"); io.Copy(io.Discard, c) })
	var errOut bytes.Buffer
	code := Main(t.Context(), []string{"127.0.0.1", port}, Env{Stdin: never(t), Stdout: full{}, Stderr: &errOut, Network: newNet()})
	if want := "nc: write to standard output: No space left on device\n"; code != 1 || errOut.String() != want {
		t.Errorf("exit code %d, %q; want 1, %q", code, errOut.String(), want)
	}
}

// full is a disk without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestKeep(t *testing.T) {
	r := start(t, newNet(), strings.NewReader("once"), "-lkv", "127.0.0.1", "0")
	port := r.port()
	for i, want := range []string{"once", "", ""} {
		c := start(t, newNet(), strings.NewReader("hello "), "127.0.0.1", port)
		c.wait(0, "")
		if c.out.String() != want {
			t.Errorf("client %d received %q, want %q", i, c.out, want)
		}
	}
	r.out.await(t, "hello hello hello ")
	r.cancel()
	r.wait(1, "interrupted")
}

// Without -k the listener is gone once somebody is there.
func TestOneClient(t *testing.T) {
	r := start(t, newNet(), never(t), "-lv", "127.0.0.1", "0")
	port := r.port()
	c := start(t, newNet(), never(t), "127.0.0.1", port)
	r.err.await(t, "Connection received")
	start(t, newNet(), never(t), "127.0.0.1", port).wait(1, "Connection refused\n")
	c.cancel()
	c.wait(1, "interrupted")
	r.cancel()
	r.wait(1, "interrupted")
}

func TestScan(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	r := start(t, newNet(), nil, "-zv", "www.x", port)
	r.wait(0, "Connection to www.x (127.0.0.1) "+port+" port [tcp/*] succeeded!\n")
	if !strings.Contains(r.err.String(), "nc: connect to www.x (::1) port "+port+" (tcp) failed: ") {
		t.Errorf("the first address is not mentioned: %q", r.err)
	}
	start(t, newNet(), nil, "-z", "127.0.0.1", port).wait(0, "")
	l.Close()
	start(t, newNet(), nil, "-z", "127.0.0.1", port).wait(1, "")
	start(t, newNet(), nil, "-zv", "127.0.0.1", port).wait(1, "Connection refused")
}

func TestSource(t *testing.T) {
	from := make(chan string, 1)
	port := serve(t, func(c *net.TCPConn) { from <- c.RemoteAddr().String() })
	start(t, newNet(), strings.NewReader(""), "-s", "127.0.0.9", "127.0.0.1", port).wait(0, "")
	if got := <-from; !strings.HasPrefix(got, "127.0.0.9:") {
		t.Errorf("came from %s", got)
	}
}

func TestInterrupt(t *testing.T) {
	port := serve(t, func(c *net.TCPConn) { io.WriteString(c, "hi"); io.Copy(io.Discard, c) })
	r := start(t, newNet(), never(t), "127.0.0.1", port)
	r.out.await(t, "hi")
	r.cancel()
	r.wait(1, "nc: 127.0.0.1 port "+port+": interrupted\n")
}

func TestErrText(t *testing.T) {
	if got := errText(&net.OpError{Op: "read", Err: syscall.ECONNRESET}); got != "Connection reset by peer" {
		t.Error(got)
	}
}
