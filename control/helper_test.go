package control_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

// helperMain is a client that opens one of everything, moves data as long as it lives and
// says so by a line "ready", followed by the address it listens on.
func helperMain(path string, args []string) error {
	ctx := context.Background()
	c := &control.Client{Path: path}
	conn, err := c.DialContext(ctx, "tcp", args[0])
	if err != nil {
		return err
	}
	unread, err := c.DialContext(ctx, "tcp", args[1])
	if err != nil {
		return err
	}
	l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := c.ListenPacket(ctx, "udp", "127.0.0.1:0"); err != nil {
		return err
	}
	if _, err := c.ListenICMP(ctx, "ip4"); err != nil {
		return err
	}
	go c.DialContext(ctx, "tcp", "192.0.2.1:1") // never answered
	go l.Accept()
	if _, err := io.ReadFull(unread, make([]byte, 1)); err != nil {
		return err
	}
	fmt.Println("ready", l.Addr())
	for block := make([]byte, 64<<10); ; {
		if _, err := conn.Write(block); err != nil {
			return err
		}
	}
}

func TestKilledClient(t *testing.T) {
	dialling, cancelled := make(chan struct{}), make(chan struct{})
	b := &controltest.Backend{BeforeDial: func(ctx context.Context, _, address string) error {
		if !strings.HasPrefix(address, "192.") {
			return nil
		}
		close(dialling)
		<-ctx.Done()
		close(cancelled)
		return ctx.Err()
	}}
	_, c := startServer(t, b)
	busy, unread := make(chan error, 1), make(chan error, 1)
	busyPeer := kernelPeer(t, "tcp", func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		busy <- err
	})
	unreadPeer := kernelPeer(t, "tcp", func(c *net.TCPConn) {
		c.Write(make([]byte, 100))
		_, err := io.Copy(io.Discard, c)
		unread <- err
	})
	cmd := exec.Command("/proc/self/exe", busyPeer, unreadPeer)
	cmd.Env = append(os.Environ(), helperEnv+"="+c.Path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	listening, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if !ok {
		t.Fatalf("the helper says %q", line)
	}
	<-dialling
	b.SetSockets([]control.SocketInfo{{Network: "tcp", State: "LISTEN", Local: listening}, {Network: "tcp", State: "LISTEN", Local: "127.0.0.1:1"}})
	infos, err := c.Sockets(testContext(t))
	if want := fmt.Sprintf("pid %d (", cmd.Process.Pid); err != nil || !strings.HasPrefix(infos[0].Owner, want) || infos[1].Owner != "" {
		t.Errorf("owners of %+v: want %q for the first", infos, want)
	}

	killed := time.Now()
	cmd.Process.Kill()
	cmd.Wait()
	limit := time.After(time.Second)
	for what, ch := range map[string]<-chan error{"busy connection": busy, "connection with unread data": unread} {
		select {
		case err := <-ch:
			if what != "busy connection" && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: the peer read %v", what, err)
			}
		case <-limit:
			t.Fatalf("%s is open still", what)
		}
	}
	select {
	case <-cancelled:
	case <-limit:
		t.Fatal("the pending dial goes on")
	}
	left := time.Second - time.Since(killed)
	if !eventually(left, func() bool {
		st, err := c.Status(testContext(t))
		return err == nil && st.Flows == 0
	}) {
		t.Error("flows are left over")
	}
	if k, err := net.Dial("tcp", listening); err == nil {
		k.Close()
		t.Error("the listener is open still")
	}
}

// A peer that takes nothing does not keep a dead client's connection.
func TestKilledClientStuckPeer(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	ended, stop := make(chan error, 1), make(chan struct{})
	peer := kernelPeer(t, "tcp", func(c *net.TCPConn) {
		<-stop
		_, err := io.Copy(io.Discard, c)
		ended <- err
	})
	conn := dialStream(t, c, peer)
	conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for err := error(nil); err == nil; {
		_, err = conn.Write(make([]byte, 1<<20)) // until all buffers are full
	}
	other := &control.Client{Path: c.Path}
	defer other.Close()
	c.Close() // as if it had been killed: the connection was not closed before
	if !eventually(time.Second, func() bool {
		st, err := other.Status(testContext(t))
		return err == nil && st.Flows == 0
	}) {
		t.Error("the flow is left over")
	}
	close(stop)
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer read %v", err)
	}
}
