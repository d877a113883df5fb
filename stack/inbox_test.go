package stack

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

// TestInbox has datagrams of many sizes pass, in the order in which they came, while the
// ring grows, is used up, and goes round.
func TestInbox(t *testing.T) {
	const limit = 8 << 10
	rng := rand.New(rand.NewPCG(1, 2))
	var in inbox
	in.limit = limit
	var want [][]byte
	var sent []int
	lost := 0
	for i := range 20000 {
		if rng.IntN(2) == 0 {
			d := make([]byte, rng.IntN(900))
			for j := range d {
				d[j] = byte(i + j)
			}
			in.partial, in.over = letterHead, in.used > 0 && in.used+letterHead > limit
			half := rng.IntN(len(d) + 1)
			in.Write(d[:half])
			in.Write(d[half:])
			if in.over {
				lost++
			} else {
				in.commit(told(i))
				want = append(want, d)
				sent = append(sent, i)
			}
		}
		if in.queued() > limit || len(in.ring) > limit {
			t.Fatalf("%d bytes wait in a ring of %d", in.queued(), len(in.ring))
		}
		if i%7 == 0 {
			in.shrink(int64(rng.IntN(limit)))
		}
		for range rng.IntN(2 + 2*(i>>10&1)) {
			b := make([]byte, 1000)
			m, terr := in.take(b)
			if len(want) == 0 {
				if terr == nil {
					t.Fatal("a datagram out of nothing")
				}
				break
			}
			expect := told(sent[0])
			expect.N = len(want[0])
			if terr != nil || m != expect || !bytes.Equal(b[:m.N], want[0]) {
				t.Fatalf("got %+v, %v; want %+v", m, terr, expect)
			}
			want, sent = want[1:], sent[1:]
		}
	}
	if lost == 0 {
		t.Error("the inbox never was full")
	}
}

// told is what netstack tells of the i-th datagram.
func told(i int) UDPMessage {
	m := UDPMessage{TTL: i % 256, TOS: i / 256 % 256}
	from := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
	if i%2 == 0 {
		from = netip.MustParseAddr("fe80::1")
		m.To = netip.MustParseAddr("ff02::1")
	}
	m.From = netip.AddrPortFrom(from, uint16(i))
	return m
}

// TestInboxTakesOneOfAnySize sends a datagram larger than the buffer.
func TestInboxTakesOneOfAnySize(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	server, err := b.UDP("udp4", netip.MustParseAddrPort("10.0.0.2:0"), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := server.SetReadBuffer(leastBuffer); err != nil {
		t.Fatal(err)
	}
	client, err := a.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for range 3 {
		if _, err := client.Write(make([]byte, 60000)); err != nil {
			t.Fatal(err)
		}
		if n, err := server.Read(make([]byte, 65536)); n != 60000 || err != nil {
			t.Fatalf("read %d bytes: %v", n, err)
		}
	}
}

// TestUDPQueued is what a program and ss see of a socket that is not read.
func TestUDPQueued(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	server, err := b.UDP("udp4", netip.MustParseAddrPort("10.0.0.2:0"), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := a.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for range 3 {
		if _, err := client.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	const want = 3 * (100 + letterHead)
	waitFor(t, func() bool { n, err := server.Option("ustack.recv_queued"); return err == nil && n == want })
	if got := b.Memory().Queued; got != want {
		t.Errorf("memory.queued is %d, want %d", got, want)
	}
	for _, k := range b.Sockets() {
		if k.Network == "udp" && k.Local.Port() == netip.MustParseAddrPort(server.LocalAddr().String()).Port() && k.RecvQ != want {
			t.Errorf("Recv-Q is %d, want %d", k.RecvQ, want)
		}
	}
}

// TestMemoryOfICMP floods ICMP sockets that nobody reads with the smallest messages.
func TestMemoryOfICMP(t *testing.T) {
	const messages = 20000
	a, b := pair(t, link.PipeConfig{Depth: 8192}, func(_, b *Config) { b.Memory = MinMemory })
	for _, tc := range []struct {
		network, to string
		reply       byte
	}{{"ip4", "10.0.0.2", 0}, {"ip6", "fd00::2", 129}} {
		c, err := b.ICMP(tc.network)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		from, err := a.ICMP(tc.network)
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		msg := make([]byte, 8)
		msg[0] = tc.reply // nobody answers a reply
		// While the neighbour is looked for only some messages wait, and the looking counts as packets.
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if err := from.WriteICMP(msg, netip.MustParseAddr(tc.to)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReadICMP(); err != nil {
			t.Fatal(err)
		}
		before := heap()
		seen := b.Stats()["ip.packets_received"]
		for i := range messages {
			if err := from.WriteICMP(msg, netip.MustParseAddr(tc.to)); err != nil {
				t.Fatal(err)
			}
			if i%1000 == 0 {
				waitFor(t, func() bool { return b.Stats()["ip.packets_received"] > seen+uint64(i) })
			}
		}
		if held := heap() - before; held > 2*MinMemory {
			t.Errorf("%s: %d bytes are held", tc.network, held)
		}
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.ReadICMP(); err != nil {
			t.Errorf("%s: nothing waits: %v", tc.network, err)
		}
	}
}
