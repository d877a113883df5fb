package control_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ustack/ustack/control"
)

// helperEnv names the socket on which the re-executed test binary acts as a client.
const helperEnv = "USTACK_CONTROL_TEST_HELPER"

func TestMain(m *testing.M) {
	if path := os.Getenv(helperEnv); path != "" {
		if err := helperMain(path, os.Args[1:]); err != nil {
			fmt.Println("helper:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// startServer runs a server on b and a client of it, and checks at the end of the test
// that goroutines and descriptors are back at what they were.
func startServer(t testing.TB, b control.Backend) (*control.Server, *control.Client) {
	return startServerConfig(t, control.ServerConfig{Backend: b})
}

func startServerConfig(t testing.TB, cfg control.ServerConfig) (*control.Server, *control.Client) {
	t.Helper()
	checkLeaks(t)
	cfg.Path = filepath.Join(t.TempDir(), "s")
	s := control.NewServer(cfg)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	c := &control.Client{Path: cfg.Path}
	t.Cleanup(func() {
		c.Close()
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, c
}

// checkLeaks registers the check; what is registered later is cleaned up before it.
func checkLeaks(t testing.TB) {
	// The runtime's own poller descriptors exist from the first use on.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	ignore := goleak.IgnoreCurrent()
	before := openFiles(t)
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		if err := goleak.Find(ignore); err != nil {
			t.Error(err)
		}
		if !eventually(time.Second, func() bool { return openFiles(t) <= before }) {
			t.Errorf("%d descriptors are open, %d were", openFiles(t), before)
		}
	})
}

func openFiles(t testing.TB) int {
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// eventually polls what no event announces.
func eventually(limit time.Duration, ok func() bool) bool {
	for end := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// kernelPeer listens on loopback and runs handle on every connection.
func kernelPeer(t testing.TB, network string, handle func(*net.TCPConn)) string {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "tcp6" {
		address = "[::1]:0"
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		handlers := 0
		ended := make(chan struct{})
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			handlers++
			go func() {
				handle(c.(*net.TCPConn))
				c.Close()
				ended <- struct{}{}
			}()
		}
		for range handlers {
			<-ended
		}
	}()
	t.Cleanup(func() {
		l.Close()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("a peer's handler is stuck")
		}
	})
	return l.Addr().String()
}

// echo is a peer that sends back what it gets.
func echo(c *net.TCPConn) {
	io.Copy(c, struct{ io.Reader }{c})
	c.CloseWrite()
}

// dialStream dials and fails the test on error.
func dialStream(t testing.TB, c *control.Client, address string) *control.StreamConn {
	t.Helper()
	conn, err := c.DialContext(testContext(t), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn.(*control.StreamConn)
}
