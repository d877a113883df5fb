package stack

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/ustack/ustack/link"
)

// TestManyConnections exchanges data on so many connections that others write for
// their goroutines, and reads it back through WriteTo.
func TestManyConnections(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	l, err := b.Listen("tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				if _, err := c.(*TCPConn).WriteTo(c); err != nil {
					t.Error(err)
				}
			})
		}
	})
	var open []*TCPConn
	for range manyConns + 50 {
		c, err := a.DialContext(testContext(t), "tcp", "10.0.0.2:80")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c.(*TCPConn))
	}
	if a.conns.deep.Load() == nil {
		t.Errorf("nobody writes for %d connections", len(open))
	}
	var clients sync.WaitGroup
	for i, c := range open {
		clients.Go(func() {
			defer c.Close()
			sent := bytes.Repeat([]byte(fmt.Sprintln("connection", i)), 1000)
			go func() {
				c.Write(sent)
				c.CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("connection %d: %d bytes came back of %d: %v", i, len(got), len(sent), err)
			}
		})
	}
	clients.Wait()
	l.Close()
	wg.Wait()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if a.conns.deep.Load() != nil {
		t.Error("goroutines that write are left after Close")
	}
	if _, err := open[0].Write([]byte("x")); err == nil {
		t.Error("a write after Close worked")
	}
}
