package tapendpoint

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/ustack/ustack/link"
)

// A witness writes down what it is told, one line an event.
type witness struct {
	mu    sync.Mutex
	lines []string
	told  chan struct{}
}

func (o *witness) Observe(ev *link.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, fmt.Sprintf("%d %v %s %d %s", ev.Frame, ev.Step, ev.Link, ev.Len(), ev.Drop))
	o.told <- struct{}{}
}

func (o *witness) wait(t *testing.T, n int) []string {
	t.Helper()
	for range n {
		<-o.told
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.lines)
}

func observed(t *testing.T, cfg link.PipeConfig, serial bool) (*Endpoint, *recorder, link.Queue, *witness, func()) {
	t.Helper()
	wire, far := link.Pipe(cfg)
	obs := new(link.Observers)
	ep, err := New(Config{Device: wire, HardwareAddr: ownMAC, Observers: obs})
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{more: make(chan struct{}, 64), ep: ep}
	ep.Attach(r)
	ep.Start()
	t.Cleanup(func() { ep.Stop(); far.Close() })
	o := &witness{told: make(chan struct{}, 64)}
	return ep, r, far.Queues()[0], o, obs.Add(o, serial)
}

func TestObserveReceived(t *testing.T) {
	for _, serial := range []bool{false, true} {
		_, r, far, o, remove := observed(t, link.PipeConfig{Names: [2]string{"wire"}}, serial)
		send(t, far, frame(net.HardwareAddr{2, 7, 7, 7, 7, 7}, 0x0800, make([]byte, 46)), link.Offload{})
		send(t, far, frame(ownMAC, 0x0800, make([]byte, 50)), link.Offload{})
		want := []string{
			"1 read wire 60 ", "1 dropped wire 60 rx_otherhost",
			"2 read wire 64 ", "2 up wire 64 ",
		}
		if serial {
			want = append(want, "2 done wire 64 ")
		}
		if got := o.wait(t, len(want)); !slices.Equal(got, want) {
			t.Errorf("serial %v: told %q, want %q", serial, got, want)
		}
		if d := r.next(t); d.verified {
			t.Error("a frame nobody vouched for counts as verified while it is observed")
		}
		remove()
		send(t, far, frame(ownMAC, 0x0800, make([]byte, 50)), link.Offload{})
		r.next(t)
		if n := len(o.told); n != 0 {
			t.Errorf("serial %v: %d events after the observer went", serial, n)
		}
	}
}

// TestObserveSent: the wire takes a frame, is full, and has ended.
func TestObserveSent(t *testing.T) {
	ep, _, _, o, _ := observed(t, link.PipeConfig{Names: [2]string{"wire"}, Depth: 1}, false)
	send := func() {
		p := gstack.NewPacketBuffer(gstack.PacketBufferOptions{
			ReserveHeaderBytes: int(ep.MaxHeaderLength()), Payload: buffer.MakeWithData(make([]byte, 50)),
		})
		defer p.DecRef()
		p.NetworkProtocolNumber = header.IPv4ProtocolNumber
		p.EgressRoute.RemoteLinkAddress = tcpip.LinkAddress(peerMAC)
		ep.AddHeader(p)
		var list gstack.PacketBufferList
		list.PushBack(p)
		if n, terr := ep.WritePackets(list); n != 1 || terr != nil {
			t.Fatalf("WritePackets: %d, %v", n, terr)
		}
	}
	send()
	send()
	ep.Stop()
	send()
	want := []string{
		"1 write wire 64 ", "1 sent wire 64 ",
		"2 write wire 64 ", "2 lost wire 64 tx_full",
		"3 write wire 64 ", "3 lost wire 64 tx_ended",
	}
	if got := o.wait(t, len(want)); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestCounted(t *testing.T) {
	before := map[string]uint64{"tx_full": 3, "rx_short": 1}
	for _, c := range []struct {
		now  map[string]uint64
		want string
	}{
		{map[string]uint64{"tx_full": 4, "rx_short": 1}, "tx_full"},
		{map[string]uint64{"tx_full": 3, "rx_short": 9, "tx_down": 1}, "tx_down"},
		{map[string]uint64{"tx_full": 4, "tx_down": 1}, "unknown"},
		{map[string]uint64{"tx_full": 3, "rx_short": 9}, "unknown"},
		{nil, "unknown"},
	} {
		if got := counted(before, c.now); got != c.want {
			t.Errorf("%v: %q, want %q", c.now, got, c.want)
		}
	}
}
