package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/metrics"
	"github.com/ustack/ustack/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newStack puts a stack with addresses on a wire.
func newStack(t testing.TB, dev link.Device, addrs ...string) *stack.Stack {
	t.Helper()
	cfg := stack.Config{Device: dev}
	for _, a := range addrs {
		cfg.Addrs = append(cfg.Addrs, netip.MustParsePrefix(a))
	}
	s, err := stack.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// pair returns two stacks on one wire: 10.0.0.1 and 10.0.0.2.
func pair(t testing.TB, pipe link.PipeConfig) (a, b *stack.Stack) {
	t.Helper()
	wireA, wireB := link.Pipe(pipe)
	return newStack(t, wireA, "10.0.0.1/24"), newStack(t, wireB, "10.0.0.2/24")
}

// A station is the bare other end of a stack's wire.
type station struct {
	t    testing.TB
	dev  link.Device
	s    *stack.Stack
	done chan struct{}
}

// newStation returns a stack, 10.0.0.1, and the other end of its wire, which takes and
// forgets what it gets.
func newStation(t testing.TB, name string) *station {
	t.Helper()
	wire, far := link.Pipe(link.PipeConfig{Names: [2]string{name, "far"}, Depth: 4096})
	st := &station{t: t, dev: far, done: make(chan struct{}), s: newStack(t, wire, "10.0.0.1/24")}
	go func() {
		defer close(st.done)
		frames := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
		for {
			if _, err := far.Queues()[0].Read(frames); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		far.Close()
		<-st.done
	})
	return st
}

// send puts a frame on the wire: payload behind the header, for to.
func (st *station) send(to net.HardwareAddr, proto uint16, payload ...byte) {
	st.t.Helper()
	frame := slices.Concat(to, []byte{2, 0, 0, 0, 0, 9, byte(proto >> 8), byte(proto)}, payload)
	if n, err := st.dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame}}}); n != 1 || err != nil {
		st.t.Fatalf("send %x: %d, %v", frame, n, err)
	}
}

// open opens a socket of the stack on port 9.
func (st *station) open(network string) {
	st.t.Helper()
	var c io.Closer
	var err error
	if network == "tcp" {
		c, err = st.s.Listen("tcp", "10.0.0.1:9")
	} else {
		c, err = st.s.ListenPacket("udp", "10.0.0.1:9")
	}
	if err != nil {
		st.t.Fatal(err)
	}
	st.t.Cleanup(func() { c.Close() })
}

// arrived waits until the stack has read so many frames.
func (st *station) arrived(frames uint64) {
	st.t.Helper()
	waitFor(st.t, fmt.Sprintf("%d frames to arrive", frames), func() bool {
		return st.s.Links()[0].Stats.RxFrames >= frames
	})
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// noRequests are the figures of a control socket that nobody has used.
func noRequests() control.Counts {
	return control.NewServer(control.ServerConfig{}).Counts()
}

// onePort is a switch's only port.
func onePort() []control.Port {
	return []control.Port{{
		Name: "tap1", State: "looping", RxFrames: 1, RxBytes: 100, TxFrames: 2, TxBytes: 200, Flooded: 3, Stations: 4, Moves: 5, Unlearned: 6,
		Drops: map[string]uint64{"switch_loop": 7, "rx_short": 8},
	}}
}

// gather collects everything through a registry that checks the collector's promises.
func gather(t testing.TB, cfg metrics.Config) []*dto.MetricFamily {
	t.Helper()
	if cfg.Control == nil {
		cfg.Control = noRequests
	}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(metrics.NewCollector(cfg))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// values are the series by name{label="value",…}; histograms by their count.
func values(t testing.TB, s *stack.Stack) map[string]float64 {
	t.Helper()
	all := make(map[string]float64)
	for _, f := range gather(t, metrics.Config{Stack: s}) {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			key := strings.TrimPrefix(f.GetName(), "ustack_")
			if labels != nil {
				key += "{" + strings.Join(labels, ",") + "}"
			}
			switch {
			case m.Counter != nil:
				all[key] = m.Counter.GetValue()
			case m.Gauge != nil:
				all[key] = m.Gauge.GetValue()
			case m.Histogram != nil:
				all[key] = float64(m.Histogram.GetSampleCount())
			default:
				t.Errorf("%s is none of the three", key)
			}
		}
	}
	return all
}

// changes are the series that differ, by how much.
func changes(before, after map[string]float64) map[string]float64 {
	d := make(map[string]float64)
	for k, v := range after {
		if old, ok := before[k]; !ok || v != old {
			d[k] = v - old
		}
	}
	for k := range before {
		if _, ok := after[k]; !ok {
			d["gone: "+k] = 0
		}
	}
	return d
}

// refuse dials what must not answer.
func refuse(t testing.TB, s *stack.Stack, addr string, want error) {
	t.Helper()
	c, err := s.DialContext(testContext(t), "tcp", addr)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, want) {
		t.Fatalf("dial %s: %v, want %v", addr, err, want)
	}
}
