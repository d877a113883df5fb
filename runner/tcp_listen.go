package runner

import (
	"context"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

const (
	// backlogTime is how often a connection that finds a full backlog tries again, unless the program
	// accepts one before.
	backlogTime = 20 * time.Millisecond
	// renewTime is how often a listener whose daemon is gone looks for another, and how long it
	// waits when the daemon has no room for more.
	renewTime = 500 * time.Millisecond
	// maxBacklog is Linux's usual net.core.somaxconn.
	maxBacklog = 4096
)

// A listening is what a listening socket has. Its unix socket listens too: the program accepts
// from that what the supervisor has connected to it.
type listening struct {
	sup     *supervisor
	ctx     context.Context
	cancel  context.CancelFunc
	backlog int
	local   netip.AddrPort

	mu sync.Mutex
	// t is the socket that listens, and name its unix socket's. moved is closed and replaced when
	// another takes its place.
	t     *tcp
	name  string
	moved chan struct{}
	// orphan says that the program has closed t, and the listener is kept for claimant, which is
	// bound to its address, or for whoever comes until heldUntil.
	orphan    bool
	claimant  *tcp
	heldUntil time.Time
	// delivering are the names of the far ends that are being connected.
	delivering map[string]bool
	// arrived are the connections in the program's queue, by the names of their far ends.
	arrived map[string]*arrival
	last    uint64 // number of the last such name
	// returned are accepted ones that no call could take with it.
	returned []accepted
	// waiting are the calls that block; room is closed and replaced at each accept.
	waiting []*heldCall
	room    chan struct{}
}

func (t *tcp) listen(c *call, backlog int) verdict {
	if backlog < 0 || backlog > maxBacklog {
		backlog = maxBacklog
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch t.state {
	case tcpListening: // only the backlog changes
		return answer(errnoOf(unix.Listen(c.fd, backlog)))
	case tcpFresh:
	default:
		return fail(unix.EINVAL)
	}
	if t.shut {
		if errno := t.renew(c); errno != 0 {
			return fail(errno)
		}
	}
	t.state = tcpListening
	d := c.detached()
	return c.once(func() verdict {
		errno := t.startListening(d, backlog)
		if errno == unix.EADDRINUSE {
			t.s.sup.sweepNow()
			errno = t.startListening(d, backlog)
		}
		if errno != 0 {
			t.mu.Lock()
			t.state = tcpFresh
			t.mu.Unlock()
		}
		return answer(errno)
	})
}

func (t *tcp) startListening(c *call, backlog int) syscall.Errno {
	if l := t.takeClaim(); l != nil {
		if l.adopt(t, c, backlog) {
			return 0
		}
		l.forsake(t)
	}
	local, err := t.listenOnStack(backlog)
	if err != nil {
		return errnoOf(err)
	}
	l := &listening{
		sup: t.s.sup, t: t, name: listenerName(t.s.ino), backlog: backlog,
		arrived: make(map[string]*arrival), delivering: make(map[string]bool),
		room: make(chan struct{}), moved: make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancel(t.s.sup.ctx)
	err = c.listenAt(l.name, backlog)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		l.cancel()
		t.session.Post(control.Request{Op: "close", Flow: t.flow})
		t.flow = 0
		return errnoOf(err)
	}
	if !t.wanted.IsValid() { // any address, a free port
		any := netip.IPv4Unspecified()
		if t.s.domain == unix.AF_INET6 {
			any = netip.IPv6Unspecified()
		}
		t.wanted = netip.AddrPortFrom(any, local.Port())
	}
	t.local, t.lis, l.local = t.wanted, l, t.wanted
	t.s.sup.listeners.add(l.local.Port(), t)
	t.s.sup.wg.Add(1)
	go l.run()
	return 0
}

// listenerName is the abstract name of a listening unix socket.
func listenerName(ino uint64) string { return "@ustack-listener-" + strconv.FormatUint(ino, 10) }

// listenAt makes the program's unix socket listen.
func (c *call) listenAt(name string, backlog int) error {
	return c.withFD(func(fd int) error {
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil && err != unix.EINVAL {
			return err
		}
		return unix.Listen(fd, backlog)
	})
}

// listenOnStack makes the daemon's socket listen, which it makes first where bind has not.
func (t *tcp) listenOnStack(backlog int) (netip.AddrPort, error) {
	ctx := t.s.sup.ctx
	t.mu.Lock()
	t.forgetDead()
	session, flow, wanted := t.session, t.flow, t.wanted
	options := t.optionsFor(wanted.Addr().Unmap())
	t.mu.Unlock()
	switch {
	case flow != 0:
	case wanted.IsValid():
		if err := t.reserve(ctx, wanted); err != nil {
			return netip.AddrPort{}, err
		}
		t.mu.Lock()
		session, flow = t.session, t.flow
		t.mu.Unlock()
	default:
		rep, s, err := t.s.sup.daemon.call(ctx, control.Request{Op: "socket", Network: t.network(), Options: t.socketOptions(netip.Addr{}), Hold: true}, -1)
		if err != nil {
			return netip.AddrPort{}, err
		}
		session, flow = s, rep.Flow
	}
	rep, err := session.Call(ctx, control.Request{Op: "listen", Flow: flow, Backlog: backlog, Options: options}, -1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.flow = 0 // a failure ends the flow
		return netip.AddrPort{}, err
	}
	t.session, t.flow = session, flow
	return parseWire(rep.Local), nil
}

// forgetDead forgets a socket of a daemon that has gone. mu is held.
func (t *tcp) forgetDead() {
	if t.flow != 0 && t.session.Err() != nil {
		t.flow = 0
	}
}

// run takes connections from the daemon, and from its successor when it goes.
func (l *listening) run() {
	defer l.sup.wg.Done()
	for l.ctx.Err() == nil {
		t := l.owner()
		t.mu.Lock()
		session, flow := t.session, t.flow
		t.mu.Unlock()
		l.fetch(session, flow)
		for l.ctx.Err() == nil {
			if !l.pause(renewTime) {
				return
			}
			if _, err := l.owner().listenOnStack(l.backlog); err == nil {
				l.undo()
				break
			}
		}
	}
}

// undo closes what was made for a listener that the program has closed meanwhile.
func (l *listening) undo() {
	t := l.owner()
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.ctx.Err() != nil && t.flow != 0 && (t.lis == nil || t.lis == l) {
		t.session.Post(control.Request{Op: "close", Flow: t.flow})
		t.flow = 0
	}
}

// pause waits, and says whether the listener is still there.
func (l *listening) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// enqueue connects a far end to the program's unix socket. If that is closed it waits a while for
// another. It returns the name of the one that took it.
func (l *listening) enqueue(far int) (string, error) {
	var patience <-chan time.Time
	for {
		l.mu.Lock()
		name, room, moved := l.name, l.room, l.moved
		l.mu.Unlock()
		err := unix.Connect(far, &unix.SockaddrUnix{Name: name})
		switch {
		case err == unix.ECONNREFUSED && patience == nil:
			t := time.NewTimer(heirTime)
			defer t.Stop()
			patience = t.C
			l.mu.Lock()
			l.heldUntil = time.Now().Add(heirTime)
			l.mu.Unlock()
		case err != unix.ECONNREFUSED && err != unix.EAGAIN && err != unix.EINTR:
			return name, err
		}
		t := time.NewTimer(backlogTime)
		select {
		case <-room:
		case <-moved:
		case <-t.C:
		case <-patience:
			return "", unix.ECONNREFUSED
		case <-l.ctx.Done():
		}
		t.Stop()
		if l.ctx.Err() != nil {
			return "", l.ctx.Err()
		}
	}
}

func (t *tcp) look() {
	t.mu.Lock()
	l := t.lis
	t.mu.Unlock()
	if l != nil {
		l.look()
	}
}

// close stops the listener; whoever closes the flow closes the daemon's socket.
func (l *listening) close() {
	l.cancel()
	l.sup.listeners.remove(l.local.Port(), l.owner())
	l.mu.Lock()
	waiting, returned, arrived := l.waiting, l.returned, l.arrived
	l.waiting, l.returned, l.arrived = nil, nil, make(map[string]*arrival)
	l.mu.Unlock()
	for _, h := range waiting {
		l.sup.held.done(h)
		h.c.send(fail(unix.EINVAL))
	}
	for _, a := range returned {
		unix.Close(a.fd)
		a.from.abandon()
	}
	for _, a := range arrived {
		a.abandon()
	}
}
