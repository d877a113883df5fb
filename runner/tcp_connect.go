package runner

import (
	"context"
	"maps"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// watchTime is after which time it is looked whether the program still has the socket of a dial.
const watchTime = 50 * time.Millisecond

// A dialing is a connect under way.
type dialing struct {
	began  time.Time
	cancel context.CancelFunc
	// waiting are the calls that block until it is over. The socket's mu guards it. An answer that
	// reaches none of them is not kept: the next connect finds out what became of this one.
	waiting []*call
	// stuffed is how many bytes fill the unix socket's buffer, so that it polls as one that is not
	// connected yet; 0 for a connect that blocks.
	stuffed int
	// sent are the options that went with the request.
	sent map[string]int
	// session and request are where the daemon can be asked for the local address; request is 0 where
	// it cannot.
	session *control.Session
	request uint64
}

func (t *tcp) connect(c *call, to sockaddr) verdict {
	t.dropClaim()
	t.s.sup.settle(to.addr.Port())
	t.mu.Lock()
	defer t.mu.Unlock()
	if to.family == unix.AF_UNSPEC {
		return t.disconnect(c)
	}
	switch t.state {
	case tcpConnected:
		if t.justDid(c) {
			return ret(0)
		}
		if !t.told {
			t.told = true
			return ret(0)
		}
		return fail(unix.EISCONN)
	case tcpEnded, tcpListening:
		return fail(unix.EISCONN)
	case tcpConnecting:
		if c.nonblocking() {
			if t.justDid(c) {
				return fail(unix.EINPROGRESS)
			}
			return fail(unix.EALREADY)
		}
		t.wait(c, unix.EALREADY)
		return later
	case tcpFailed:
		// The first call after the failure answers it, or ECONNABORTED where SO_ERROR did so before
		// (__inet_stream_connect).
		if !t.told {
			errno := t.err
			if t.told, t.err = true, 0; errno == 0 {
				errno = unix.ECONNABORTED
			}
			return fail(errno)
		}
		if errno := t.renew(c); errno != 0 {
			return fail(errno)
		}
	}
	a := to.addr.Addr()
	switch {
	case a.Is4In6() && t.options["ipv6.v6only"] != 0:
		return fail(unix.ENETUNREACH)
	case a.IsMulticast(), a.Unmap() == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fail(unix.ENETUNREACH)
	}
	return t.start(c, to)
}

// start begins to dial. mu is held.
func (t *tcp) start(c *call, to sockaddr) verdict {
	t.forgetDead()
	nonblocking := c.nonblocking()
	if nonblocking {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1) // the least there is
	} else {
		t.s.sup.growSendBuffer(c.fd)
	}
	if t.far < 0 {
		far, err := t.s.sup.meeting.pair(c.fd)
		if err != nil {
			return fail(errnoOf(err))
		}
		t.far = far
	}
	ctx, cancel := t.patience()
	d := &dialing{began: time.Now(), cancel: cancel, sent: maps.Clone(t.options)}
	remote := to.addr.Addr().Unmap()
	r := control.Request{
		Op: "dial", Network: "tcp4", Address: to.wire(), Hold: true, Options: t.optionsFor(remote),
	}
	switch {
	case t.flow != 0:
		r.Flow = t.flow
	case t.wanted.IsValid():
		r.Local = sockaddr{addr: t.wanted}.wire()
	}
	if remote.Is6() {
		r.Network = "tcp6"
	}
	fd, err := unix.FcntlInt(uintptr(t.far), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		cancel()
		return fail(unix.ENFILE)
	}
	if nonblocking {
		d.stuffed = stuff(c.fd)
		r.Skip = d.stuffed
	}
	t.state, t.dial, t.err, t.told = tcpConnecting, d, 0, false
	t.dialOut(ctx, d, r, fd)
	if nonblocking {
		t.did, t.didAt = c.key(), time.Now()
		return fail(unix.EINPROGRESS)
	}
	t.wait(c, unix.EINPROGRESS)
	return later
}

// patience is the context of a connect, which ends when Linux would give up by TCP_SYNCNT and
// TCP_USER_TIMEOUT (tcp(7)): the stack has no use for those before the connection stands. mu is held.
func (t *tcp) patience() (context.Context, context.CancelFunc) {
	d := time.Hour // the stack gives up long before
	if n, ok := t.options["tcp.syncnt"]; ok && n < 10 {
		d = (2<<n - 1) * time.Second // with 1 s before the first repetition, and double each time
	}
	if ms := t.options["tcp.user_timeout"]; ms > 0 {
		d = min(d, time.Duration(ms)*time.Millisecond)
	}
	if d == time.Hour {
		return context.WithCancel(t.s.sup.ctx)
	}
	return context.WithTimeout(t.s.sup.ctx, d)
}

// wait lets a call wait for the end of the dial; after SO_SNDTIMEO it answers errno. mu is held.
func (t *tcp) wait(c *call, errno syscall.Errno) {
	w := c.detached()
	d := t.dial
	d.waiting = append(d.waiting, w)
	tv, err := unix.GetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO)
	if err != nil || tv.Sec == 0 && tv.Usec == 0 {
		return
	}
	time.AfterFunc(time.Duration(tv.Nano()), func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for i, other := range d.waiting {
			if other == w {
				d.waiting = append(d.waiting[:i], d.waiting[i+1:]...)
				w.offer(fail(errno))
				return
			}
		}
	})
}

// dialOut sends the request and goes on with dialled. To a daemon that is there it goes at once.
// mu is held.
func (t *tcp) dialOut(ctx context.Context, d *dialing, r control.Request, fd int) {
	sup := t.s.sup
	sup.wg.Add(1)
	sup.laters.dialling(d, t)
	over := func(session *control.Session, rep control.Reply, err error) {
		defer sup.wg.Done()
		sup.laters.dialled(d)
		d.cancel()
		t.dialled(d, session, rep, err)
	}
	session := sup.daemon.live()
	if r.Flow != 0 {
		session = t.session
	}
	if session == nil {
		go func() {
			rep, session, err := sup.daemon.call(ctx, r, fd)
			over(session, rep, err)
		}()
		return
	}
	id := session.Start(ctx, r, fd, func(rep control.Reply, err error) { over(session, rep, err) })
	if r.Skip > 0 {
		d.session, d.request = session, id
	}
}

// lateLocalAddr is localAddr of a non-blocking connect under way, which takes a question to the daemon; nil
// where there is none to ask.
func (t *tcp) lateLocalAddr(c *call) func() (netip.AddrPort, syscall.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != tcpConnecting || t.dial.request == 0 {
		return nil
	}
	session, request := t.dial.session, t.dial.request
	return func() (netip.AddrPort, syscall.Errno) {
		rep, err := session.Call(t.s.sup.ctx, control.Request{Op: "local", Target: request}, -1)
		if err != nil { // it is over
			return t.localAddr(c)
		}
		return parseWire(rep.Local), 0
	}
}

// dialled is the end of a dial, and follows the connection to its own.
func (t *tcp) dialled(d *dialing, session *control.Session, rep control.Reply, err error) {
	switch {
	case err != nil:
		t.failed(d, errnoOf(err))
	case t.connected(d, rep, session):
		t.follow(session, rep)
	default:
		session.Post(control.Request{Op: "abort", Flow: rep.Flow})
	}
}

// follow lets the end of a connection be known.
func (t *tcp) follow(session *control.Session, rep control.Reply) {
	rep.OnEnd(func(why error) { t.ended(session, rep.Flow, why) })
}

// watch cancels a dial whose socket the program has closed.
func (t *tcp) watch(d *dialing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dial != d {
		return
	}
	p := [1]unix.PollFd{{Fd: int32(t.far)}}
	if n, err := unix.Poll(p[:], 0); t.far < 0 || err == nil && n > 0 && p[0].Revents&unix.POLLHUP != 0 {
		d.cancel()
	}
}

// failed tells the program that the dial did not work.
func (t *tcp) failed(d *dialing, errno syscall.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dial, t.flow, t.err = nil, 0, errno
	t.state, t.told = tcpFailed, false
	if d.stuffed == 0 {
		_ = t.withFD(leaveByte)
	}
	// With bytes unread the close makes the program's end poll POLLERR and POLLHUP, and its writes
	// fail. The next connect begins with another unix socket.
	if t.far >= 0 {
		unix.Close(t.far)
		t.far = -1
	}
	for _, w := range d.waiting {
		if w.offer(fail(errno)) {
			t.err, t.told = 0, true
		}
	}
	d.waiting = nil
}

// connected tells the program that the dial worked. It says whether the program still
// has the socket.
func (t *tcp) connected(d *dialing, rep control.Reply, session *control.Session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	far := t.far
	if far < 0 {
		t.dial = nil
		return false
	}
	t.far, t.dial = -1, nil
	t.session, t.flow = session, rep.Flow
	t.local, t.remote = parseWire(rep.Local), parseWire(rep.Remote)
	t.state, t.told = tcpConnected, false
	for name, v := range t.options { // that were set meanwhile
		if old, ok := d.sent[name]; (!ok || old != v) && !strings.HasPrefix(name, keptPrefix) {
			if t.unsent == nil {
				t.unsent = make(map[string]int)
			}
			t.unsent[name] = v
		}
	}
	t.sendOptions()
	if d.stuffed > 0 {
		_ = t.withFD(func(fd int) error {
			t.s.sup.growSendBuffer(fd)
			return nil
		})
	}
	t.spare = t.s.sup.spares.adopt(far)
	for _, w := range d.waiting {
		if w.offer(ret(0)) {
			t.told = true
			t.did, t.didAt = w.key(), time.Now()
		}
	}
	d.waiting = nil
	return true
}

// ended leaves a byte unread in the program's end after an error, so that the close of the
// daemon's end becomes ECONNRESET there, and lets the daemon close.
func (t *tcp) ended(session *control.Session, flow uint64, why error) {
	t.end(session, flow, why, t.withFD)
}

// end is ended with what runs a function with a duplicate of the program's descriptor.
func (t *tcp) end(session *control.Session, flow uint64, why error, withFD func(func(fd int) error) error) {
	t.mu.Lock()
	if t.session != session || t.flow != flow { // the program has nothing to do with it any more
		t.mu.Unlock()
		return
	}
	t.state, t.flow = tcpEnded, 0
	spare := t.takeSpare()
	errno, lost := errnoOf(why), session.Err() != nil
	if lost || errno == unix.ECONNABORTED { // the daemon ends
		errno = unix.ENETDOWN
	}
	if why != nil && errno != unix.ECONNRESET {
		t.err = errno
	}
	t.mu.Unlock()
	sup := t.s.sup
	defer sup.spares.drop(spare)
	switch {
	case why == nil, sup.ctx.Err() != nil:
		return
	case lost:
		cutOff(spare, withFD)
		return
	case errno != unix.EPIPE: // that one comes behind the end of what the peer sent, which stays an end
		_ = withFD(leaveByte)
	}
	session.Post(control.Request{Op: "close", Flow: flow})
}

// leaveByte writes a byte that nobody will read, so that the far end's close is a reset.
func leaveByte(fd int) error {
	return unix.Sendto(fd, []byte{0}, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
}

// withFD runs f with a duplicate of the program's descriptor, if it can be found.
func (t *tcp) withFD(f func(fd int) error) error {
	return t.s.withFD(f)
}

// disconnect is connect with AF_UNSPEC. mu is held.
func (t *tcp) disconnect(c *call) verdict {
	switch t.state {
	case tcpFresh:
		return ret(0)
	case tcpListening:
		t.lis.close()
		t.lis = nil
	case tcpConnecting:
		t.dial.cancel()
	}
	if t.flow != 0 {
		t.session.Post(control.Request{Op: "abort", Flow: t.flow})
		t.flow = 0
		t.s.sup.spares.drop(t.takeSpare())
	}
	return answer(t.renew(c))
}

// renew gives the program a new unix socket in the place of one that is used up. mu is held.
func (t *tcp) renew(c *call) syscall.Errno {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return errnoOf(err)
	}
	if c.nonblocking() {
		_ = unix.SetNonblock(fd, true)
	}
	old := t.s.ino
	t.s.sup.table.rename(t.s, inodeOf(fd))
	if err := c.replace(fd, c.closeOnExec()); err != nil {
		unix.Close(fd)
		t.s.sup.table.rename(t.s, old)
		return unix.ENOTCONN
	}
	// The handler goes on with the new one.
	_ = unix.Dup3(fd, c.fd, unix.O_CLOEXEC)
	unix.Close(fd)
	c.ino = t.s.ino
	if t.far >= 0 {
		unix.Close(t.far)
		t.far = -1
	}
	t.state, t.err, t.told, t.shut = tcpFresh, 0, false, false
	return 0
}

// closeOnExec says whether the program's descriptor is closed by execve.
func (c *call) closeOnExec() bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(c.tid) + "/fdinfo/" + strconv.FormatUint(c.args[0], 10))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), "flags:")
	line, _, _ := strings.Cut(rest, "\n")
	flags, err := strconv.ParseUint(strings.TrimSpace(line), 8, 64)
	return err == nil && flags&unix.O_CLOEXEC != 0
}

var filler [4096]byte

// stuff fills the send buffer, so that the program cannot write, and returns with how many bytes.
func stuff(fd int) (n int) {
	b := filler[:]
	for {
		m, err := unix.SendmsgN(fd, b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			n += m
			b = filler[:1]
		case err == unix.EINTR:
		case len(b) > 1 && n == 0:
			b = filler[:1]
		default:
			return n
		}
	}
}
