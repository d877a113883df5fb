package stack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

// queuedIn returns the sum of what waits in the receive buffers of connections.
func queuedIn(t testing.TB, conns []*TCPConn) int64 {
	t.Helper()
	var sum int64
	for _, c := range conns {
		n, err := c.Option("ustack.recv_queued")
		if err != nil {
			t.Fatal(err)
		}
		sum += int64(n)
	}
	return sum
}

// flood writes to a connection, whose reader takes at least so much, until nothing was
// taken for some time, and returns how much was.
func flood(c net.Conn, least, most int) int {
	block := make([]byte, 64<<10)
	total := 0
	for total < most {
		wait := time.Second
		if total < least {
			wait = 2 * time.Minute
		}
		c.SetWriteDeadline(time.Now().Add(wait))
		n, err := c.Write(block)
		total += n
		if err != nil {
			break
		}
	}
	c.SetWriteDeadline(time.Time{})
	return total
}

// TestMemoryWithReadersThatStall has many peers write without end to readers that read a
// little, so that they get a large buffer, and then stall. What waits for them stays
// below the ceiling; another connection still works, and once they read on, everything
// arrives and nobody was reset.
func TestMemoryWithReadersThatStall(t *testing.T) {
	const ceiling, readers, most, warm = 16 << 20, 40, 20 << 20, 4 << 20
	a, b := pair(t, link.PipeConfig{Depth: 8192}, func(_, b *Config) { b.Memory = ceiling })
	var clients, servers []*TCPConn
	for range readers {
		c, s := connect(t, a, b, "10.0.0.2")
		clients, servers = append(clients, c), append(servers, s)
	}
	sent := make([]int, readers)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() { sent[i] = flood(clients[i], warm, most) })
		wg.Go(func() {
			servers[i].SetReadDeadline(time.Now().Add(2 * time.Minute))
			if n, err := io.CopyN(io.Discard, servers[i], warm); err != nil {
				t.Errorf("reader %d: %d bytes: %v", i, n, err)
			}
			servers[i].SetReadDeadline(time.Time{})
		})
	}
	wg.Wait()
	queued := queuedIn(t, servers)
	info := b.Memory()
	t.Logf("%d readers hold %d bytes; %+v", readers, queued, info)
	if info.Booked > ceiling+2*readers*leastBuffer {
		t.Errorf("booked %d of %d bytes", info.Booked, ceiling)
	}
	if queued > ceiling || queued < ceiling/16 {
		t.Errorf("%d bytes wait, want up to %d", queued, ceiling)
	}
	c, s := connect(t, a, b, "10.0.0.2")
	if err := exchange(c, s); err != nil {
		t.Errorf("another connection: %v", err)
	}
	for i := range clients {
		wg.Go(func() {
			clients[i].CloseWrite()
			n, err := io.Copy(io.Discard, servers[i])
			if err != nil || n+warm != int64(sent[i]) {
				t.Errorf("reader %d got %d bytes of %d: %v", i, n+warm, sent[i], err)
			}
			clients[i].Close()
			servers[i].Close()
		})
	}
	wg.Wait()
	c.Close()
	s.Close()
	waitFor(t, func() bool { b.mem.tick(); return b.Memory().Booked == 0 })
}

// TestMemoryWithPeersThatStall writes without end to peers that do not read.
func TestMemoryWithPeersThatStall(t *testing.T) {
	const ceiling, peers = 16 << 20, 40
	a, b := pair(t, link.PipeConfig{}, func(_, b *Config) { b.Memory = ceiling })
	var wg sync.WaitGroup
	sent := make([]int, peers)
	var clients, servers []*TCPConn
	for i := range peers {
		c, s := connect(t, a, b, "10.0.0.2")
		clients, servers = append(clients, c), append(servers, s)
		wg.Go(func() { sent[i] = flood(s, 0, 20<<20) })
	}
	wg.Wait()
	total := int64(0)
	for _, n := range sent {
		total += int64(n)
	}
	arrived := queuedIn(t, clients)
	t.Logf("%d bytes written, %d arrived; %+v", total, arrived, b.Memory())
	if held := total - arrived; held > ceiling || held < ceiling/8 {
		t.Errorf("%d bytes are held for peers, want up to %d", held, ceiling)
	}
	for i := range clients {
		wg.Go(func() {
			servers[i].Close()
			if n, err := io.Copy(io.Discard, clients[i]); err != nil || n != int64(sent[i]) {
				t.Errorf("peer %d got %d bytes of %d: %v", i, n, sent[i], err)
			}
			clients[i].Close()
		})
	}
	wg.Wait()
	waitFor(t, func() bool { b.mem.tick(); return b.Memory().Booked == 0 })
}

// waitFor waits until something is so.
func waitFor(t testing.TB, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestMemoryComesBack has a fast connection get a large share, and give it back when it
// is idle, and get it again.
func TestMemoryComesBack(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	c, s := connect(t, a, b, "10.0.0.2")
	defer c.Close()
	defer s.Close()
	for round := range 2 {
		s.grow(true, 6<<20)
		s.grow(false, quickSend)
		if s.recv.Load() != 6<<20 || s.send.Load() != quickSend {
			t.Fatalf("round %d: %d and %d bytes", round, s.recv.Load(), s.send.Load())
		}
		if b.mem.large == 0 {
			t.Errorf("round %d: nobody looks at it", round)
		}
		read := make(chan error, 1)
		go func() {
			_, err := io.ReadFull(s, make([]byte, 1))
			read <- err
		}()
		waitFor(t, s.waiting.Load)
		for range 2 { // one ends the busy period
			b.mem.mu.Lock()
			b.mem.begun = time.Now().Add(-lookEvery)
			b.mem.look(false)
			b.mem.mu.Unlock()
		}
		if got := s.recv.Load(); got != int64(receiveBuffers.Default) {
			t.Errorf("round %d: an idle connection keeps %d bytes", round, got)
		}
		if got := s.send.Load(); got != firstSend {
			t.Errorf("round %d: an idle connection keeps %d bytes to send", round, got)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := <-read; err != nil {
			t.Fatal(err)
		}
	}
}

// TestMemoryKeepsPromises shrinks the buffer of a reader that stalls: what its peer was
// invited to send before is taken all the same.
func TestMemoryKeepsPromises(t *testing.T) {
	a, b := pair(t, link.PipeConfig{}, func(_, b *Config) { b.Memory = MinMemory * 16 })
	c, s := connect(t, a, b, "10.0.0.2")
	defer c.Close()
	defer s.Close()
	s.grow(true, 1<<20)
	for range 2 { // the window is known now
		if err := exchange(c, s); err != nil {
			t.Fatal(err)
		}
	}
	have := s.recv.Load()
	promise := have / 2
	b.mem.mu.Lock()
	b.mem.ceiling = MinMemory
	for range 3 { // the first ends a period in which something was read
		b.mem.begun = time.Now().Add(-lookEvery)
		b.mem.look(true)
	}
	b.mem.mu.Unlock()
	if now := s.recv.Load(); now >= have || now < promise {
		t.Fatalf("the buffer has %d bytes of %d, with %d promised", now, have, promise)
	}
	if _, err := c.Write(make([]byte, promise)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return queuedIn(t, []*TCPConn{s}) >= promise-promise/16 })
	if n := b.Stats()["dropped_packets"]; n != 0 {
		t.Errorf("%d segments were refused", n)
	}
}

// TestMemoryOfUDP floods sockets that nobody reads.
func TestMemoryOfUDP(t *testing.T) {
	const ceiling, sockets = MinMemory, 30
	a, b := pair(t, link.PipeConfig{Depth: 2 * 400 * sockets}, func(_, b *Config) { b.Memory = ceiling })
	var conns []*UDPConn
	for range sockets {
		p, err := b.ListenPacket("udp", "10.0.0.2:0")
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		conns = append(conns, p.(*UDPConn))
	}
	from, err := a.UDP("udp4", netip.AddrPort{}, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if _, err := a.Ping(testContext(t), netip.MustParseAddr("10.0.0.2")); err != nil { // resolves the address
		t.Fatal(err)
	}
	for _, c := range conns {
		for range 400 {
			if _, err := from.WriteTo(make([]byte, 1000), c.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
	}
	waitFor(t, func() bool { return b.Stats()["udp.packets_received"] >= sockets*400 })
	if info := b.Memory(); info.Booked > ceiling+sockets*leastBuffer {
		t.Errorf("booked: %+v", info)
	}
	queued := 0
	for _, c := range conns {
		n, err := 0, error(nil)
		for had := queued; ; queued += n {
			c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if n, err = c.Read(make([]byte, 2000)); err != nil {
				if queued == had {
					t.Errorf("nothing waits in %v", c.LocalAddr())
				}
				break
			}
		}
	}
	if queued > ceiling+sockets*leastBuffer {
		t.Errorf("%d bytes waited, want up to %d", queued, ceiling)
	}
}

// TestMemorySetByPrograms has programs ask for more than there is.
func TestMemorySetByPrograms(t *testing.T) {
	a, b := pair(t, link.PipeConfig{}, func(_, b *Config) { b.Memory = 4 * MinMemory })
	for range 6 {
		c, s := connect(t, a, b, "10.0.0.2")
		defer c.Close()
		defer s.Close()
		for _, set := range []func(int) error{s.SetReadBuffer, s.SetWriteBuffer} {
			if err := set(8 << 20); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"so.rcvbuf", "so.sndbuf"} {
			if n, err := s.Option(name); err != nil || n < leastBuffer || n > 2*MinMemory {
				t.Errorf("%s is %d: %v", name, n, err)
			}
		}
		if err := exchange(c, s); err != nil {
			t.Error(err)
		}
	}
	if booked := b.Memory().Booked; booked > 4*MinMemory+12*leastBuffer {
		t.Errorf("booked %d bytes", booked)
	}
}

// TestMemoryOfManyIdle opens connections until memory is scarce; a newcomer still gets
// an ordinary buffer once it moves data.
func TestMemoryOfManyIdle(t *testing.T) {
	const ceiling = 16 << 20
	a, b := pair(t, link.PipeConfig{}, func(_, b *Config) { b.Memory = ceiling })
	l, err := b.Listen("tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	open := func() (*TCPConn, *TCPConn) {
		c, err := a.DialContext(testContext(t), "tcp", "10.0.0.2:80")
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return c.(*TCPConn), s.(*TCPConn)
	}
	var idle []*TCPConn
	for range 200 {
		c, s := open()
		wg.Go(func() {
			defer s.Close()
			if _, err := s.Read(make([]byte, 1)); err != io.EOF {
				t.Error(err)
			}
		})
		idle = append(idle, c)
	}
	defer wg.Wait()
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	if booked := b.Memory().Booked; booked > ceiling {
		t.Errorf("booked %d bytes of %d", booked, ceiling)
	}
	c, s := open()
	defer s.Close()
	const size = 8 << 20
	go func() {
		c.Write(make([]byte, size))
		c.Close()
	}()
	if n, err := io.Copy(io.Discard, s); err != nil || n != size {
		t.Errorf("%d bytes: %v", n, err)
	}
	if got := s.recv.Load(); got < 256<<10 {
		t.Errorf("a connection at work has a buffer of %d bytes: %+v", got, b.Memory())
	}
}

func TestMemorySetting(t *testing.T) {
	if n := DefaultMemory(); n < MinMemory || n > mostDefaultMemory {
		t.Errorf("the default is %d", n)
	}
	wire, far := link.Pipe(link.PipeConfig{})
	defer wire.Close()
	defer far.Close()
	if _, err := New(Config{Device: wire, Memory: 1000}); err == nil {
		t.Error("New takes a ceiling of 1000 bytes")
	}
}

// TestMemoryDeadline: the write that waits for memory still has its deadline.
func TestMemoryDeadline(t *testing.T) {
	a, b := pair(t, link.PipeConfig{}, func(a, _ *Config) { a.Memory = MinMemory })
	c, s := connect(t, a, b, "10.0.0.2")
	defer c.Close()
	defer s.Close()
	c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	n, err := c.Write(make([]byte, 32<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 {
		t.Errorf("Write took %d bytes: %v", n, err)
	}
}

// TestMemoryOfSmallDatagrams floods sockets that nobody reads with datagrams that carry
// next to nothing: what holds them counts too.
func TestMemoryOfSmallDatagrams(t *testing.T) {
	const ceiling, sockets, each = MinMemory, 4, 20000
	a, b := pair(t, link.PipeConfig{Depth: 8192}, func(_, b *Config) { b.Memory = ceiling })
	var conns []*UDPConn
	for range sockets {
		p, err := b.ListenPacket("udp", "10.0.0.2:0")
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		conns = append(conns, p.(*UDPConn))
	}
	from, err := a.UDP("udp4", netip.AddrPort{}, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if _, err := a.Ping(testContext(t), netip.MustParseAddr("10.0.0.2")); err != nil { // resolves the address
		t.Fatal(err)
	}
	before := heap()
	for i := range sockets * each {
		if _, err := from.WriteTo(make([]byte, i%2), conns[i%sockets].LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 999 { // the pipe has room for no more
			waitFor(t, func() bool { return b.Stats()["udp.packets_received"] > uint64(i) })
		}
	}
	held := heap() - before
	t.Logf("%d bytes are held", held)
	if held > 4*ceiling {
		t.Errorf("%d bytes are held, with a ceiling of %d", held, ceiling)
	}
	read := 0
	for _, c := range conns {
		for had := read; ; read++ {
			c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if _, err := c.Read(make([]byte, 2)); err != nil {
				if read == had {
					t.Errorf("nothing waits in %v", c.LocalAddr())
				}
				break
			}
		}
	}
	if lost := b.Stats()["udp.receive_buffer_errors"]; int(lost)+read != sockets*each {
		t.Errorf("%d datagrams were read and %d counted as lost, of %d", read, lost, sockets*each)
	}
}

// heap returns the bytes of live objects.
func heap() int64 {
	var m runtime.MemStats
	for range 2 { // pools keep what they have for one collection
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
