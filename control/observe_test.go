package control_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
	"github.com/ustack/ustack/link"
)

// A witness writes down what it is told.
type witness struct {
	mu    sync.Mutex
	lines []string
}

func (o *witness) Observe(ev *link.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, fmt.Sprintf("%v %s %v %v %d", ev.Step, ev.Network, ev.Local, ev.Remote, ev.Bytes))
	if !strings.HasPrefix(ev.Owner, "pid ") {
		o.lines = append(o.lines, "owner "+ev.Owner)
	}
}

func (o *witness) told(lines ...string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !slices.ContainsFunc(lines, func(l string) bool { return !slices.Contains(o.lines, l) })
}

// TestObserve: what programs write and what they get is told, with their addresses.
func TestObserve(t *testing.T) {
	obs := new(link.Observers)
	_, c := startServerConfig(t, control.ServerConfig{Backend: &controltest.Backend{}, Observers: obs})
	var o witness
	defer obs.Add(&o, false)()

	stream := dialStream(t, c, kernelPeer(t, "tcp", echo))
	defer stream.Close()
	stream.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := stream.Write(make([]byte, 11)); err != nil {
		t.Fatal(err)
	}
	for got := 0; got < 11; {
		n, err := stream.Read(make([]byte, 11))
		if got += n; err != nil {
			t.Fatal(err)
		}
	}
	tcp := fmt.Sprintf("tcp %v %v 11", stream.LocalAddr(), stream.RemoteAddr())

	a, err := c.ListenPacket(testContext(t), "udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := c.DialContext(testContext(t), "udp", a.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Write(make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	a.SetDeadline(time.Now().Add(10 * time.Second))
	_, from, err := a.ReadFrom(make([]byte, 100))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.WriteTo(make([]byte, 13), from); err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprintf("udp %v %v", b.LocalAddr(), a.LocalAddr())
	back := fmt.Sprintf("udp %v %v", a.LocalAddr(), b.LocalAddr())
	want := []string{
		"client_out " + tcp, "client_in " + tcp,
		"client_out " + out + " 12", "client_in " + back + " 12", "client_out " + back + " 13", "client_in " + out + " 13",
	}
	if !eventually(10*time.Second, func() bool { return o.told(want...) }) {
		t.Errorf("told %q, want %q", o.lines, want)
	}
	if slices.ContainsFunc(o.lines, func(l string) bool { return strings.HasPrefix(l, "owner") }) {
		t.Errorf("owners are not named: %q", o.lines)
	}
}
