package main

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	switching "github.com/ustack/ustack/bridge"
	"github.com/ustack/ustack/link"
)

// A mill is a switch among whose ports one sends frames to all stations, by turns at random.
type mill struct {
	bridge *switching.Bridge
	first  *millDevice
}

// millMAC is the address of one of the stations: they are not in order.
func millMAC(i int) (mac [6]byte) {
	v := uint64(i+1) * 0x9e3779b97f4a7c15
	for j := range mac {
		mac[j] = byte(v >> (8 * j))
	}
	mac[0] = mac[0]&^1 | 2
	return mac
}

func newMill(ports, stations int) (*mill, error) {
	m := &mill{bridge: switching.New(switching.Config{MaxStations: 2 * stations})}
	var taught sync.WaitGroup
	for i := range ports {
		d := &millDevice{name: fmt.Sprint(i), teach: &taught, closed: make(chan struct{}), work: make(chan time.Time), done: make(chan result)}
		for s := i; s < stations; s += ports {
			d.own = append(d.own, millMAC(s))
		}
		taught.Add(1)
		if _, err := m.bridge.AddPort(switching.PortConfig{Device: d, MaxStations: stations}); err != nil {
			m.close()
			return nil, err
		}
		if i == 0 {
			m.first = d
		}
	}
	taught.Wait()
	if n := len(m.bridge.Stations()); n != stations {
		m.close()
		return nil, fmt.Errorf("the switch knows %d stations of %d", n, stations)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 1 << 16 {
		to := r.IntN(stations)
		for to%ports == 0 {
			to = r.IntN(stations)
		}
		dst, src := millMAC(to), m.first.own[r.IntN(len(m.first.own))]
		m.first.turns = append(m.first.turns, [12]byte(append(dst[:], src[:]...)))
	}
	return m, nil
}

func (m *mill) close() { m.bridge.Close() }

// do sends as long as the job says.
func (m *mill) do(j job) (result, error) {
	if j.Do != "lookup" {
		return result{}, fmt.Errorf("no job of a mill is called %q", j.Do)
	}
	m.first.work <- time.Now().Add(j.Time)
	return <-m.first.done, nil
}

// A millDevice makes frames and takes all.
type millDevice struct {
	link.Counters
	name   string
	own    [][6]byte
	teach  *sync.WaitGroup
	taught int
	turns  [][12]byte
	at     int

	work  chan time.Time // until when to send
	done  chan result
	begin time.Time
	end   time.Time
	sent  int

	once   sync.Once
	closed chan struct{}
}

func (d *millDevice) Info() link.Info {
	return link.Info{Name: d.name, MTU: link.DefaultMTU, TX: link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6 | link.OffloadECN}
}
func (d *millDevice) Queues() []link.Queue                 { return []link.Queue{d} }
func (d *millDevice) Close() error                         { d.once.Do(func() { close(d.closed) }); return nil }
func (d *millDevice) Write(f []link.OutFrame) (int, error) { return len(f), nil }

// Read first lets the switch learn the device's own stations: what each sends to the first of them goes
// nowhere else.
func (d *millDevice) Read(frames []link.Frame) (int, error) {
	const size = 60
	for i := range frames {
		frames[i].N, frames[i].Offload = size, link.Offload{}
	}
	if d.taught < len(d.own) {
		n := 0
		for ; n < len(frames) && d.taught < len(d.own); n++ {
			copy(frames[n].Buf, d.own[0][:])
			copy(frames[n].Buf[6:], d.own[d.taught][:])
			d.taught++
		}
		return n, nil
	}
	if d.teach != nil {
		d.teach.Done()
		d.teach = nil
	}
	if now := time.Now(); !now.Before(d.end) {
		if d.sent > 0 {
			d.done <- result{Count: d.sent, Time: now.Sub(d.begin)}
		}
		select {
		case d.end = <-d.work:
			d.begin, d.sent = time.Now(), 0
		case <-d.closed:
			return 0, link.ErrClosed
		}
	}
	for i := range frames {
		copy(frames[i].Buf, d.turns[d.at][:])
		d.at = (d.at + 1) % len(d.turns)
	}
	d.sent += len(frames)
	return len(frames), nil
}
