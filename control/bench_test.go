package control_test

import (
	"io"
	"net"
	"testing"

	"github.com/ustack/ustack/control/controltest"
)

func BenchmarkConnect(b *testing.B) {
	_, c := startServer(b, &controltest.Backend{})
	peer := kernelPeer(b, "tcp", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	ctx := b.Context()
	for b.Loop() {
		conn, err := c.DialContext(ctx, "tcp", peer)
		if err != nil {
			b.Fatal(err)
		}
		conn.Close()
	}
}

func BenchmarkWrite(b *testing.B) {
	_, c := startServer(b, &controltest.Backend{})
	conn := dialStream(b, c, kernelPeer(b, "tcp", func(c *net.TCPConn) { io.Copy(io.Discard, c) }))
	block := make([]byte, 256<<10)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		if _, err := conn.Write(block); err != nil {
			b.Fatal(err)
		}
	}
}
