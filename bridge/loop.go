package bridge

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ustack/ustack/link"
)

// A loop shows by stations that seem to move: each flooded frame comes back by another port, or by
// the one it left by. That is a suspicion; the proof is a probe that comes back: a frame with a token
// that nobody knows who is not on the way. Where nothing moves no probe is ever sent.
type loops struct {
	suspicion chan struct{}
	count     atomic.Int64 // moves in this window …
	window    atomic.Int64 // … which began then, in ns
	began     time.Time
	source    [6]byte // of probes
}

const (
	// suspectMoves in a suspectTime make a suspicion. Stations that migrate are fewer.
	suspectMoves = 16
	suspectTime  = time.Second
	// probePause is the time between two rounds of probes.
	probePause = 100 * time.Millisecond
	// probeLife is how long a port's probes have the same token: those that were on a long way come back,
	// too.
	probeLife = 10 * time.Second

	// probeGroup is where probes go: a group address that is administered locally, and not one of
	// those that a switch keeps to itself.
	probeGroup macAddr = 0x037573746b6c
	// probeType is one of the EtherTypes for local use (IEEE 802-2014, clause 9.2.4).
	probeType = 0x88b6
	probeLen  = 60 // an Ethernet frame's least, without its check sequence
	tokenLen  = 16
	// Where they are in a probe.
	probeToken = link.HeaderLen
	probePort  = probeToken + tokenLen
)

func (l *loops) init() {
	l.suspicion = make(chan struct{}, 1)
	l.began = time.Now()
	rand.Read(l.source[:])
	l.source[0] = l.source[0]&^1 | 2 // a station's address, administered locally
}

// moved counts a station that moved.
func (l *loops) moved() {
	now := int64(time.Since(l.began))
	if w := l.window.Load(); now-w > int64(suspectTime) && l.window.CompareAndSwap(w, now) {
		l.count.Store(0)
	}
	if l.count.Add(1)%suspectMoves == 0 {
		select {
		case l.suspicion <- struct{}{}:
		default: // there is one already
		}
	}
}

// probe sends a probe out of every port.
func (b *Bridge) probe() {
	for _, p := range *b.ports.Load() {
		if p.shut.Load() {
			continue
		}
		frame := make([]byte, probeLen)
		group := probeGroup.bytes()
		copy(frame, group[:])
		copy(frame[6:], b.loops.source[:])
		binary.BigEndian.PutUint16(frame[12:], probeType)
		p.mu.Lock()
		if now := time.Now(); now.Sub(p.tokenMade) > probeLife {
			rand.Read(p.token[:])
			p.tokenMade = now
		}
		copy(frame[probeToken:], p.token[:])
		p.mu.Unlock()
		binary.BigEndian.PutUint32(frame[probePort:], p.id)
		_, _ = p.queues[0].Write([]link.OutFrame{{Pieces: [][]byte{frame}}})
	}
	timer := time.NewTimer(probePause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-b.done:
	}
}

// looped says whether a frame that came in at p is a probe of ours, and shuts a port then.
func (b *Bridge) looped(p *Port, frame []byte) bool {
	if len(frame) < probePort+4 || etherType(frame) != probeType {
		return false
	}
	from := b.port(binary.BigEndian.Uint32(frame[probePort:]))
	if from == nil {
		return false
	}
	from.mu.Lock()
	token := from.token
	from.mu.Unlock()
	if token == [tokenLen]byte{} || subtle.ConstantTimeCompare(frame[probeToken:probePort], token[:]) == 0 {
		return false
	}
	switch {
	case p.shut.Load() || from.shut.Load():
		// it is over already
	case from == p:
		b.shut(p, "its own frames come back to it")
	case from.cfg.Inside || p.id > from.id && !p.cfg.Inside:
		b.shut(p, fmt.Sprintf("what port %s sends comes in here", from.name))
	default:
		b.shut(from, fmt.Sprintf("what it sends comes in at port %s", p.name))
	}
	return true
}

// shut takes a looping port out for a while.
func (b *Bridge) shut(p *Port, why string) {
	if p.cfg.Inside {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut.Load() {
		return
	}
	now := b.now.Load()
	switch {
	case p.hold == 0 || time.Duration(now-p.reopened)*time.Second > 10*b.cfg.LoopHold:
		p.hold = b.cfg.LoopHold
	default:
		p.hold = min(2*p.hold, 10*b.cfg.LoopHold)
	}
	p.reopen = now + uint32((p.hold+time.Second-1)/time.Second)
	p.why = fmt.Sprintf("loop: %s: shut for %v", why, p.hold)
	p.shut.Store(true)
	b.log.Error("port loops and is shut", "port", p.name, "because", why, "for", p.hold)
	// Stations that seem to be there may be elsewhere.
	id := p.id
	b.table.forget(func(port, _ uint32) bool {
		if port != id {
			return false
		}
		p.stations.Add(-1)
		return true
	})
}
