package runner

import (
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// A dgram is what UDP and ICMP sockets have in common.
//
// Its unix socket is a SOCK_DGRAM with an abstract name. While it is not connected, datagrams
// come to the supervisor as frames of control's and go on to that name from a socket that
// stands for their sender (voices). What the program sends with an address the supervisor
// passes on.
type dgram struct {
	s *socket
	// changing is held by who binds, connects or opens the socket, never by the supervisor's
	// own thread.
	changing sync.Mutex

	mu      sync.Mutex
	options map[string]int // as a tcp's
	// session and flow are the daemon's socket, if there is one.
	session *control.Session
	flow    uint64
	// ended is closed when a UDP flow has ended.
	ended <-chan struct{}
	// wanted is what the program bound to; local and remote are the flow's.
	wanted, local, remote netip.AddrPort
	// pipe is where frames come from and go to, while the socket is not connected.
	pipe *pipe
	// far is the peer of the unix socket while it is connected, else -1.
	far int
	// err is an error that the next call has to tell. raised says that the unix socket has one,
	// too: where that is gone, the program knows.
	err    syscall.Errno
	raised bool
	// errors is what MSG_ERRQUEUE reads.
	errors []queuedError
	// waiting are the receives that wait. While there are any, nothing is in the unix socket's
	// queue.
	waiting []*receive
	// stash holds what arrives while the socket is about to be connected; nil at other times.
	stash *[]inbound
	over  bool
	// queued says that every datagram has to pass through the unix socket's queue.
	queued bool
	// membership joins or leaves a group, where that can be done. mu is held.
	membership func(c *call, join bool, group, local netip.Addr) verdict
}

// An inbound is a datagram on its way to the program.
type inbound struct {
	data []byte
	// length is that of the whole datagram, more than data's if that was cut.
	length int
	from   netip.AddrPort
	// to, ttl and tos are not valid or 0 where they are not known.
	to       netip.Addr
	ttl, tos uint8
	// control are control messages of the unix socket's own.
	control []byte
}

// A pipe is the supervisor's end of a flow with frames.
type pipe struct {
	file *os.File
	rc   syscall.RawConn
	done chan struct{} // closed when nothing comes any more
}

// newPipe makes a pipe and the daemon's end of it.
func newPipe() (*pipe, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, -1, err
	}
	_ = unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	p := &pipe{file: os.NewFile(uintptr(fds[0]), "frames"), done: make(chan struct{})}
	if p.rc, err = p.file.SyscallConn(); err != nil {
		p.file.Close()
		unix.Close(fds[1])
		return nil, -1, err
	}
	return p, fds[1], nil
}

// send writes a frame. Where there is no room it waits for some, up to limit; then the
// datagram is lost.
func (p *pipe) send(limit time.Duration, parts ...[]byte) error {
	var frame []byte
	for _, part := range parts {
		frame = append(frame, part...)
	}
	var err error
	try := func(fd uintptr) bool {
		_, err = unix.SendmsgN(int(fd), frame, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return err != unix.EAGAIN || limit == 0
	}
	if limit > 0 {
		_ = p.file.SetWriteDeadline(time.Now().Add(limit))
	}
	if werr := p.rc.Write(try); werr != nil && err == nil {
		err = werr
	}
	return err
}

// maxFrame holds any frame of control's.
const maxFrame = 64 + 65535 + 1

var frames = sync.Pool{New: func() any { b := make([]byte, maxFrame); return &b }}

// name is the abstract name of the program's unix socket.
func (d *dgram) name() string { return dgramName(d.s.ino) }

// nameIt gives the unix socket its name, if it has none yet.
func (d *dgram) nameIt(fd int) error {
	err := unix.Bind(fd, &unix.SockaddrUnix{Name: d.name()})
	if err == unix.EINVAL { // it has one
		return nil
	}
	return err
}

// deliver hands a datagram to the program: to a call that waits for one, else into the unix
// socket's queue.
func (d *dgram) deliver(in inbound) {
	if d.giveWaiting(in) {
		return
	}
	d.put(in)
	d.wake()
}

// giveWaiting answers a receive that waits.
func (d *dgram) giveWaiting(in inbound) bool {
	for {
		r := d.popWaiting()
		if r == nil {
			return false
		}
		if r.flags&unix.MSG_PEEK != 0 || r.stamped {
			d.pushWaiting(r)
			return false
		}
		if r.finish(in) {
			return true
		}
	}
}

func (d *dgram) popWaiting() *receive {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.waiting) == 0 {
		return nil
	}
	r := d.waiting[0]
	d.waiting = d.waiting[1:]
	return r
}

func (d *dgram) pushWaiting(r *receive) {
	d.mu.Lock()
	d.waiting = append([]*receive{r}, d.waiting...)
	d.mu.Unlock()
}

// put sends a datagram into the unix socket's queue. A full queue holds up what comes behind, until
// the stack's own is full and drops.
func (d *dgram) put(in inbound) {
	sup := d.s.sup
	fd, err := sup.voices.get(voiceKey{in.from, in.to, in.ttl, in.tos, d.s.domain == unix.AF_INET6})
	if err != nil {
		return
	}
	defer sup.voices.release(fd)
	to := &unix.SockaddrUnix{Name: d.name()}
	for sup.ctx.Err() == nil {
		switch err := unix.Sendto(fd.fd, in.data, unix.MSG_NOSIGNAL, to); err {
		case unix.EAGAIN, unix.EINTR, unix.ENOBUFS: // SO_SNDTIMEO is over
		case unix.EPERM: // it was connected in between
			d.putConnected(in)
			return
		default:
			return
		}
		d.mu.Lock()
		over := d.over
		if d.stash != nil {
			if len(*d.stash) < maxStash {
				*d.stash = append(*d.stash, in.clone())
			}
			over = true
		}
		d.mu.Unlock()
		if over {
			return
		}
	}
}

// maxStash bounds the datagrams that are held while a socket becomes connected.
const maxStash = 4096

func (in inbound) clone() inbound {
	in.data = append([]byte(nil), in.data...)
	return in
}

// putConnected sends a datagram that came before connect by the way of those that came after.
// Those of others are lost, as most of them are in the kernel.
func (d *dgram) putConnected(in inbound) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.far >= 0 && in.from == d.remote {
		_ = unix.Sendto(d.far, in.data, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
	}
}

// drainQueue takes out what is in the unix socket's queue, which connecting it anew would lose.
func (d *dgram) drainQueue(fd int) (out []inbound) {
	for len(out) < maxStash {
		in, errno := d.take(fd, 0, maxFrame)
		if errno != 0 {
			return out
		}
		out = append(out, in)
	}
	return out
}

// fail notes an error that the program learns of by its next call, or by the one that waits.
func (d *dgram) fail(errno syscall.Errno) {
	if errno == 0 {
		return
	}
	for r := d.popWaiting(); r != nil; r = d.popWaiting() {
		if r.answer(fail(errno)) {
			return
		}
	}
	d.mu.Lock()
	if d.over {
		d.mu.Unlock()
		return
	}
	d.err, d.raised = errno, false
	d.mu.Unlock()
	d.alarm()
}

// alarm makes the unix socket poll as one with an error.
func (d *dgram) alarm() {
	_ = d.s.withFD(func(fd int) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.err != 0 || len(d.errors) > 0 { // else the program has come by
			d.raised = d.s.sup.voices.raise(fd, d.far) || d.raised
		}
		return nil
	})
}

// alarmSoon is alarm for who holds mu.
func (d *dgram) alarmSoon() {
	d.s.sup.wg.Add(1)
	go func() {
		defer d.s.sup.wg.Done()
		d.alarm()
	}()
}

// takeError returns the error that a call has to tell, once. mu is held.
func (d *dgram) takeError(fd int) syscall.Errno {
	if d.err == 0 && !d.raised {
		return 0
	}
	errno := d.err
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if d.raised && err == nil && v == 0 {
		errno = 0 // a call that nobody looked at told of it
	}
	d.err, d.raised = 0, false
	return errno
}

// gone lets go of everything; the daemon sends what the program has written.
func (d *dgram) gone() {
	d.mu.Lock()
	session, flow, p, ended := d.session, d.flow, d.pipe, d.ended
	d.flow, d.pipe, d.over = 0, nil, true
	if d.far >= 0 {
		unix.Close(d.far)
		d.far = -1
	}
	d.mu.Unlock()
	if flow != 0 {
		session.Post(control.Request{Op: "close", Flow: flow})
		if ended != nil {
			d.s.sup.closings.add(ended)
		}
	}
	if p != nil {
		p.file.Close()
	}
}

// holds says that the daemon has a socket for this one; its unix socket does not tell of its
// end.
func (d *dgram) holds() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flow != 0
}

func (d *dgram) localAddr(*call) (netip.AddrPort, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.local.IsValid() && d.wanted.IsValid() {
		return d.wanted, 0
	}
	return d.local, 0
}

func (d *dgram) remoteAddr(*call) (netip.AddrPort, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.remote.IsValid() {
		return netip.AddrPort{}, unix.ENOTCONN
	}
	return d.remote, 0
}

func (d *dgram) listen(*call, int) verdict { return fail(unix.EOPNOTSUPP) }
func (d *dgram) accept(*call, int) verdict { return fail(unix.EOPNOTSUPP) }

// any is the address that an unbound socket has.
func (d *dgram) any() netip.Addr {
	if d.s.domain == unix.AF_INET6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// withFD runs f with a duplicate of the program's descriptor, wherever it is.
func (d *dgram) withFD(c *call, f func(fd int) error) error {
	if c != nil {
		if err := c.withFD(f); err == nil {
			return nil
		}
	}
	return d.s.withFD(f)
}
