package bridge

import (
	"encoding/binary"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ustack/ustack/link"
)

// A Port is a Device that takes part.
type Port struct {
	// What every frame needs, in one line of the processor's cache.
	b        *Bridge
	id       uint32
	isolated bool
	shut     atomic.Bool // it loops
	left     atomic.Bool // it takes no part any more
	first    link.Queue  // queues[0]
	queues   []link.Queue
	storm    *bucket // nil: no bound

	cfg  PortConfig
	name string
	dev  link.Device
	info link.Info

	stations  atomic.Int32 // in the table
	counters  [numDrops]atomic.Uint64
	unlearned atomic.Uint64 // frames of stations there was no room for
	moves     atomic.Uint64 // stations that came here from another port
	flooded   atomic.Uint64 // frames that came in and went to all

	mu        sync.Mutex
	token     [tokenLen]byte // of the last probe that left here; all zero: none yet
	tokenMade time.Time
	hold      time.Duration // of the last time that it was shut
	reopen    uint32        // when it is tried again, on the bridge's clock
	reopened  uint32
	why       string // why it is shut

	drops link.DropLog // of tend

	done    chan struct{}
	endOnce sync.Once
	err     error // why it ended, set before done is closed
}

// A drop says why a frame that came in was passed to nobody.
type drop uint8

const (
	dropSource   drop = iota // its source is a group's address, or none
	dropReserved             // it is for the switch itself (01:80:c2:00:00:0N)
	dropSamePort             // its destination is where it came from
	dropIsolated             // both ports are isolated
	dropStorm                // more was flooded than the port may
	dropLoop                 // the port is shut
	dropNoPort               // there is no other port
	numDrops
)

var dropNames = [numDrops]string{"source", "reserved", "same_port", "isolated", "storm", "loop", "no_port"}

// DropReasons returns the reasons of PortStats.Dropped, as a port's drops name them beside those
// of its Device: "switch_source" …
func DropReasons() []string {
	var all []string
	for _, name := range dropNames {
		all = append(all, DropPrefix+name)
	}
	return all
}

// everyday are reasons that every switch has, and that are not for the log.
var everyday = map[string]bool{
	DropPrefix + dropNames[dropReserved]: true, DropPrefix + dropNames[dropSamePort]: true,
	DropPrefix + dropNames[dropIsolated]: true, DropPrefix + dropNames[dropNoPort]: true,
}

// DropPrefix goes before a reason of PortStats.Dropped where it stands among a Device's.
const DropPrefix = "switch_"

func newPort(b *Bridge, cfg PortConfig) *Port {
	dev := cfg.Device
	info := dev.Info()
	const all = link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6 | link.OffloadECN
	if !info.TX.Has(all) {
		dev = link.Complete(dev, info.RX)
	}
	p := &Port{
		b: b, cfg: cfg, isolated: cfg.Isolated, name: cfg.Name, dev: dev, info: info, queues: dev.Queues(), done: make(chan struct{}),
	}
	p.first = p.queues[0]
	if p.name == "" {
		p.name = info.Name
	}
	if p.cfg.MaxStations == 0 {
		p.cfg.MaxStations = DefaultPortStations
	}
	if cfg.Storm > 0 {
		p.storm = newBucket(cfg.Storm)
	}
	p.drops = link.DropLog{Logger: b.log, What: "port", Name: p.name, Quiet: everyday}
	return p
}

// Name returns the port's name.
func (p *Port) Name() string { return p.name }

// Info returns what the Device states.
func (p *Port) Info() link.Info { return p.dev.Info() }

// Done is closed when the port does not take part any more.
func (p *Port) Done() <-chan struct{} { return p.done }

// Err returns why: link.ErrClosed after Remove or Close, else an error that wraps link.ErrGone. It is
// nil until Done is closed.
func (p *Port) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

func (p *Port) end(err error) {
	p.endOnce.Do(func() {
		p.err = err
		close(p.done)
	})
}

// PortStats are a port's counters since it was added.
type PortStats struct {
	// Stats are the Device's: frames and bytes each way, and its own drops.
	link.Stats
	// Dropped holds why frames that came in went to nobody, for the reasons that occurred:
	// "source", "reserved", "same_port", "isolated", "storm", "loop", "no_port".
	Dropped map[string]uint64
	// Flooded are frames that came in and went to all other ports.
	Flooded uint64
	// Stations are known at the port now; Moves came from another one; Unlearned are frames of
	// stations that there was no room for.
	Stations         int
	Moves, Unlearned uint64
	// Shut says why the port takes no part for now, "" if it does.
	Shut string
}

// Stats returns the port's counters.
func (p *Port) Stats() PortStats {
	s := PortStats{
		Stats: p.dev.Stats(), Dropped: map[string]uint64{}, Flooded: p.flooded.Load(),
		Stations: int(p.stations.Load()), Moves: p.moves.Load(), Unlearned: p.unlearned.Load(),
	}
	for i := range p.counters {
		if n := p.counters[i].Load(); n > 0 {
			s.Dropped[dropNames[i]] = n
		}
	}
	s.Drops = maps.Clone(s.Drops)
	p.mu.Lock()
	s.Shut = p.why
	p.mu.Unlock()
	return s
}

// How many frames one Read may return. A super-frame's buffer is large.
const (
	readBatch      = 32
	readBatchSuper = 4
)

// read passes on what comes in at one queue, until the Device ends.
func (p *Port) read(index int, q link.Queue) {
	n, size := readBatchSuper, link.MaxFrame
	if !p.info.RX.Has(link.OffloadTSO4) && !p.info.RX.Has(link.OffloadTSO6) {
		const tags = 8 // two of 802.1Q
		n, size = readBatch, min(link.HeaderLen+tags+p.info.MTU, link.MaxFrame)
	}
	s := &sender{b: p.b, queue: index, out: make([]link.OutFrame, 0, n), pieces: make([][]byte, n)}
	frames := make([]link.Frame, n)
	for i := range frames {
		frames[i].Buf = make([]byte, size)
	}
	for {
		got, err := q.Read(frames)
		if err != nil {
			p.b.ended(p, err)
			return
		}
		if got > 1 {
			p.b.table.touch(frames[:got])
		}
		for i := range frames[:got] {
			p.receive(&frames[i], s)
		}
		s.flush()
	}
}

// receive decides where a frame goes.
func (p *Port) receive(f *link.Frame, s *sender) {
	b, frame := p.b, f.Buf[:f.N]
	dst := macOf(frame)
	if dst == probeGroup && b.looped(p, frame) {
		return
	}
	if p.shut.Load() {
		p.counters[dropLoop].Add(1)
		return
	}
	if b.cfg.Wire {
		p.toOther(f, s)
		return
	}
	src := macOf(frame[6:])
	if src.multicast() || src == 0 {
		p.counters[dropSource].Add(1)
		return
	}
	if dst&^0xf == reserved && b.cfg.GroupForwardMask>>(dst&0xf)&1 == 0 {
		p.counters[dropReserved].Add(1)
		return
	}
	now := b.now.Load()
	if !b.table.refresh(src, p.id, now) {
		p.learn(src, now)
	}
	if !dst.multicast() {
		if id, when, ok := b.table.lookup(dst); ok && !b.aged(now, when) {
			if to := b.port(id); to != nil {
				p.toStation(f, to, s)
				return
			}
		}
	}
	p.flood(f, s)
}

// reserved is the first of the 16 addresses that a switch does not pass on (IEEE 802.1D-2004,
// table 7-10).
const reserved macAddr = 0x0180c2000000

func (p *Port) learn(src macAddr, now uint32) {
	b := p.b
	what := b.table.learn(src, p.id, now, p.room, func(from uint32) {
		if old := b.port(from); old != nil {
			old.stations.Add(-1)
		}
	})
	switch what {
	case learnedNoRoom:
		p.unlearned.Add(1)
	case learnedMove:
		p.moves.Add(1)
		b.loops.moved()
	}
}

// room takes a place for one more station. A port that leaves has none: its number will be another's.
// The table is locked.
func (p *Port) room() bool {
	if p.left.Load() || int(p.stations.Load()) >= p.cfg.MaxStations {
		return false
	}
	p.stations.Add(1)
	return true
}

func (p *Port) toStation(f *link.Frame, to *Port, s *sender) {
	switch {
	case to == p:
		p.counters[dropSamePort].Add(1)
	case p.isolated && to.isolated:
		p.counters[dropIsolated].Add(1)
	case to.shut.Load():
		p.counters[dropLoop].Add(1)
	default:
		s.add(f, to)
	}
}

func (p *Port) toOther(f *link.Frame, s *sender) {
	for _, to := range *p.b.ports.Load() {
		if to != p {
			s.add(f, to)
			return
		}
	}
	p.counters[dropNoPort].Add(1)
}

// flood sends to all others.
func (p *Port) flood(f *link.Frame, s *sender) {
	if p.storm != nil && !p.storm.take() {
		p.counters[dropStorm].Add(1)
		return
	}
	sent := false
	for _, to := range *p.b.ports.Load() {
		if to == p || p.isolated && to.isolated || to.shut.Load() {
			continue
		}
		sent = true
		s.add(f, to)
	}
	if !sent {
		p.counters[dropNoPort].Add(1)
		return
	}
	p.flooded.Add(1)
}

// unlearned is what the log calls frames of stations that there was no room for: they are passed on.
const unlearned = "unlearned"

// tick tells what was dropped, and opens the port again when its time has come.
func (p *Port) tick(now uint32) {
	s := p.Stats()
	all := make(map[string]uint64, len(s.Drops)+len(s.Dropped)+1)
	maps.Copy(all, s.Drops)
	for why, n := range s.Dropped {
		all[DropPrefix+why] = n
	}
	all[unlearned] = s.Unlearned
	p.drops.Look(time.Now(), all)
	if !p.shut.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now >= p.reopen {
		p.why, p.reopened = "", now
		p.shut.Store(false)
		p.b.log.Info("port is tried again", "port", p.name)
	}
}

// A sender gathers consecutive frames for one port, so that they are one Write.
type sender struct {
	b      *Bridge
	queue  int
	to     *Port
	out    []link.OutFrame
	pieces [][]byte
}

func (s *sender) add(f *link.Frame, to *Port) {
	if s.to != to || len(s.out) == cap(s.out) {
		s.flush()
		s.to = to
	}
	n := len(s.out)
	s.pieces[n] = f.Buf[:f.N]
	s.out = append(s.out, link.OutFrame{Pieces: s.pieces[n : n+1], Offload: f.Offload})
}

// flush writes what was gathered. What the port does not take it counts itself; one that has ended is
// taken out.
func (s *sender) flush() {
	if len(s.out) == 0 {
		return
	}
	q := s.to.first
	if s.queue > 0 {
		q = s.to.queues[s.queue%len(s.to.queues)]
	}
	if _, err := q.Write(s.out); err != nil && !s.to.left.Swap(true) {
		// Not here: to close a Device may take its time.
		b, to := s.b, s.to
		b.readers.Go(func() { b.ended(to, err) })
	}
	s.out, s.to = s.out[:0], nil
}

// etherType returns the EtherType of a frame.
func etherType(frame []byte) uint16 { return binary.BigEndian.Uint16(frame[12:]) }
