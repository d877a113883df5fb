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
	// acceptors is how many connections a listener asks the daemon for ahead.
	acceptors = 4
	// backlogTime is how often a connection that finds a full backlog tries again, unless the program
	// accepts one before.
	backlogTime = 20 * time.Millisecond
)

// A listening is what a listening socket has.
type listening struct {
	t       *tcp
	name    string // of the program's unix socket
	ctx     context.Context
	cancel  context.CancelFunc
	session *control.Session
	flow    uint64

	mu sync.Mutex
	// arrived are the connections in the program's queue, by the names of their far ends.
	arrived map[string]*arrival
	last    uint64 // number of the last such name
	waiting []*heldCall
	room    chan struct{} // closed and replaced at each accept
}

// An arrival is a connection that the program has not accepted yet.
type arrival struct {
	rep control.Reply
	far int
}

func (t *tcp) listen(c *call, backlog int) verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch t.state {
	case tcpListening: // only the backlog changes
		return answer(errnoOf(unix.Listen(c.fd, backlogOf(backlog))))
	case tcpFresh:
	default:
		return fail(unix.EINVAL)
	}
	t.state = tcpListening
	d := c.detached()
	return c.later(func() verdict {
		errno := t.startListening(d, backlogOf(backlog))
		if errno != 0 {
			t.mu.Lock()
			t.state = tcpFresh
			t.mu.Unlock()
		}
		return answer(errno)
	})
}

// backlogOf bounds a backlog as listen(2) does.
func backlogOf(n int) int {
	if n < 0 || n > 4096 {
		return 4096
	}
	return n
}

func (t *tcp) startListening(c *call, backlog int) syscall.Errno {
	ctx := t.s.sup.ctx
	t.mu.Lock()
	session, flow := t.session, t.flow
	r := control.Request{Op: "listen", Flow: flow, Backlog: backlog, Options: t.optionsFor(netip.Addr{})}
	t.mu.Unlock()
	var err error
	var rep control.Reply
	if flow == 0 {
		r.Op, r.Network = "socket", t.network()
		if rep, session, err = t.s.sup.daemon.call(ctx, r, -1); err != nil {
			return errnoOf(err)
		}
		flow = rep.Flow
		r = control.Request{Op: "listen", Flow: flow, Backlog: backlog}
	}
	if rep, err = session.Call(ctx, r, -1); err != nil {
		t.mu.Lock()
		t.flow = 0
		t.mu.Unlock()
		return errnoOf(err)
	}
	l := &listening{
		t: t, name: "@ustack-listener-" + strconv.FormatUint(t.s.ino, 10), session: session, flow: flow,
		arrived: make(map[string]*arrival), room: make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancel(ctx)
	err = c.withFD(func(fd int) error {
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: l.name}); err != nil && err != unix.EINVAL {
			return err
		}
		return unix.Listen(fd, backlog)
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		l.cancel()
		t.flow = 0
		session.Post(control.Request{Op: "close", Flow: flow})
		return errnoOf(err)
	}
	t.session, t.flow, t.lis = session, flow, l
	local := parseWire(rep.Local)
	if !t.wanted.IsValid() { // any address, a free port
		any := netip.IPv4Unspecified()
		if t.s.domain == unix.AF_INET6 {
			any = netip.IPv6Unspecified()
		}
		t.wanted = netip.AddrPortFrom(any, local.Port())
	}
	t.local = t.wanted
	t.s.sup.wg.Add(acceptors)
	for range acceptors {
		go l.fetch()
	}
	return 0
}

// fetch takes connections from the daemon and puts them into the program's queue.
func (l *listening) fetch() {
	defer l.t.s.sup.wg.Done()
	for {
		rep, err := l.session.Call(l.ctx, control.Request{Op: "accept", Flow: l.flow, Hold: true}, -1)
		switch {
		case l.ctx.Err() != nil:
			if err == nil {
				l.session.Post(control.Request{Op: "abort", Flow: rep.Flow})
			}
			return
		case errnoOf(err) == unix.ECONNABORTED || errnoOf(err) == unix.EMFILE:
			continue
		case err != nil:
			return
		}
		if err := l.deliver(rep); err != nil {
			l.session.Post(control.Request{Op: "abort", Flow: rep.Flow})
		}
	}
}

// deliver connects to the program's listening unix socket and waits while its backlog is full.
func (l *listening) deliver(rep control.Reply) error {
	far, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.last++
	name := l.name + "-" + strconv.FormatUint(l.last, 10)
	l.mu.Unlock()
	if err := unix.Bind(far, &unix.SockaddrUnix{Name: name}); err != nil {
		unix.Close(far)
		return err
	}
	for {
		l.mu.Lock()
		room := l.room
		l.arrived[name] = &arrival{rep: rep, far: far}
		l.mu.Unlock()
		err := unix.Connect(far, &unix.SockaddrUnix{Name: l.name})
		if err == nil {
			// The far end is the daemon's from here on, whether the program accepts or not.
			l.session.PostFD(control.Request{Op: "attach", Flow: rep.Flow}, far)
			l.wake()
			return nil
		}
		l.mu.Lock()
		delete(l.arrived, name)
		l.mu.Unlock()
		if err != unix.EAGAIN && err != unix.EINTR {
			unix.Close(far)
			return err
		}
		t := time.NewTimer(backlogTime)
		select {
		case <-room:
		case <-t.C:
		case <-l.ctx.Done():
			t.Stop()
			unix.Close(far)
			return l.ctx.Err()
		}
		t.Stop()
	}
}

// wake lets one of the calls that wait look for a connection.
func (l *listening) wake() {
	for {
		l.mu.Lock()
		if len(l.waiting) == 0 {
			l.mu.Unlock()
			return
		}
		h := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.mu.Unlock()
		if l.answerHeld(h) {
			return
		}
	}
}

// answerHeld gives a connection to a call that waits for one. false means that nobody waits for its
// answer any more.
func (l *listening) answerHeld(h *heldCall) bool {
	if !h.c.valid() {
		l.t.s.sup.held.done(h)
		return false
	}
	v := fail(unix.EBADF)
	err := h.c.withFD(func(fd int) error {
		h.c.fd = fd
		v = l.take(h.c, h.flags)
		h.c.fd = -1
		return nil
	})
	if err == nil && v.errno == unix.EAGAIN { // another process took it
		l.mu.Lock()
		l.waiting = append(l.waiting, h)
		l.mu.Unlock()
		return true
	}
	l.t.s.sup.held.done(h)
	h.c.send(v)
	return true
}

func (t *tcp) accept(c *call, flags int) verdict {
	t.mu.Lock()
	l := t.lis
	t.mu.Unlock()
	if l == nil {
		return fail(unix.EINVAL)
	}
	v := l.take(c, flags)
	if v.errno != unix.EAGAIN || c.nonblocking() {
		return v
	}
	h := t.s.sup.held.hold(c.detached())
	h.flags = flags
	l.mu.Lock()
	l.waiting = append(l.waiting, h)
	l.mu.Unlock()
	if tv, err := unix.GetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO); err == nil && (tv.Sec != 0 || tv.Usec != 0) {
		time.AfterFunc(time.Duration(tv.Nano()), func() {
			if l.unwait(h) {
				t.s.sup.held.done(h)
				h.c.send(fail(unix.EAGAIN))
			}
		})
	}
	l.wakeIfReadable(c.fd) // one may have come in between
	return later
}

func (l *listening) wakeIfReadable(fd int) {
	if readable(fd) {
		l.wake()
	}
}

// unwait takes a call out of those that wait.
func (l *listening) unwait(h *heldCall) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, other := range l.waiting {
		if other == h {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			return true
		}
	}
	return false
}

func readable(fd int) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p[:], 0)
	return err == nil && n > 0
}

// take accepts a connection that is there. All accepts of a listener come here, so one that
// poll shows stays there.
func (l *listening) take(c *call, flags int) verdict {
	sup := l.t.s.sup
	l.mu.Lock()
	if !readable(c.fd) {
		l.mu.Unlock()
		return fail(unix.EAGAIN)
	}
	fd, peer, err := unix.Accept4(c.fd, unix.SOCK_CLOEXEC|flags&unix.SOCK_NONBLOCK)
	var a *arrival
	if ua, ok := peer.(*unix.SockaddrUnix); ok {
		a = l.arrived[ua.Name]
		delete(l.arrived, ua.Name)
	}
	close(l.room)
	l.room = make(chan struct{})
	l.mu.Unlock()
	if err != nil {
		return fail(errnoOf(err))
	}
	defer unix.Close(fd)
	if a == nil { // somebody else connected to the unix socket
		return fail(unix.ECONNABORTED)
	}
	s := &socket{sup: sup, domain: l.t.s.domain, typ: l.t.s.typ, proto: l.t.s.proto, ino: inodeOf(fd)}
	t := &tcp{
		s: s, far: -1, state: tcpConnected, told: true, session: l.session, flow: a.rep.Flow,
		local: parseWire(a.rep.Local), remote: parseWire(a.rep.Remote), options: l.t.inherited(),
	}
	s.kind = t
	sup.growSendBuffer(fd)
	if c.args[1] != 0 {
		b := appendSockaddr(nil, s.domain, t.remote)
		if errno := c.writeValue(c.args[1], c.args[2], b, true); errno != 0 {
			l.session.Post(control.Request{Op: "abort", Flow: a.rep.Flow})
			return fail(errno)
		}
	}
	sup.wg.Add(1)
	go func() {
		defer sup.wg.Done()
		t.follow(l.session, a.rep)
	}()
	return c.install(s, fd, flags&unix.SOCK_CLOEXEC != 0)
}

// inherited are the options that a connection has from its listener.
func (t *tcp) inherited() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[string]int, len(t.options))
	for name, v := range t.options {
		out[name] = v
	}
	return out
}

// close stops fetching. The daemon's socket is closed by whoever closes the flow.
func (l *listening) close() {
	l.cancel()
	l.mu.Lock()
	waiting := l.waiting
	l.waiting = nil
	l.mu.Unlock()
	for _, h := range waiting {
		l.t.s.sup.held.done(h)
		h.c.send(fail(unix.EINVAL))
	}
}
