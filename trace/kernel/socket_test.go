package kernel

import (
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

// What a socket gets is followed up to the process that reads it.
func TestReadFromASocket(t *testing.T) {
	near, far := netlab.New(t, "near"), netlab.New(t, "far")
	netlab.Veth(t, near, m0, far, h0)
	near.Addr(t, m0, "10.0.0.1/24")
	far.Addr(t, h0, "10.0.0.2/24")
	l := follow(t, open(t, far, Config{Via: ViaBPF}))
	const text = "a message that one can find"
	far.Do(t, func() {
		ln, err := net.Listen("tcp4", "10.0.0.2:9")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		var client net.Conn
		near.Do(t, func() { client, err = net.Dial("tcp4", "10.0.0.2:9") })
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		if _, err := client.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		server.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := server.Read(make([]byte, 100)); err != nil || n != len(text) {
			t.Fatalf("read %d bytes, %v", n, err)
		}
	})
	events := l.until(t, "the read", func(e Event) bool { return e.Step == CopyOut && e.Dev == h0 })
	read := last(events)
	if !read.Socket || read.PID != os.Getpid() || read.Comm == "" {
		t.Errorf("socket %v, process %d %q", read.Socket, read.PID, read.Comm)
	}
	if read.NetNS != inode(t, far) {
		t.Errorf("%s", list([]Event{read}))
	}
	var f Follower
	numbers := make(map[uint64][]string)
	var last uint64
	for _, e := range events {
		last = f.Packet(e)
		numbers[last] = append(numbers[last], e.Step)
	}
	if want := []string{NetifRx, Receive, TCPTake, CopyOut}; !slices.Equal(numbers[last], want) {
		t.Errorf("steps %v, want %v", numbers[last], want)
	}
}
