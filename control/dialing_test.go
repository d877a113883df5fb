package control_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

// A heldSocket has a local address as soon as it connects, which takes until release.
type heldSocket struct {
	control.Socket
	started, release chan struct{}
}

func (k *heldSocket) Started() <-chan struct{} { return k.started }

func (k *heldSocket) Connect(ctx context.Context, remote netip.AddrPort) (control.Conn, error) {
	if err := k.Bind(netip.MustParseAddrPort("127.0.0.1:0")); err != nil {
		return nil, err
	}
	close(k.started)
	<-k.release
	return k.Socket.Connect(ctx, remote)
}

type heldBackend struct {
	*controltest.Backend
	release chan struct{}
}

func (b heldBackend) Socket(network string) (control.Socket, error) {
	k, err := b.Backend.Socket(network)
	if err != nil {
		return nil, err
	}
	return &heldSocket{k, make(chan struct{}), b.release}, nil
}

// The local address of a dial is known before it has an answer.
func TestLocalOfDial(t *testing.T) {
	b := heldBackend{&controltest.Backend{}, make(chan struct{})}
	_, c := startServer(t, b)
	peer := kernelPeer(t, "tcp", func(c *net.TCPConn) { c.Read(make([]byte, 1)) })
	s, err := c.OpenSession(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ours, theirs := pair(t, unix.SOCK_STREAM)
	defer unix.Close(ours)
	if _, err := unix.Write(ours, []byte("x")); err != nil {
		t.Fatal(err)
	}
	dialled := make(chan control.Reply, 1)
	id := s.Start(testContext(t), control.Request{Op: "dial", Network: "tcp4", Address: peer, Skip: 1}, theirs,
		func(rep control.Reply, err error) { dialled <- rep })
	local := control.Request{Op: "local", Target: id}
	rep, err := s.Call(testContext(t), local, -1)
	close(b.release)
	end := <-dialled
	if err != nil || rep.Local == "" || rep.Local != end.Local {
		t.Errorf("while it waits: %q, %v; then %q", rep.Local, err, end.Local)
	}
	if _, err := s.Call(testContext(t), local, -1); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("when it is over: %v, want ENOENT", err)
	}
	s.Post(control.Request{Op: "close", Flow: end.Flow})
}
