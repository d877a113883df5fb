package control

import (
	"bytes"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A tcpConn is a kernel connection as a Backend's Conn.
type tcpConn struct{ *net.TCPConn }

func (tcpConn) SetOption(string, int) error { return syscall.ENOPROTOOPT }
func (tcpConn) Option(string) (int, error)  { return 0, syscall.ENOPROTOOPT }
func (c tcpConn) Abort()                    { c.SetLinger(0); c.Close() }

// TestCloseBeforeTheStreamBegins closes a flow between the reply that made it and
// the start of its data path, as a client that writes and closes at once can: what
// it wrote has to reach the peer.
func TestCloseBeforeTheStreamBegins(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ep, err := streamEnd(pair[1])
	if err != nil {
		t.Fatal(err)
	}
	client, far, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	defer unix.Close(far)
	srv := NewServer(ServerConfig{})
	s := newSession(&clientConn{srv: srv, e: client}, nil, nil)
	f := &flow{network: "tcp"}
	if err := s.addFlow(f); err != nil {
		t.Fatal(err)
	}
	if err := f.becomeStream(tcpConn{conn.(*net.TCPConn)}); err != nil {
		t.Fatal(err)
	}
	res := f.started(ep)

	unix.Write(pair[0], []byte("last words"))
	unix.Close(pair[0])
	f.close()
	res.then()

	peer.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, []byte("last words")) {
		t.Errorf("the peer got %q, %v", got, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.paths.Wait()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the data path did not end")
	}
	if _, err := s.flow(f.id); err == nil {
		t.Error("the flow is still there")
	}
}
