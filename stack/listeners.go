package stack

import (
	"net/netip"
	"slices"
	"sync"
)

// listeners are the addresses that TCP sockets listen on. netstack with address
// reuse, which a port in TIME-WAIT needs, lets two sockets listen on the same port
// where one of them has the unspecified address; Linux does not, and answers
// EADDRINUSE (inet_csk_bind_conflict in net/ipv4/inet_connection_sock.c).
type listeners struct {
	mu   sync.Mutex
	list []*listening
}

type listening struct {
	local             netip.AddrPort
	v6only, reusePort bool
}

// conflicts reports whether two sockets may not both listen.
func (a *listening) conflicts(b *listening) bool {
	if a.local.Port() != b.local.Port() || a.reusePort && b.reusePort {
		return false
	}
	return a.covers(b.local.Addr()) || b.covers(a.local.Addr())
}

// covers reports whether a connection to ip could reach the socket.
func (a *listening) covers(ip netip.Addr) bool {
	own := a.local.Addr()
	switch {
	case own == ip:
		return true
	case !own.IsUnspecified() && own.IsValid():
		return false
	case own.Is4():
		return ip.Is4()
	}
	return !a.v6only || !ip.Is4()
}

// conflict reports whether a socket could not listen now. Port 0 never conflicts.
func (l *listeners) conflict(a listening) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conflictLocked(&a)
}

func (l *listeners) conflictLocked(a *listening) bool {
	return a.local.Port() != 0 && slices.ContainsFunc(l.list, a.conflicts)
}

// add enters a socket that listens from now on, unless it conflicts. release
// takes it out again.
func (l *listeners) add(a listening) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conflictLocked(&a) {
		return nil, false
	}
	entry := &a
	l.list = append(l.list, entry)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.list = slices.DeleteFunc(l.list, func(e *listening) bool { return e == entry })
	}, true
}
