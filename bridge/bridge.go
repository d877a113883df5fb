// Package bridge is a learning Ethernet switch over link.Devices (IEEE 802.1D-2004,
// clause 7): each Device is a port, and a frame goes to the port where its destination
// was last seen, or to all others.
//
// Frames pass from one Device to the next as they were read, without a copy: a
// super-frame stays one where both ports take it, and is cut by package link where the
// port it leaves by does not. Nobody waits for a port: a Device that is full drops and
// counts, so that a port that is stuck costs the others nothing.
//
// What strangers can do to it is bounded: stations for each port and in all, floods by
// a rate, loops by being found and shut; what is dropped is counted, and the log names it
// once a second at the most. A wire between two ports learns nothing, and so finds no
// loop: it makes none either, more than a cable would.
//
// There is no fragmentation (IEEE 802.1D-2004, clause 6.3.8): a frame that is longer than
// the MTU of the port that it would leave by is dropped there, and counted as tx_oversize.
// Ports of one switch should have one MTU.
package bridge

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ustack/ustack/link"
)

// Defaults of Config.
const (
	// DefaultAgeing is how long a station is known that says nothing (IEEE 802.1D-2004,
	// table 7-5).
	DefaultAgeing = 300 * time.Second
	// DefaultMaxStations bounds the table over all ports.
	DefaultMaxStations = 1 << 17
	// DefaultPortStations bounds the stations of one port.
	DefaultPortStations = 8192
	// DefaultLoopHold is how long a looping port is shut before it is tried again.
	DefaultLoopHold = 60 * time.Second
	// MaxPorts bounds the ports.
	MaxPorts = 1 << 16
)

// A Config configures New. The zero value is a learning switch.
type Config struct {
	// Wire makes it a wire between two ports: nothing is learned, nothing is filtered, and all that
	// comes in at one port leaves by the other, frames to reserved addresses (IEEE 802.1D-2004, table
	// 7-10) too. It takes no third port.
	Wire bool
	// Ageing is how long a station is known that says nothing; 0 means DefaultAgeing.
	Ageing time.Duration
	// MaxStations bounds the table; 0 means DefaultMaxStations.
	MaxStations int
	// GroupForwardMask lets frames to the reserved addresses 01:80:c2:00:00:0N pass for each bit N
	// that is set; a switch keeps them to itself otherwise. It means what Linux's group_fwd_mask
	// does.
	GroupForwardMask uint16
	// LoopHold is how long a looping port is shut at first; 0 means DefaultLoopHold. The time
	// doubles each time, up to ten times as long.
	LoopHold time.Duration
	// Logger may be nil.
	Logger *slog.Logger
}

// A PortConfig describes a port. Only Device is required.
type PortConfig struct {
	// Device is owned by the Bridge from then on.
	Device link.Device
	// Name is unique; "" means the Device's.
	Name string
	// Isolated ports reach only those that are not isolated.
	Isolated bool
	// Storm bounds what the port may flood (broadcasts, multicasts and frames to unknown
	// stations), in frames per second; 0 means no bound.
	Storm int
	// MaxStations bounds the stations that are known at the port; 0 means DefaultPortStations.
	MaxStations int
	// Inside says that the port leads to ourselves: it is never shut as part of a loop.
	Inside bool
}

// A Bridge is a switch, or a wire between two ports.
type Bridge struct {
	cfg Config
	log *slog.Logger

	table *table
	now   atomic.Uint32 // seconds since start, advanced by tend
	start time.Time
	loops loops

	// ports are those that take part, for readers; byID has them at the place of their number.
	ports atomic.Pointer[[]*Port]
	byID  atomic.Pointer[[]*Port]

	mu     sync.Mutex // of changes of ports and byID
	closed bool

	readers sync.WaitGroup
	tending sync.WaitGroup
	done    chan struct{}
}

// New returns a Bridge without ports.
func New(cfg Config) *Bridge {
	if cfg.Ageing == 0 {
		cfg.Ageing = DefaultAgeing
	}
	if cfg.MaxStations == 0 {
		cfg.MaxStations = DefaultMaxStations
	}
	if cfg.LoopHold == 0 {
		cfg.LoopHold = DefaultLoopHold
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Bridge{cfg: cfg, log: log, table: newTable(cfg.MaxStations), start: time.Now(), done: make(chan struct{})}
	b.ports.Store(new([]*Port))
	b.byID.Store(new([]*Port))
	b.loops.init()
	b.tending.Go(b.tend)
	return b
}

// ErrClosed is returned after Close.
var ErrClosed = errors.New("bridge: closed")

// AddPort makes a Device a port and begins to read it. The Device is closed if that
// does not work.
func (b *Bridge) AddPort(cfg PortConfig) (*Port, error) {
	p, err := b.addPort(cfg)
	if err != nil {
		cfg.Device.Close()
		return nil, err
	}
	return p, nil
}

func (b *Bridge) addPort(cfg PortConfig) (*Port, error) {
	p := newPort(b, cfg)
	b.mu.Lock()
	defer b.mu.Unlock()
	ports := *b.ports.Load()
	switch {
	case b.closed:
		return nil, ErrClosed
	case b.cfg.Wire && len(ports) == 2:
		return nil, fmt.Errorf("bridge: port %s: a wire has two ends, which are %s and %s: use a switch", p.name, ports[0].name, ports[1].name)
	case slices.ContainsFunc(ports, func(q *Port) bool { return q.name == p.name }):
		return nil, fmt.Errorf("bridge: port %s: there is one of that name already: give it another", p.name)
	case len(ports) == MaxPorts:
		return nil, fmt.Errorf("bridge: port %s: there are %d already: use another bridge", p.name, len(ports))
	}
	byID := slices.Clone(*b.byID.Load())
	id := slices.Index(byID, nil)
	if id < 0 {
		id, byID = len(byID), append(byID, nil)
	}
	byID[id], p.id = p, uint32(id)
	b.byID.Store(&byID)
	if i := slices.IndexFunc(ports, func(q *Port) bool { return q.info.MTU != p.info.MTU }); i >= 0 {
		b.log.Warn("ports have different MTUs: frames that are too long for one are dropped there (tx_oversize)",
			"port", p.name, "mtu", p.info.MTU, "other", ports[i].name, "its_mtu", ports[i].info.MTU)
	}
	b.setPorts(append(slices.Clone(ports), p))
	for i, q := range p.queues {
		b.readers.Go(func() { p.read(i, q) })
	}
	return p, nil
}

// setPorts publishes who takes part. mu is held.
func (b *Bridge) setPorts(ports []*Port) { b.ports.Store(&ports) }

// Remove takes a port out and closes its Device.
func (b *Bridge) Remove(p *Port) error {
	b.leave(p, link.ErrClosed)
	return p.dev.Close()
}

// ended takes out a port whose Device has ended because of err, and closes that.
func (b *Bridge) ended(p *Port, err error) {
	if !b.leave(p, err) {
		return
	}
	if !errors.Is(err, link.ErrClosed) {
		b.log.Warn("port has ended", "port", p.name, "err", err)
	}
	if err := p.dev.Close(); err != nil {
		b.log.Warn("a port that has ended could not be closed", "port", p.name, "err", err)
	}
}

// leave forgets a port, whose Device has ended because of err or is about to be closed. It says whether
// the port took part until then.
func (b *Bridge) leave(p *Port, err error) bool {
	b.mu.Lock()
	ports := *b.ports.Load()
	at := slices.Index(ports, p)
	if at < 0 {
		b.mu.Unlock()
		return false
	}
	b.setPorts(slices.Delete(slices.Clone(ports), at, at+1))
	b.mu.Unlock()
	p.left.Store(true) // its readers may be at work still, but nothing is learned any more
	b.table.forget(func(port, _ uint32) bool { return port == p.id })
	p.stations.Store(0)
	// Only now may another have its number.
	b.mu.Lock()
	byID := slices.Clone(*b.byID.Load())
	byID[p.id] = nil
	b.byID.Store(&byID)
	b.mu.Unlock()
	p.end(err)
	return true
}

// Ports returns the ports that take part, in the order in which they came.
func (b *Bridge) Ports() []*Port { return slices.Clone(*b.ports.Load()) }

// Close closes all ports and waits until no frame passes any more. It is harmless to
// call it twice.
func (b *Bridge) Close() error {
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	b.mu.Unlock()
	if first {
		close(b.done)
		b.table.clear() // once, not for each port
	}
	var errs []error
	for _, p := range b.Ports() {
		errs = append(errs, b.Remove(p))
	}
	b.readers.Wait()
	b.tending.Wait()
	return errors.Join(errs...)
}

// A Station is one entry of the table.
type Station struct {
	HardwareAddr [6]byte
	Port         *Port
	// Age is the time since it was last heard of.
	Age time.Duration
}

// Stations returns the table, by port and address.
func (b *Bridge) Stations() []Station {
	now, byID := b.now.Load(), *b.byID.Load()
	var all []Station
	b.table.each(func(a macAddr, port, when uint32) {
		if b.aged(now, when) || int(port) >= len(byID) || byID[port] == nil {
			return
		}
		all = append(all, Station{HardwareAddr: a.bytes(), Port: byID[port], Age: time.Duration(now-min(when, now)) * time.Second})
	})
	slices.SortFunc(all, func(x, y Station) int {
		if x.Port != y.Port {
			return int(x.Port.id) - int(y.Port.id)
		}
		return slices.Compare(x.HardwareAddr[:], y.HardwareAddr[:])
	})
	return all
}

// aged says whether an entry has been silent for too long. Times are whole seconds.
func (b *Bridge) aged(now, when uint32) bool {
	return now > when && time.Duration(now-when)*time.Second > b.cfg.Ageing
}

// tend advances the clock, forgets the silent, opens ports again and looks for loops.
func (b *Bridge) tend() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	swept := uint32(0)
	sweep := uint32(max(b.cfg.Ageing/(10*time.Second), 1))
	for {
		select {
		case <-b.done:
			return
		case <-b.loops.suspicion:
			b.probe()
			continue
		case <-tick.C:
		}
		now := uint32(time.Since(b.start) / time.Second)
		b.now.Store(now)
		if now-swept >= sweep {
			swept = now
			b.table.forget(func(port, when uint32) bool {
				if !b.aged(now, when) {
					return false
				}
				if p := b.port(port); p != nil {
					p.stations.Add(-1)
				}
				return true
			})
		}
		for _, p := range *b.ports.Load() {
			p.tick(now)
		}
	}
}

// port returns the port of a number, or nil.
func (b *Bridge) port(id uint32) *Port {
	byID := *b.byID.Load()
	if int(id) >= len(byID) {
		return nil
	}
	return byID[id]
}
