package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/stack"
)

// memoryCeiling is that of the daemon in these tests, in bytes.
const memoryCeiling = 16 << 20

// inMemory is a daemon's stack with a ceiling, at one end of a wire, with a control
// socket; and a peer's stack at the other end.
func inMemory(t *testing.T) (daemon, peer *stack.Stack, socket string) {
	t.Helper()
	near, far := link.Pipe(link.PipeConfig{Depth: 8192})
	newStack := func(dev link.Device, n byte, memory int64) *stack.Stack {
		s, err := stack.New(stack.Config{
			Device: dev, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, n}, Memory: memory,
			Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 24)},
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	peer = newStack(far, 5, 0)
	t.Cleanup(func() { peer.Close() })
	daemon = newStack(near, 4, memoryCeiling)
	t.Cleanup(func() { daemon.Close() })
	b := newBackend("pipe", slog.New(slog.DiscardHandler))
	b.Stack = daemon
	socket = filepath.Join(socketDir(t), "u.sock")
	server := control.NewServer(control.ServerConfig{Backend: b, Path: socket})
	if err := server.Listen(); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	return daemon, peer, socket
}

// connectThrough opens a connection by CONNECT.
func connectThrough(socket, to string) (net.Conn, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to)
	var head bytes.Buffer
	for b := make([]byte, 1); !strings.HasSuffix(head.String(), "\r\n\r\n"); {
		if _, err := c.Read(b); err != nil {
			c.Close()
			return nil, fmt.Errorf("after %q: %w", head.String(), err)
		}
		head.Write(b)
	}
	if !strings.Contains(head.String(), " 200 ") {
		c.Close()
		return nil, errors.New(head.String())
	}
	return c, nil
}

// TestMemoryOfStalledPrograms has 40 programs stall, on flows and behind CONNECT, while
// their peers write without end. The daemon's stack stays below its ceiling; what it has
// taken besides lies in the programs' unix sockets, whose size is bounded too. When they
// read on, everything arrives.
func TestMemoryOfStalledPrograms(t *testing.T) {
	const programs, most = 40, 12 << 20
	// perProgram bounds what a unix socket takes: Linux doubles the 2 MiB asked for.
	const perProgram = 4 << 20
	daemon, peer, socket := inMemory(t)
	l, err := peer.Listen("tcp", "10.0.0.5:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := &control.Client{Path: socket}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()

	var sent [programs]atomic.Int64
	var writers sync.WaitGroup
	var conns []net.Conn
	for i := range programs {
		var c net.Conn
		if i%2 == 0 {
			c, err = client.DialContext(ctx, "tcp", "10.0.0.5:80")
		} else {
			c, err = connectThrough(socket, "10.0.0.5:80")
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
		p, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		writers.Go(func() {
			defer p.Close()
			block := bytes.Repeat([]byte{byte(i)}, 64<<10)
			for sent[i].Load() < most {
				n, err := p.Write(block)
				sent[i].Add(int64(n))
				if err != nil {
					t.Errorf("peer %d: %v", i, err)
					return
				}
			}
		})
	}
	// Until nothing moves any more.
	total := func() (n int64) {
		for i := range sent {
			n += sent[i].Load()
		}
		return n
	}
	for last, still := int64(-1), 0; still < 10; {
		if now := total(); now == last {
			still++
		} else {
			last, still = now, 0
		}
		if booked := daemon.Memory().Booked; booked > memoryCeiling+programs*8<<10 {
			t.Fatalf("%d bytes are booked, with a ceiling of %d", booked, memoryCeiling)
		}
		select {
		case <-ctx.Done():
			t.Fatal("the peers never stand still")
		case <-time.After(50 * time.Millisecond):
		}
	}
	info := daemon.Memory()
	taken := total()
	t.Logf("the peers wrote %d bytes; %+v", taken, info)
	if info.Queued > memoryCeiling {
		t.Errorf("%d bytes wait in the stack, with a ceiling of %d", info.Queued, memoryCeiling)
	}
	peersOwn := peer.Memory().Booked
	if taken > info.Queued+programs*perProgram+peersOwn {
		t.Errorf("%d bytes are held outside the ceiling", taken-info.Queued-peersOwn)
	}
	if taken >= programs*most {
		t.Error("nobody had to wait")
	}
	var readers sync.WaitGroup
	for i, c := range conns {
		readers.Go(func() {
			c.SetReadDeadline(time.Now().Add(40 * time.Second))
			n, err := io.Copy(checker(i), c)
			if err != nil || n != most {
				t.Errorf("program %d got %d bytes, want %d: %v", i, n, most, err)
			}
		})
	}
	readers.Wait()
	writers.Wait()
}

// A checker takes bytes of one value only.
type checker byte

func (c checker) Write(b []byte) (int, error) {
	if bytes.Count(b, []byte{byte(c)}) != len(b) {
		return 0, errors.New("other bytes than were sent")
	}
	return len(b), nil
}

// TestMemoryOfStalledDatagrams has 40 programs stall that receive datagrams; a flood
// to each, half of them empty, stays below the ceiling, and what comes later arrives.
func TestMemoryOfStalledDatagrams(t *testing.T) {
	const programs, each = 40, 4000
	daemon, peer, socket := inMemory(t)
	client := &control.Client{Path: socket}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	from, err := peer.UDP("udp4", netip.AddrPort{}, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if _, err := peer.Ping(ctx, netip.MustParseAddr("10.0.0.4")); err != nil { // resolves the address
		t.Fatal(err)
	}
	var conns []net.PacketConn
	for range programs {
		p, err := client.ListenPacket(ctx, "udp4", "10.0.0.4:0")
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		conns = append(conns, p)
	}
	arrived := func(n uint64) {
		for daemon.Stats()["udp.packets_received"] < n {
			select {
			case <-ctx.Done():
				t.Fatal("the datagrams do not arrive")
			case <-time.After(time.Millisecond):
			}
		}
	}
	for i := range programs * each {
		if _, err := from.WriteTo(make([]byte, i/programs%2*1200), conns[i%programs].LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 999 { // the wire has room for no more
			arrived(uint64(i + 1))
			if info := daemon.Memory(); info.Booked > memoryCeiling || info.Queued > info.Booked {
				t.Fatalf("%+v", info)
			}
		}
	}
	t.Logf("%+v", daemon.Memory())
	if daemon.Stats()["udp.receive_buffer_errors"] == 0 {
		t.Error("no socket was full")
	}
	for i, p := range conns {
		buf := make([]byte, 2000)
		var n int
		for {
			p.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, _, err := p.ReadFrom(buf); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n == 0 {
			t.Errorf("program %d got nothing of what waited", i)
		}
		// A datagram that finds the socket still full is lost: so again and again.
		for got := ""; got != "later"; {
			if _, err := from.WriteTo([]byte("later"), p.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			p.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			n, _, err := p.ReadFrom(buf)
			if err != nil && (!errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil) {
				t.Fatalf("program %d: %v", i, err)
			}
			got = string(buf[:n])
		}
	}
}
