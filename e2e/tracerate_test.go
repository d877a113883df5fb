package e2e

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/trace"
)

// TestTraceRate: of 1,000 frames a second, for five seconds, a trace loses none, and every one
// of them ends once.
func TestTraceRate(t *testing.T) {
	const rate, seconds = 1000, 5
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	u, err := d.client(t).ListenPacket(t.Context(), "udp4", stack4+":7777")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	got := make(chan int, 1)
	go func() {
		n, buf := 0, make([]byte, 100)
		for {
			if _, _, err := u.ReadFrom(buf); err != nil {
				got <- n
				return
			}
			n++
		}
	}()
	var datagrams, pings net.PacketConn
	host.Do(t, func() {
		if datagrams, err = net.ListenPacket("udp4", host4+":7778"); err == nil {
			pings, err = net.ListenPacket("ip4:icmp", host4)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	defer pings.Close()
	d.ok(t, "ping", "-c", "1", host4)

	f := follow(t, d, "in", "and", "(udp", "port", "7777", "or", "icmp[icmptype]", "=", "icmp-echo)")
	echo := make([]byte, 64)
	echo[0] = 8
	binary.BigEndian.PutUint16(echo[4:], 0x7e57)
	begin := time.Now()
	for i := range rate * seconds {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / rate)))
		if i%2 == 0 {
			_, err = datagrams.WriteTo([]byte("datagram"), &net.UDPAddr{IP: net.ParseIP(stack4), Port: 7777})
		} else {
			binary.BigEndian.PutUint16(echo[6:], uint16(i))
			binary.BigEndian.PutUint16(echo[2:], 0)
			binary.BigEndian.PutUint16(echo[2:], internetSum(echo))
			_, err = pings.WriteTo(echo, &net.IPAddr{IP: net.ParseIP(stack4)})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(begin)
	netlab.WaitFor(t, 20*time.Second, "the end of every frame", func() bool {
		return strings.Count(f.Output(), `"step":"end"`) >= rate*seconds
	})
	ends, kinds := make(map[uint64]int), make(map[string]int)
	kernelSteps := 0
	for _, r := range f.end(t) {
		if r.Lost > 0 {
			t.Errorf("%d steps were lost", r.Lost)
		}
		if r.Side == "kernel" {
			kernelSteps++
		}
		if r.Step == "end" {
			ends[r.Frame]++
			kinds[r.End]++
		}
	}
	for id, n := range ends {
		if n != 1 {
			t.Errorf("frame %d ended %d times", id, n)
		}
	}
	if len(ends) != rate*seconds || kinds[trace.EndDelivered] != rate*seconds/2 || kinds[trace.EndAnswered]+kinds[trace.EndDropped] != rate*seconds/2 {
		t.Errorf("%d frames ended as %v", len(ends), kinds)
	}
	u.Close()
	if n := <-got; n != rate*seconds/2 {
		t.Errorf("the program has had %d datagrams", n)
	}
	t.Logf("%d frames in %v: %v, %d steps of the kernel's", len(ends), took.Round(time.Millisecond), kinds, kernelSteps)
	d.terminate(t)
}

// internetSum is RFC 1071's checksum of an even number of bytes.
func internetSum(b []byte) uint16 {
	var n uint32
	for i := 0; i < len(b); i += 2 {
		n += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return ^uint16(n)
}
