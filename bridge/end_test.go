package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/ustack/ustack/link"
)

// A deafDevice learns of the end of its wire only when it writes.
type deafDevice struct {
	link.Counters
	name   string
	once   sync.Once
	closed chan struct{}
}

func (d *deafDevice) Info() link.Info                { return link.Info{Name: d.name, MTU: 1500} }
func (d *deafDevice) Queues() []link.Queue           { return []link.Queue{d} }
func (d *deafDevice) Close() error                   { d.once.Do(func() { close(d.closed) }); return nil }
func (d *deafDevice) Read([]link.Frame) (int, error) { <-d.closed; return 0, link.ErrClosed }
func (d *deafDevice) Write(f []link.OutFrame) (int, error) {
	return 0, fmt.Errorf("deaf: %w", link.ErrGone)
}

// A Device whose Write says that it is gone is taken out and closed, though nothing comes from it.
func TestGoneByWrite(t *testing.T) {
	b := newBridge(t, Config{})
	x, y, _ := three(t, b)
	deaf := &deafDevice{name: "deaf", closed: make(chan struct{})}
	p, err := b.AddPort(PortConfig{Device: deaf})
	if err != nil {
		t.Fatal(err)
	}
	x.send(everybody, "hello")
	y.want("hello")
	<-p.Done()
	<-deaf.closed
	if !errors.Is(p.Err(), link.ErrGone) {
		t.Errorf("Err() = %v", p.Err())
	}
}

// A number that is used again inherits nothing from the port that had it before, whose readers may be
// at work while it leaves.
func TestNumberUsedAgain(t *testing.T) {
	b := newBridge(t, Config{})
	x := plug(t, b, 1, link.PipeConfig{}, PortConfig{})
	y := plug(t, b, 2, link.PipeConfig{}, PortConfig{}).listen()
	x.send(everybody, "here")
	y.want("here")
	if err := b.Remove(x.port); err != nil {
		t.Fatal(err)
	}
	if n := x.port.Stats().Stations; n != 0 {
		t.Errorf("%d stations at a port that was removed", n)
	}
	x.port.learn(macOf(x.mac[:]), 0) // what its reader had in its hands
	z := plug(t, b, 3, link.PipeConfig{}, PortConfig{})
	if z.port.id != x.port.id {
		t.Fatalf("number %d, want that of the port before, %d", z.port.id, x.port.id)
	}
	if all := b.Stations(); len(all) != 0 {
		t.Errorf("a new port has the stations of another one: %v", all)
	}
}

// A safeBuffer is for a Logger's lines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// What is dropped is named in the log, and ports that do not fit together are.
func TestLog(t *testing.T) {
	var out safeBuffer
	b := newBridge(t, Config{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	x := plug(t, b, 1, link.PipeConfig{Depth: 1 << 12}, PortConfig{Storm: 10, MaxStations: 1})
	plug(t, b, 2, link.PipeConfig{Depth: 8, MTU: 1280}, PortConfig{})
	plug(t, b, 3, link.PipeConfig{Depth: 1 << 12}, PortConfig{}).listen()
	if s := out.String(); !strings.Contains(s, "different MTUs") || !strings.Contains(s, "port=p2 mtu=1280 other=p1 its_mtu=1500") {
		t.Errorf("log: %s", s)
	}
	x.send(everybody, strings.Repeat("long", 350)) // for p2 too long
	for i := range 100 {
		x.raw(frameOf(everybody, [6]byte{2, 0, 0, 0, 9, byte(i)}, "storm"))
	}
	eventually(t, "the log names what was dropped", func() bool {
		s := out.String()
		return strings.Contains(s, "port=p1 switch_storm=") && strings.Contains(s, "unlearned=100") && strings.Contains(s, "port=p2 tx_oversize=1")
	})
	if n := strings.Count(out.String(), "frames dropped"); n > 4 {
		t.Errorf("%d lines:\n%s", n, out.String())
	}
}
