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

// A datagram is followed to the socket that it is queued for.
func TestUDPSocket(t *testing.T) {
	ns, tap := host(t)
	ns.Do(t, func() {
		c, err := net.ListenPacket("udp4", "10.0.0.1:53")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	})
	l := follow(t, open(t, ns, Config{Via: ViaBPF}))
	b := frame(ns.MAC(t, tap0), guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(4000, 53, "a question")))
	send(t, tap, b)
	events := l.until(t, "the socket", func(e Event) bool { return e.Step == Ready })
	if e := last(events); e.Port != 53 || e.Dev != tap0 || string(e.Head) != string(b) || e.NetNS != inode(t, ns) {
		t.Errorf("port %d: %s", e.Port, list([]Event{e}))
	}
	var f Follower
	var numbers []uint64
	for _, e := range events {
		if string(e.Head) == string(b) {
			numbers = append(numbers, f.Packet(e))
		}
	}
	if len(numbers) != 2 || numbers[0] != numbers[1] {
		t.Errorf("packets %v: want one twice", numbers)
	}
}
