package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

// listenAt makes a server at path and closes it again.
func listenAt(t *testing.T, cfg control.ServerConfig) (*control.Server, error) {
	t.Helper()
	cfg.Backend = &controltest.Backend{}
	s := control.NewServer(cfg)
	t.Cleanup(func() { s.Close() })
	return s, s.Listen()
}

func TestSocketDeadIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := listenAt(t, control.ServerConfig{Path: path}); err != nil {
		t.Fatal(err)
	}
}

func TestSocketLiveNamesHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if _, err := listenAt(t, control.ServerConfig{Path: path}); err != nil {
		t.Fatal(err)
	}
	_, err := listenAt(t, control.ServerConfig{Path: path})
	comm, _ := os.ReadFile("/proc/self/comm")
	want := fmt.Sprintf("pid %d (%s)", os.Getpid(), strings.TrimSpace(string(comm)))
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v: want %s", err, want)
	}
}

func TestSocketOthersUntouched(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	datagram := filepath.Join(dir, "dgram")
	d, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: datagram, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, path := range []string{file, dir, link, datagram} {
		if _, err := listenAt(t, control.ServerConfig{Path: path}); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "--socket") {
			t.Errorf("listen at %s: %v", path, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
	long := filepath.Join(dir, strings.Repeat("x", 108))
	if _, err := listenAt(t, control.ServerConfig{Path: long}); err == nil || !strings.Contains(err.Error(), "107") {
		t.Errorf("long path: %v", err)
	}
	if _, err := listenAt(t, control.ServerConfig{Path: filepath.Join(dir, "none", "s")}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "make the directory") {
		t.Errorf("missing directory: %v", err)
	}
	if _, err := listenAt(t, control.ServerConfig{Path: filepath.Join(dir, "s"), Group: "no such group"}); err == nil || !strings.Contains(err.Error(), "no such group") {
		t.Errorf("unknown group: %v", err)
	}
}

func TestSocketMode(t *testing.T) {
	// The umask is the process's; it must neither matter nor change.
	old := unix.Umask(0)
	defer unix.Umask(old)
	t.Setenv("SUDO_UID", "12345")
	gid := fmt.Sprint(os.Getegid())
	for _, tc := range []struct {
		cfg  control.ServerConfig
		mode fs.FileMode
		uid  int
	}{
		{control.ServerConfig{}, 0o600, os.Geteuid()},
		{control.ServerConfig{Mode: 0o666}, 0o666, os.Geteuid()},
		{control.ServerConfig{Group: gid}, 0o660, os.Geteuid()},
		{control.ServerConfig{DefaultPath: true}, 0o600, map[bool]int{true: 12345, false: os.Geteuid()}[os.Geteuid() == 0]},
	} {
		tc.cfg.Path = filepath.Join(t.TempDir(), "s")
		if _, err := listenAt(t, tc.cfg); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Lstat(tc.cfg.Path)
		if err != nil {
			t.Fatal(err)
		}
		if uid := int(fi.Sys().(*syscall.Stat_t).Uid); fi.Mode().Perm() != tc.mode || uid != tc.uid {
			t.Errorf("%+v: mode %v, uid %d", tc.cfg, fi.Mode(), uid)
		}
	}
	if now := unix.Umask(0); now != 0 {
		t.Errorf("umask is %o", now)
	}
}

func TestSocketRemovedOnlyIfOurs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s, err := listenAt(t, control.ServerConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
	if s, err = listenAt(t, control.ServerConfig{Path: path}); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("another's file is gone: %v", err)
	}
}

func TestPaths(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv("USTACK_SOCKET", "")
	own := filepath.Join(dir, "ustack.sock")
	if err := os.WriteFile(own, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := control.SocketPath(""); got != own {
		t.Errorf("SocketPath: %s", got)
	}
	want := own
	if os.Geteuid() == 0 {
		want = "/run/ustack.sock"
	}
	if got, isDefault, err := control.ListenPath(""); got != want || !isDefault || err != nil {
		t.Errorf("ListenPath: %s, %v, %v", got, isDefault, err)
	}
	t.Setenv("USTACK_SOCKET", "/env")
	if got := control.SocketPath(""); got != "/env" {
		t.Errorf("SocketPath with USTACK_SOCKET: %s", got)
	}
	if got := control.SocketPath("/flag"); got != "/flag" {
		t.Errorf("SocketPath with a flag: %s", got)
	}
	if got, isDefault, _ := control.ListenPath("/flag"); got != "/flag" || isDefault {
		t.Errorf("ListenPath with a flag: %s, %v", got, isDefault)
	}
}

func TestNoDaemon(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, path := range []string{dead, filepath.Join(dir, "none")} {
		c := &control.Client{Path: path}
		_, dial := c.DialContext(context.Background(), "tcp", "127.0.0.1:1")
		_, status := c.Status(context.Background())
		_, listen := c.Listen(context.Background(), "tcp", ":0")
		for _, err := range []error{dial, status, listen} {
			var de *control.DaemonError
			if !errors.Is(err, control.ErrNoDaemon) || !errors.As(err, &de) || de.Path != path ||
				!strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "ustack up") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
		}
		c.Close()
	}
	denied := &control.DaemonError{Path: "/run/s", Err: syscall.EACCES}
	if !errors.Is(denied, fs.ErrPermission) || errors.Is(denied, control.ErrNoDaemon) || !strings.Contains(denied.Error(), "--socket-group") {
		t.Error(denied)
	}
}

func TestShutdown(t *testing.T) {
	s, c := startServer(t, &controltest.Backend{})
	const size = 3 << 20
	got, slow := make(chan int64, 1), make(chan struct{})
	conn := dialStream(t, c, kernelPeer(t, "tcp", func(c *net.TCPConn) {
		<-slow
		n, _ := io.Copy(io.Discard, c)
		got <- n
	}))
	go func() {
		conn.Write(make([]byte, size))
		close(slow)
	}()
	<-slow
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	began := time.Now()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("an idle connection held it up for %v", took)
	}
	if n := <-got; n != size {
		t.Errorf("the peer got %d of %d bytes", n, size)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v: the peer did not end it", err)
	}
	if _, err := c.Status(ctx); !errors.Is(err, control.ErrNoDaemon) {
		t.Errorf("status: %v", err)
	}
}

// A connection that does not come to rest is cut off when the time is over.
func TestShutdownCutsOff(t *testing.T) {
	s, c := startServer(t, &controltest.Backend{})
	conn := dialStream(t, c, kernelPeer(t, "tcp", func(c *net.TCPConn) {
		for {
			if _, err := c.Write(make([]byte, 1000)); err != nil {
				return
			}
			time.Sleep(time.Millisecond) // a trickle, as of a long download
		}
	}))
	go io.Copy(io.Discard, conn)
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
}

// The end of the daemon is not the end of a transfer.
func TestDaemonGone(t *testing.T) {
	s, c := startServer(t, &controltest.Backend{})
	conn := dialStream(t, c, kernelPeer(t, "tcp", func(c *net.TCPConn) {
		io.WriteString(c, "half of the page")
		io.Copy(io.Discard, c)
	}))
	if _, err := io.ReadFull(conn, make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d, %v", n, err)
	}
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("write succeeds")
	}
}

// A client outlives its daemon and finds the next one.
func TestDaemonRestarts(t *testing.T) {
	checkLeaks(t)
	path := filepath.Join(t.TempDir(), "s")
	c := &control.Client{Path: path}
	t.Cleanup(func() { c.Close() })
	for range 3 {
		s, err := listenAt(t, control.ServerConfig{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Serve() }()
		l, err := c.Listen(testContext(t), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		dialStream(t, c, l.Addr().String()).Close()
		s.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := l.Accept(); err == nil {
			t.Error("Accept without a daemon succeeds")
		}
	}
	if _, err := c.DialContext(testContext(t), "tcp", "127.0.0.1:1"); !errors.Is(err, control.ErrNoDaemon) {
		t.Error(err)
	}
	c.Close()
	if _, err := c.DialContext(testContext(t), "tcp", "127.0.0.1:1"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial after Close: %v", err)
	}
}
