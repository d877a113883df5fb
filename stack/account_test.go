package stack

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

// TestAccount: what a ping and a datagram for nobody change, by the names that Stats has.
func TestAccount(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	acc := b.Account()
	before := acc.Read(nil)
	if len(before) != len(acc.Names()) || len(before) < 100 {
		t.Fatalf("%d names, %d values", len(acc.Names()), len(before))
	}
	for _, ip := range []string{"10.0.0.2", "fd00::2"} {
		if _, err := a.Ping(testContext(t), netip.MustParseAddr(ip)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := a.Dial("udp", "10.0.0.2:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	changed := func() []string {
		var names []string
		for i, n := range acc.Read(nil) {
			if n != before[i] && !slices.Contains(names, acc.Names()[i]) {
				names = append(names, acc.Names()[i])
			}
		}
		return names
	}
	want := []string{
		"nic.rx.packets", "arp.requests_received", "arp.outgoing_replies_sent", "ip.packets_delivered",
		"icmp.v4.packets_received.echo_request", "icmp.v4.packets_sent.echo_reply",
		"icmp.v6.packets_sent.echo_reply", "icmp.v6.packets_received.neighbor_solicit",
		"udp.unknown_port_errors", "icmp.v4.packets_sent.dst_unreachable",
	}
	waitFor(t, func() bool {
		got := changed()
		return !slices.ContainsFunc(want, func(n string) bool { return !slices.Contains(got, n) })
	})
	stats := b.Stats()
	for _, name := range changed() {
		if _, ok := stats[name]; !ok {
			t.Errorf("%s is not in Stats", name)
		}
	}
}

func TestTCPSocketAndDrain(t *testing.T) {
	obs := new(link.Observers)
	a, b := pair(t, link.PipeConfig{}, func(_, b *Config) { b.Observers = obs })
	defer obs.Add(&witness{}, true)()
	client, server := connect(t, a, b, "10.0.0.2")
	local, remote := server.local, server.remote
	before, ok := b.TCPSocket(local, remote)
	if !ok || before.State != "ESTAB" || before.Local != local || before.Remote != remote {
		t.Fatalf("the connection: %+v, %v", before, ok)
	}
	if _, err := client.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { v, _ := b.TCPSocket(local, remote); return v.Arrived == before.Arrived+1000 })
	if v, _ := b.TCPSocket(local, remote); v.Segments <= before.Segments {
		t.Errorf("%d segments, and %d before", v.Segments, before.Segments)
	}
	for range 100 {
		if !b.DrainTCP(local, remote, 10*time.Second) {
			t.Fatal("an idle stack is not drained")
		}
	}
	if _, ok := b.TCPSocket(netip.MustParseAddrPort("10.0.0.2:1"), remote); ok {
		t.Error("a socket on a closed port")
	}
	// Segments go on being worked on.
	server.SetReadDeadline(time.Now().Add(10 * time.Second))
	for got := 0; got < 1000; {
		n, err := server.Read(make([]byte, 1000))
		if got += n; err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkDrainTCP(b *testing.B) {
	x, y := pair(b, link.PipeConfig{})
	_, server := connect(b, x, y, "10.0.0.2")
	b.ReportAllocs()
	for b.Loop() {
		if !y.DrainTCP(server.local, server.remote, time.Second) {
			b.Fatal("not drained")
		}
	}
}

func BenchmarkAccount(b *testing.B) {
	x, _ := pair(b, link.PipeConfig{})
	acc := x.Account()
	var buf []uint64
	b.ReportAllocs()
	for b.Loop() {
		buf = acc.Read(buf[:0])
	}
}
