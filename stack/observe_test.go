package stack

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

// A witness writes down what is told of sockets.
type witness struct {
	mu    sync.Mutex
	lines []string
}

func (o *witness) Observe(ev *link.Event) {
	if ev.Network == "" {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, fmt.Sprintf("%v %s %v %v %d %s", ev.Step, ev.Network, ev.Local, ev.Remote, ev.Bytes, ev.Drop))
}

func (o *witness) want(t *testing.T, lines ...string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		o.mu.Lock()
		got := slices.Clone(o.lines)
		o.mu.Unlock()
		missing := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return slices.Contains(got, l) })
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not told: %q\ntold:     %q", missing, got)
		}
	}
}

func TestObserveSockets(t *testing.T) {
	obs := new(link.Observers)
	a, b := pair(t, link.PipeConfig{}, func(_, b *Config) { b.Observers = obs })
	var o witness
	remove := obs.Add(&o, true)
	defer remove()

	u, err := b.UDP("udp4", netip.MustParseAddrPort("0.0.0.0:7"), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if err := u.SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	c, err := a.Dial("udp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, n := range []int{3000, 3001} { // the second has no room
		if _, err := c.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	from := c.LocalAddr().String()
	o.want(t, "socket_in udp 10.0.0.2:7 "+from+" 3000 ", "socket_in udp 10.0.0.2:7 "+from+" 3001 "+CounterUDPFull)
	if _, _, err := u.ReadFromUDPAddrPort(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if _, err := u.WriteTo(make([]byte, 5), c.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	o.want(t, "socket_read udp 10.0.0.2:7 "+from+" 3000 ", "socket_write udp 0.0.0.0:7 "+from+" 5 ")

	client, server := connect(t, a, b, "10.0.0.2")
	before := server.arrived()
	if _, err := client.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return server.arrived() == before+100 })
	if _, err := server.Read(make([]byte, 60)); err != nil {
		t.Fatal(err)
	}
	if n := server.arrived(); n != before+100 {
		t.Errorf("%d bytes have arrived after 60 were read, want 100", n-before)
	}
	if _, err := server.Write(make([]byte, 9)); err != nil {
		t.Fatal(err)
	}
	ends := server.LocalAddr().String() + " " + server.RemoteAddr().String()
	o.want(t, "socket_read tcp "+ends+" 60 ", "socket_write tcp "+ends+" 9 ")

	if _, err := b.Ping(testContext(t), netip.MustParseAddr("10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	o.want(t, "socket_write icmp 10.0.0.2:0 10.0.0.1:0 64 ", "socket_in icmp 10.0.0.2:0 10.0.0.1:0 64 ")
}
