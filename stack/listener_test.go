package stack

import (
	"errors"
	"net"
	"testing"

	"github.com/ustack/ustack/link"
)

func TestTryAccept(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	n, err := b.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	l := n.(*TCPListener)
	if c, err := l.TryAcceptTCP(); c != nil || err != nil {
		t.Fatalf("without a connection: %v, %v", c, err)
	}
	client, err := a.DialContext(testContext(t), "tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	eventually(t, "a connection to accept", func() bool {
		c, err := l.TryAcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		if c == nil {
			return false
		}
		if c.RemoteAddr().String() != client.LocalAddr().String() {
			t.Errorf("accepted %v, want %v", c.RemoteAddr(), client.LocalAddr())
		}
		c.Close()
		return true
	})
	l.Close()
	if c, err := l.TryAcceptTCP(); c != nil || !errors.Is(err, net.ErrClosed) {
		t.Errorf("after close: %v, %v", c, err)
	}
}
