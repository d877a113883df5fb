package runner

import (
	"context"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// A tcpState is where a TCP socket is in its life.
type tcpState int

const (
	tcpFresh      tcpState = iota // may be bound
	tcpConnecting                 // a dial is under way
	tcpConnected                  // a flow of the daemon's
	tcpFailed                     // a non-blocking connect failed: the unix socket is used up
	tcpEnded                      // was connected
	tcpListening
)

// A tcp is a TCP socket.
//
// Its unix socket is unconnected until connect, which connects it to the supervisor and passes the far
// end to the daemon. listen makes the unix socket itself listen: each connection that the
// stack accepts becomes one to it.
type tcp struct {
	s *socket

	mu    sync.Mutex
	state tcpState
	// options are what was set, by their names in protocol.md.
	options map[string]int
	// unsent are those that the daemon does not know of yet.
	unsent map[string]int
	// flushing and listed say that a timer or the sweeper will send them.
	flushing, listed bool
	// session and flow are the daemon's socket, if there is one.
	session *control.Session
	flow    uint64
	// wanted is what the program bound to; local and remote are the flow's.
	wanted, local, remote netip.AddrPort
	// did is the bind or connect that was answered at didAt.
	did   callKey
	didAt time.Time
	// far is the far end of the unix socket while no flow has it, else -1.
	far int
	// spare is its duplicate while a flow has it, else -1.
	spare int
	// told says that the program knows that it is connected.
	told bool
	// err is what SO_ERROR has to tell.
	err  syscall.Errno
	dial *dialing
	lis  *listening
	// claimed is a listener that the program has closed, whose address the socket is bound to.
	claimed *listening
	// shut says that the unix socket has been shut down, and cannot listen again.
	shut bool
}

// didTime is how soon after a bind or connect the same call is that one made again: a signal that
// comes together with the answer makes the kernel drop that.
const didTime = 10 * time.Millisecond

// justDid says whether the call was answered just now, and may be that one made again. A program without
// handlers of signals means what it calls. mu is held.
func (t *tcp) justDid(c *call) bool {
	return t.did == c.key() && time.Since(t.didAt) < didTime && catchesSignals(c.tid)
}

func newTCP(s *socket) (kind, syscall.Errno) {
	return &tcp{s: s, far: -1, spare: -1, options: make(map[string]int)}, 0
}

func (t *tcp) localAddr(*call) (netip.AddrPort, syscall.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.local.IsValid() && t.wanted.IsValid() {
		return t.wanted, 0
	}
	return t.local, 0
}

func (t *tcp) remoteAddr(*call) (netip.AddrPort, syscall.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != tcpConnected {
		return netip.AddrPort{}, unix.ENOTCONN
	}
	return t.remote, 0
}

// network is the name that control has for the socket.
func (t *tcp) network() string {
	if t.s.domain == unix.AF_INET6 {
		return "tcp6"
	}
	return "tcp4"
}

// socketOptions are the options of a socket of the stack that is to be bound. Without SO_REUSEADDR
// it conflicts with others as the kernel's would; control has it on.
func (t *tcp) socketOptions(local netip.Addr) map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if local.IsUnspecified() && local.Is6() {
		local = netip.Addr{} // of both families
	}
	out := t.optionsFor(local)
	if out == nil {
		out = make(map[string]int)
	}
	if v, ok := t.options["ipv6.v6only"]; ok && t.s.domain == unix.AF_INET6 && !local.Is4() {
		out["ipv6.v6only"] = v
	}
	if _, ok := out["so.reuseaddr"]; !ok {
		out["so.reuseaddr"] = 0
	}
	return out
}

// reserve is bind's part that needs the daemon: a socket of the stack with the address.
func (t *tcp) reserve(ctx context.Context, to netip.AddrPort) error {
	d := t.s.sup.daemon
	network := t.network()
	if to.Addr().Is4In6() {
		network = "tcp4" // what such a socket can reach
	}
	rep, session, err := d.call(ctx, control.Request{Op: "socket", Network: network, Options: t.socketOptions(to.Addr().Unmap()), Hold: true}, -1)
	if err != nil {
		return err
	}
	flow := rep.Flow
	rep, err = session.Call(ctx, control.Request{Op: "bind", Flow: flow, Local: sockaddr{addr: to}.wire()}, -1)
	if err != nil {
		session.Post(control.Request{Op: "close", Flow: flow})
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.session, t.flow = session, flow
	t.local = parseWire(rep.Local)
	t.wanted = t.local
	if to.Addr().Unmap().IsUnspecified() {
		t.local = netip.AddrPortFrom(to.Addr(), t.local.Port())
		t.wanted = t.local
	}
	return nil
}

func (t *tcp) bind(c *call, to sockaddr) verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.justDid(c) {
		return ret(0)
	}
	if t.state != tcpFresh || t.flow != 0 || t.wanted.IsValid() {
		return fail(unix.EINVAL)
	}
	a := to.addr.Addr()
	if t.options["ipv6.v6only"] != 0 && a.Is4In6() {
		return fail(unix.EINVAL)
	}
	if a.IsMulticast() {
		return fail(unix.EADDRNOTAVAIL)
	}
	t.wanted = to.addr // a second bind in the meantime fails
	return c.once(func() verdict {
		if t.claim(to.addr) {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.did, t.didAt = c.key(), time.Now()
			return ret(0)
		}
		err := t.reserve(t.s.sup.ctx, to.addr)
		if errnoOf(err) == unix.EADDRINUSE && to.addr.Port() != 0 {
			// Perhaps a socket has it that was closed just now.
			t.s.sup.sweepNow()
			err = t.reserve(t.s.sup.ctx, to.addr)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.did, t.didAt = c.key(), time.Now(); err != nil {
			t.wanted, t.did = netip.AddrPort{}, callKey{}
		}
		return answer(errnoOf(err))
	})
}

// holds says whether the daemon keeps something for the socket whose end no connection
// would tell.
func (t *tcp) holds() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.claimed != nil || t.flow != 0 && (t.state == tcpFresh || t.state == tcpListening)
}

func (t *tcp) gone() {
	t.dropClaim()
	t.mu.Lock()
	session, flow, lis, dial := t.session, t.flow, t.lis, t.dial
	if lis != nil && lis.orphaned(t) {
		t.mu.Unlock()
		return
	}
	t.flow = 0
	if t.far >= 0 {
		unix.Close(t.far)
		t.far = -1
	}
	t.s.sup.spares.drop(t.takeSpare())
	if lis != nil {
		lis.cancel()
	}
	t.mu.Unlock()
	if dial != nil {
		dial.cancel()
	}
	if lis != nil {
		lis.close()
	}
	if flow != 0 {
		session.Post(control.Request{Op: "close", Flow: flow})
	}
}
