package runner

import (
	"maps"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// heirTime is how long a connection that finds its listener closed waits for the program to listen
// there again, and how long a socket that is bound to that end may take to listen.
const heirTime = 100 * time.Millisecond

// A server that closes its listener and listens again at once would have a hole in between that the
// kernel's has not: the daemon learns of the close late, and then has to be asked twice. So a bind
// that meets a listener which no process has any more claims it, and listen adopts it, with
// the connections that came meanwhile.

// owner is the socket that listens, or did so last.
func (l *listening) owner() *tcp {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.t
}

// orphaned says that no process has the listener of t any more, and whether it is kept for another.
func (l *listening) orphaned(t *tcp) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait := time.Until(l.heldUntil)
	if l.t != t || l.ctx.Err() != nil || l.claimant == nil && wait <= 0 {
		return false
	}
	l.orphan = true
	if l.claimant == nil {
		time.AfterFunc(wait, l.expireUnclaimed)
	}
	return true
}

func (l *listening) expireUnclaimed() {
	l.mu.Lock()
	claimed := l.claimant != nil
	l.mu.Unlock()
	if !claimed {
		l.expire()
	}
}

// expire closes a listener that is kept for nobody any more.
func (l *listening) expire() {
	l.mu.Lock()
	t, orphan := l.t, l.orphan
	l.orphan, l.claimant, l.heldUntil = false, nil, time.Time{}
	l.mu.Unlock()
	if orphan {
		t.gone()
	}
}

// forsake gives up a claim of t's.
func (l *listening) forsake(t *tcp) {
	l.mu.Lock()
	mine := l.claimant == t
	l.mu.Unlock()
	if mine {
		l.expire()
	}
}

// claim is bind's part for a socket to take the place of a listener that the program has closed.
func (t *tcp) claim(to netip.AddrPort) bool {
	sup := t.s.sup
	for _, old := range sup.listeners.at(to.Port()) {
		l := old.heirless(t, to)
		if l == nil {
			continue
		}
		l.mu.Lock()
		if l.t != old || l.claimant != nil {
			l.mu.Unlock()
			continue
		}
		l.claimant = t
		l.mu.Unlock()
		sup.sweepNow()
		l.mu.Lock()
		mine := l.orphan && l.claimant == t
		if l.claimant == t && !mine {
			l.claimant = nil
		}
		l.mu.Unlock()
		if !mine {
			continue
		}
		t.mu.Lock()
		t.claimed = l
		t.mu.Unlock()
		time.AfterFunc(heirTime, t.dropClaim)
		return true
	}
	return false
}

// heirless returns the listener of a socket if heir may take its place, were it closed. Like the kernel
// it asks for SO_REUSEADDR: connections of the listener's may be there still.
func (t *tcp) heirless(heir *tcp, to netip.AddrPort) *listening {
	heir.mu.Lock()
	reuse, only := heir.options["so.reuseaddr"] != 0, heir.options["ipv6.v6only"]
	heir.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !reuse || t.lis == nil || t.flow == 0 || t.session.Err() != nil || t.wanted != to ||
		t.s.domain != heir.s.domain || t.options["ipv6.v6only"] != only || t.s.isAt() {
		return nil
	}
	return t.lis
}

// isAt says whether a process has the socket where it was last.
func (s *socket) isAt() bool {
	s.sup.table.mu.Lock()
	where, ino := s.where, s.ino
	s.sup.table.mu.Unlock()
	return where.tid != 0 && where.holds(ino)
}

// takeClaim returns the listener that bind has claimed. The caller adopts or forsakes it.
func (t *tcp) takeClaim() *listening {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.claimed
	t.claimed = nil
	return l
}

func (t *tcp) dropClaim() {
	if l := t.takeClaim(); l != nil {
		l.forsake(t)
	}
}

// settleClaims gives up claims of a port, since somebody connects to it before the claimant listens.
func (sup *supervisor) settleClaims(port uint16) {
	for _, t := range sup.listeners.at(port) {
		t.mu.Lock()
		l := t.lis
		t.mu.Unlock()
		if l == nil {
			continue
		}
		l.mu.Lock()
		claimant, orphan := l.claimant, l.orphan
		l.mu.Unlock()
		switch {
		case !orphan:
		case claimant != nil:
			claimant.dropClaim()
		default:
			l.expire()
		}
	}
}

// sibling puts a connection to a listener that the program has closed into the queue of another that
// shares its port (SO_REUSEPORT), and returns that.
func (l *listening) sibling(a *arrival, name string, far int) *listening {
	own := l.owner()
	own.mu.Lock()
	wanted, shared := own.wanted, own.options["so.reuseport"] != 0
	own.mu.Unlock()
	if !shared {
		return nil
	}
	for _, t := range l.sup.listeners.at(l.local.Port()) {
		t.mu.Lock()
		other := t.lis
		if t == own || t.wanted != wanted || t.options["so.reuseport"] == 0 || t.s.domain != own.s.domain {
			other = nil
		}
		t.mu.Unlock()
		if other == nil {
			continue
		}
		to := other.expect(name, a)
		err := unix.Connect(far, &unix.SockaddrUnix{Name: to})
		other.arrives(name, to, err != nil)
		if err == nil {
			return other
		}
	}
	return nil
}

// adopt makes heir, whose unix socket c has, the owner of the listener, unless heir is to be another
// kind of listener.
func (l *listening) adopt(heir *tcp, c *call, backlog int) bool {
	old := l.owner()
	old.mu.Lock()
	session, flow, options := old.session, old.flow, maps.Clone(old.options)
	old.mu.Unlock()
	heir.mu.Lock()
	same := maps.Equal(options, heir.options)
	heir.mu.Unlock()
	if !same || backlog != l.backlog || flow == 0 || session.Err() != nil {
		return false
	}
	name := listenerName(heir.s.ino)
	if c.listenAt(name, backlog) != nil {
		return false
	}
	heir.mu.Lock()
	defer heir.mu.Unlock()
	old.mu.Lock()
	defer old.mu.Unlock()
	l.mu.Lock()
	if l.claimant != heir || l.ctx.Err() != nil || old.flow != flow {
		l.mu.Unlock()
		return false
	}
	lost, returned := l.moveTo(heir, name)
	l.mu.Unlock()
	for _, a := range lost {
		a.abandon()
	}
	for _, a := range returned {
		unix.Close(a.fd)
		a.from.abandon()
	}
	old.state, old.lis, old.flow = tcpEnded, nil, 0
	heir.session, heir.flow, heir.lis, heir.local = session, flow, l, heir.wanted
	heir.s.sup.listeners.remove(l.local.Port(), old)
	heir.s.sup.listeners.add(l.local.Port(), heir)
	return true
}

// moveTo makes heir the socket that listens, with a unix socket of that name. It returns the connections
// that have ended with the last one. mu is held.
func (l *listening) moveTo(heir *tcp, name string) (lost []*arrival, returned []accepted) {
	l.t, l.name, l.orphan, l.claimant = heir, name, false, nil
	close(l.moved)
	l.moved = make(chan struct{})
	for name, a := range l.arrived { // the kernel has closed them with the socket
		if !l.delivering[name] {
			lost = append(lost, a)
			delete(l.arrived, name)
		}
	}
	returned, l.returned = l.returned, nil
	return lost, returned
}
