package bridge

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

// A host is the far end of a port.
type host struct {
	t    testing.TB
	dev  link.Device
	port *Port
	mac  [6]byte
	in   chan []byte
}

// plug adds a port whose far end is a host with the address 02:00:00:00:00:N.
func plug(t testing.TB, b *Bridge, n byte, pipe link.PipeConfig, cfg PortConfig) *host {
	t.Helper()
	pipe.Names = [2]string{fmt.Sprintf("p%d", n), fmt.Sprintf("h%d", n)}
	near, far := link.Pipe(pipe)
	cfg.Device = near
	p, err := b.AddPort(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dev: far, port: p, mac: [6]byte{2, 0, 0, 0, 0, n}, in: make(chan []byte, 1<<16)}
	t.Cleanup(func() { far.Close() })
	return h
}

// listen passes what arrives to h.in.
func (h *host) listen() *host {
	go func() {
		in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
		for {
			if _, err := h.dev.Queues()[0].Read(in); err != nil {
				close(h.in)
				return
			}
			h.in <- bytes.Clone(in[0].Buf[:in[0].N])
		}
	}()
	return h
}

var everybody = [6]byte{255, 255, 255, 255, 255, 255}

func frameOf(dst, src [6]byte, payload string) []byte {
	f := append(append(append([]byte{}, dst[:]...), src[:]...), 0x88, 0xb5)
	return append(f, payload...)
}

func (h *host) send(dst [6]byte, payload string) { h.raw(frameOf(dst, h.mac, payload)) }

func (h *host) raw(frame []byte) {
	h.t.Helper()
	if _, err := h.dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame}}}); err != nil {
		h.t.Fatal(err)
	}
}

// want waits for the payload, which must be the next frame.
func (h *host) want(payload string) {
	h.t.Helper()
	select {
	case f := <-h.in:
		if string(f[14:]) != payload {
			h.t.Fatalf("%s got %q, want %q", h.port.Name(), f[14:], payload)
		}
	case <-time.After(5 * time.Second):
		h.t.Fatalf("%s: %q did not come", h.port.Name(), payload)
	}
}

func newBridge(t testing.TB, cfg Config) *Bridge {
	b := New(cfg)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 5 s: " + what)
		}
	}
}

func three(t testing.TB, b *Bridge) (x, y, z *host) {
	return plug(t, b, 1, link.PipeConfig{}, PortConfig{}).listen(),
		plug(t, b, 2, link.PipeConfig{}, PortConfig{}).listen(), plug(t, b, 3, link.PipeConfig{}, PortConfig{}).listen()
}

func TestLearns(t *testing.T) {
	b := newBridge(t, Config{})
	x, y, z := three(t, b)
	x.send(y.mac, "unknown: to all")
	y.want("unknown: to all")
	z.want("unknown: to all")
	y.send(x.mac, "back")
	x.want("back")
	x.send(y.mac, "known")
	y.want("known")
	x.send(everybody, "broadcast")
	y.want("broadcast")
	z.want("broadcast") // and neither "back" nor "known" before it
	x.send(x.mac, "to itself")
	x.send(everybody, "after")
	y.want("after")
	if n := x.port.Stats().Dropped["same_port"]; n != 1 {
		t.Errorf("same_port = %d, want 1", n)
	}
	all := b.Stations()
	if len(all) != 2 || all[0].HardwareAddr != x.mac || all[0].Port != x.port || all[1].HardwareAddr != y.mac || all[1].Port != y.port {
		t.Errorf("stations: %v", all)
	}
}

func TestMoves(t *testing.T) {
	b := newBridge(t, Config{})
	x, y, z := three(t, b)
	x.send(everybody, "here")
	y.want("here")
	z.want("here")
	z.raw(frameOf(everybody, x.mac, "now there"))
	x.want("now there")
	y.want("now there")
	y.send(x.mac, "to the new place")
	z.want("to the new place")
	if s := z.port.Stats(); s.Moves != 1 || s.Stations != 1 {
		t.Errorf("moves %d, stations %d: want 1 and 1", s.Moves, s.Stations)
	}
	if s := x.port.Stats(); s.Stations != 0 {
		t.Errorf("%d stations at the old place", s.Stations)
	}
}

func TestAges(t *testing.T) {
	b := newBridge(t, Config{Ageing: time.Second})
	x, y, z := three(t, b)
	x.send(everybody, "here")
	y.want("here")
	z.want("here")
	eventually(t, "the station is forgotten", func() bool { return len(b.Stations()) == 0 && x.port.Stats().Stations == 0 })
	y.send(x.mac, "to all again")
	x.want("to all again")
	z.want("to all again")
}

func TestReserved(t *testing.T) {
	b := newBridge(t, Config{GroupForwardMask: 1 << 14}) // LLDP
	x, y, _ := three(t, b)
	x.send([6]byte{0x01, 0x80, 0xc2, 0, 0, 2}, "LACP")
	x.send([6]byte{0x01, 0x80, 0xc2, 0, 0, 14}, "LLDP")
	y.want("LLDP")
	if n := x.port.Stats().Dropped["reserved"]; n != 1 {
		t.Errorf("reserved = %d, want 1", n)
	}
}

func TestWire(t *testing.T) {
	b := newBridge(t, Config{Wire: true})
	x := plug(t, b, 1, link.PipeConfig{}, PortConfig{}).listen()
	x.send(everybody, "nobody there")
	eventually(t, "counted", func() bool { return x.port.Stats().Dropped["no_port"] == 1 })
	y := plug(t, b, 2, link.PipeConfig{}, PortConfig{}).listen()
	x.send([6]byte{0x01, 0x80, 0xc2, 0, 0, 2}, "LACP")
	y.want("LACP")
	x.send(x.mac, "its own address")
	y.want("its own address")
	y.raw(frameOf(x.mac, x.mac, "echo"))
	x.want("echo")
	near, far := link.Pipe(link.PipeConfig{})
	defer far.Close()
	if _, err := b.AddPort(PortConfig{Device: near}); err == nil {
		t.Error("a wire with three ends")
	}
	if _, err := near.Queues()[0].Write(nil); !errors.Is(err, link.ErrClosed) {
		t.Errorf("the refused Device is open: %v", err)
	}
	if len(b.Stations()) != 0 {
		t.Error("a wire has learned")
	}
}

func TestIsolated(t *testing.T) {
	b := newBridge(t, Config{})
	x := plug(t, b, 1, link.PipeConfig{}, PortConfig{Isolated: true}).listen()
	y := plug(t, b, 2, link.PipeConfig{}, PortConfig{Isolated: true}).listen()
	z := plug(t, b, 3, link.PipeConfig{}, PortConfig{}).listen()
	y.send(everybody, "hello")
	z.want("hello")
	x.send(y.mac, "to the other isolated one")
	eventually(t, "counted", func() bool { return x.port.Stats().Dropped["isolated"] == 1 })
	z.send(x.mac, "down")
	x.want("down") // and not "hello" before it
	z.send(everybody, "to both")
	x.want("to both")
	y.want("to both")
}

// A flood of sources takes its port's room and no more.
func TestFloodOfStations(t *testing.T) {
	b := newBridge(t, Config{MaxStations: 64})
	x := plug(t, b, 1, link.PipeConfig{Depth: 4096}, PortConfig{MaxStations: 32})
	y := plug(t, b, 2, link.PipeConfig{}, PortConfig{}).listen()
	z := plug(t, b, 3, link.PipeConfig{}, PortConfig{}).listen()
	y.send(everybody, "here")
	z.want("here")
	for i := range 1000 {
		x.raw(frameOf(z.mac, [6]byte{6, 0, 0, 0, byte(i >> 8), byte(i)}, "flood"))
	}
	eventually(t, "all came in", func() bool { return x.port.Stats().RxFrames == 1000 })
	s := x.port.Stats()
	if s.Stations != 32 || s.Unlearned != 1000-32 {
		t.Errorf("%d stations and %d unlearned: want 32 and 968", s.Stations, s.Unlearned)
	}
	if i := slices.IndexFunc(b.Stations(), func(st Station) bool { return st.HardwareAddr == y.mac && st.Port == y.port }); i < 0 {
		t.Error("another port's station was evicted")
	}
}

func TestStorm(t *testing.T) {
	b := newBridge(t, Config{})
	x := plug(t, b, 1, link.PipeConfig{Depth: 4096}, PortConfig{Storm: 100})
	y := plug(t, b, 2, link.PipeConfig{}, PortConfig{}).listen()
	y.send(everybody, "here")
	eventually(t, "known", func() bool { return len(b.Stations()) == 1 })
	for range 1000 {
		x.send(everybody, "storm")
	}
	x.send(y.mac, "known stations are reached all the same")
	eventually(t, "all came in", func() bool { return x.port.Stats().RxFrames == 1001 })
	s := x.port.Stats()
	if s.Flooded+s.Dropped["storm"] != 1000 || s.Flooded < 10 || s.Flooded > 500 {
		t.Errorf("flooded %d, dropped %d", s.Flooded, s.Dropped["storm"])
	}
	for range s.Flooded {
		y.want("storm")
	}
	y.want("known stations are reached all the same")
}

func TestBucket(t *testing.T) {
	now := time.Now()
	for _, c := range []struct{ rate, burst, second int }{{100, 10, 100}, {1, 1, 1}, {5, 1, 5}, {100000, 10000, 100000}} {
		b, took := newBucket(c.rate), 0
		for b.takeAt(now) {
			took++
		}
		if took != c.burst {
			t.Errorf("%d a second: %d at once, want %d", c.rate, took, c.burst)
		}
		took = 0
		for i := range 1000 * 10 {
			for b.takeAt(now.Add(time.Duration(i+1) * time.Millisecond)) {
				took++
			}
		}
		if want := 10 * c.second; took < want-1 || took > want+1 {
			t.Errorf("%d a second: %d in 10 s, want %d", c.rate, took, want)
		}
	}
}

// A port that nobody reads costs the others nothing.
func TestStalled(t *testing.T) {
	b := newBridge(t, Config{})
	x, y, _ := three(t, b)
	dead := plug(t, b, 4, link.PipeConfig{Depth: 8}, PortConfig{})
	for i := range 1000 {
		x.send(everybody, fmt.Sprint(i))
		y.want(fmt.Sprint(i))
	}
	if n := dead.port.Stats().Drops["tx_full"]; n != 1000-8 {
		t.Errorf("tx_full = %d, want 992", n)
	}
	// Below its bound it loses nothing, and goes on when somebody reads.
	dead.listen()
	for i := range 8 {
		dead.want(fmt.Sprint(i))
	}
	x.send(everybody, "again")
	dead.want("again")
}

func TestGone(t *testing.T) {
	b := newBridge(t, Config{})
	x, y, z := three(t, b)
	y.send(everybody, "here")
	x.want("here")
	z.want("here")
	y.dev.Close()
	<-y.port.Done()
	if err := y.port.Err(); !errors.Is(err, link.ErrGone) {
		t.Errorf("Err() = %v", err)
	}
	if n := len(b.Stations()); n != 0 {
		t.Errorf("%d stations of a port that is gone", n)
	}
	x.send(y.mac, "to all, then")
	z.want("to all, then")
	again := plug(t, b, 2, link.PipeConfig{}, PortConfig{}).listen()
	x.send(again.mac, "welcome back")
	again.want("welcome back")
	if err := b.Remove(again.port); err != nil {
		t.Fatal(err)
	}
	if err := again.port.Err(); !errors.Is(err, link.ErrClosed) {
		t.Errorf("Err() after Remove = %v", err)
	}
}

func TestAddPort(t *testing.T) {
	b := New(Config{})
	near, far := link.Pipe(link.PipeConfig{})
	defer far.Close()
	if _, err := b.AddPort(PortConfig{Device: near}); err != nil {
		t.Fatal(err)
	}
	same, far2 := link.Pipe(link.PipeConfig{})
	defer far2.Close()
	if _, err := b.AddPort(PortConfig{Device: same}); err == nil {
		t.Error("two ports of one name")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	late, far3 := link.Pipe(link.PipeConfig{})
	defer far3.Close()
	if _, err := b.AddPort(PortConfig{Device: late}); !errors.Is(err, ErrClosed) {
		t.Errorf("AddPort after Close: %v", err)
	}
}

// Frames keep their metadata where both ports know it, and are finished where one does not.
func TestOffloads(t *testing.T) {
	const all = link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6 | link.OffloadECN
	b := newBridge(t, Config{})
	x := plug(t, b, 1, link.PipeConfig{Offloads: all}, PortConfig{})
	y := plug(t, b, 2, link.PipeConfig{Offloads: all}, PortConfig{})
	z := plug(t, b, 3, link.PipeConfig{}, PortConfig{}).listen()

	super := superFrame(x.mac, 4000)
	o := link.Offload{NeedsCsum: true, GSOType: link.GSOTCPv4, GSOSize: 1448, HdrLen: 54, CsumStart: 34, CsumOffset: 16}
	if n, err := x.dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{super}, Offload: o}}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
	if _, err := y.dev.Queues()[0].Read(in); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(in[0].Buf[:in[0].N], super) || in[0].Offload != o {
		t.Errorf("the super-frame has %d bytes and %+v", in[0].N, in[0].Offload)
	}
	got := 0
	for got < 4000 {
		f := <-z.in
		if len(f) > 1514 {
			t.Fatalf("a frame of %d bytes", len(f))
		}
		got += len(f) - 54
	}
	if got != 4000 {
		t.Errorf("%d bytes of payload in segments", got)
	}
}

// superFrame is a TCP frame to everybody whose checksum is partial.
func superFrame(src [6]byte, n int) []byte {
	f := append(append(append([]byte{}, everybody[:]...), src[:]...), 0x08, 0x00)
	ip := make([]byte, 20, 40+n)
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(40+n))
	copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	tcp := make([]byte, 20+n)
	tcp[12] = 5 << 4
	return append(append(f, ip...), tcp...)
}
