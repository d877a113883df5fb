package runner

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// A udp is a UDP socket. Connected, its unix socket's peer is the daemon itself, so that data
// moves without the supervisor.
type udp struct {
	dgram
	// known are destinations that a datagram was sent to without an error: others are
	// sent to by a request whose reply tells. mu guards it.
	known map[netip.AddrPort]bool
	// joined are the groups that it is a member of: the requests that made it one. mu guards it.
	joined []control.Request
	// reopening says that the daemon is gone, and waited for. mu guards it.
	reopening bool
	whole     whole // mu guards it
}

// maxKnown bounds known.
const maxKnown = 1024

// newUDP makes the kind of a UDP socket.
func newUDP(s *socket) (kind, syscall.Errno) {
	u := &udp{dgram: dgram{s: s, far: -1, options: make(map[string]int)}, known: make(map[netip.AddrPort]bool)}
	u.membership = u.joinGroup
	return u, 0
}

// network is the name that control has for the socket, as far as an address decides it.
func (u *udp) network(a netip.Addr) string {
	if u.s.domain == unix.AF_INET || a.Unmap().Is4() {
		return "udp4"
	}
	return "udp6"
}

// open makes the daemon's socket, bound to local, and the pipe to it. changing is held.
func (u *udp) open(c *call, local netip.AddrPort) syscall.Errno {
	p, theirs, err := newPipe()
	if err != nil {
		return errnoOf(err)
	}
	u.mu.Lock()
	r := control.Request{
		Op: "udp", Network: u.network(local.Addr()), Local: sockaddr{addr: local}.wire(), Framed: true, Info: true,
		Options: u.optionsFor(local.Addr().Unmap()),
	}
	u.mu.Unlock()
	if err = u.withFD(c, u.nameIt); err != nil {
		unix.Close(theirs)
		p.file.Close()
		return errnoOf(err)
	}
	rep, session, err := u.s.sup.daemon.call(u.s.sup.ctx, r, theirs)
	if err != nil {
		p.file.Close()
		return errnoOf(err)
	}
	u.mu.Lock()
	u.session, u.flow, u.pipe = session, rep.Flow, p
	u.local = netip.AddrPortFrom(local.Addr(), parseWire(rep.Local).Port())
	u.mu.Unlock()
	u.follow(rep)
	u.start(p)
	return 0
}

// start moves what comes through a pipe to the program.
func (u *udp) start(p *pipe) {
	u.s.sup.wg.Add(1)
	go func() {
		defer u.s.sup.wg.Done()
		u.relay(p)
	}()
}

// follow learns of the flow's errors and of its end.
func (u *udp) follow(rep control.Reply) {
	sup := u.s.sup
	rep.OnError(func(err error) {
		sup.wg.Add(1)
		go func() {
			defer sup.wg.Done()
			u.mu.Lock()
			watches := u.watches()
			u.mu.Unlock()
			if !watches { // else it comes with more about it
				u.fail(errnoOf(err))
			}
		}()
	})
	done, _ := rep.Ended()
	u.mu.Lock()
	u.ended = done
	u.mu.Unlock()
	sup.wg.Add(1)
	go func() {
		defer sup.wg.Done()
		<-done
		u.lost(rep.Flow)
	}()
}

// Sizes and kinds of control's frames (protocol.md).
const (
	udpFrameLen = 24
	udpInfoLen  = 48
	frameData   = 1
	frameError  = 2
)

// relay hands on what the daemon sends until it ends.
func (u *udp) relay(p *pipe) {
	defer close(p.done)
	buf := frames.Get().(*[]byte)
	defer frames.Put(buf)
	for {
		n, err := p.file.Read(*buf)
		if err != nil {
			return
		}
		b := (*buf)[:n]
		if n < udpInfoLen {
			continue
		}
		from := netip.AddrPortFrom(frameAddr(b[1], b[8:24]), binary.BigEndian.Uint16(b[2:]))
		switch b[0] {
		case frameData:
			data := b[udpInfoLen:]
			u.deliver(inbound{
				data: data, length: len(data), from: from,
				to: frameAddr(b[24], b[32:48]), ttl: b[25], tos: b[26],
			})
		case frameError:
			// The next datagram to there is sent by a request, which tells of the error.
			u.mu.Lock()
			delete(u.known, from)
			u.mu.Unlock()
		}
	}
}

// frameAddr reads an address of a frame.
func frameAddr(family byte, b []byte) netip.Addr {
	switch family {
	case 4:
		return netip.AddrFrom4([4]byte(b))
	case 6:
		return netip.AddrFrom16([16]byte(b))
	}
	return netip.Addr{}
}

// appendFrame appends the header of a datagram to the daemon.
func appendFrame(b []byte, to netip.AddrPort) []byte {
	a := to.Addr().Unmap()
	family := byte(6)
	var ip [16]byte
	if a.Is4() {
		family = 4
		v4 := a.As4()
		copy(ip[:], v4[:])
	} else {
		ip = a.As16()
	}
	b = append(b, frameData, family)
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = append(b, 0, 0, 0, 0)
	return append(b, ip[:]...)
}

func (u *udp) bind(c *call, to sockaddr) verdict {
	u.mu.Lock()
	defer u.mu.Unlock()
	a := to.addr.Addr()
	switch {
	case u.wanted.IsValid() || u.flow != 0:
		return fail(unix.EINVAL)
	case u.options["ipv6.v6only"] != 0 && a.Is4In6():
		return fail(unix.EINVAL)
	}
	u.wanted = to.addr
	d := c.detached()
	return c.once(func() verdict {
		u.changing.Lock()
		defer u.changing.Unlock()
		errno := u.open(d, to.addr)
		if errno == unix.EADDRINUSE && to.addr.Port() != 0 {
			// Perhaps a socket has it that was closed just now.
			u.s.sup.sweepNow()
			u.s.sup.closings.wait(closeTime)
			errno = u.open(d, to.addr)
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.wanted = u.local; errno != 0 {
			u.wanted = netip.AddrPort{}
		}
		return answer(errno)
	})
}

// joinGroup makes the socket a member of a group. mu is held.
func (u *udp) joinGroup(c *call, join bool, group, local netip.Addr) verdict {
	d := c.detached()
	r := control.Request{Op: "leave", Address: group.Unmap().String()}
	if join {
		r.Op = "join"
	}
	if local.IsValid() {
		r.Local = local.String()
	}
	return c.once(func() verdict {
		u.changing.Lock()
		defer u.changing.Unlock()
		if errno := u.ensureOpen(d); errno != 0 {
			return fail(errno)
		}
		_, errno := u.request(r)
		if errno == 0 {
			u.noteGroup(r)
		}
		return answer(errno)
	})
}

// noteGroup notes a join or a leave that was done.
func (u *udp) noteGroup(r control.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if r.Op == "join" {
		u.joined = append(u.joined, r)
		return
	}
	for i, j := range u.joined {
		if j.Address == r.Address && (r.Local == "" || j.Local == r.Local) {
			u.joined = append(u.joined[:i:i], u.joined[i+1:]...)
			return
		}
	}
}

// ensureOpen gives a socket that has none a port of its own. changing is held.
func (u *udp) ensureOpen(c *call) syscall.Errno {
	u.mu.Lock()
	have, had := u.flow != 0, u.hadFlow()
	u.mu.Unlock()
	switch {
	case have:
		return 0
	case had:
		return u.restore(c)
	}
	return u.open(c, netip.AddrPortFrom(u.any(), 0))
}
