package runner

import (
	"context"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What becomes of a UDP socket when the daemon goes: it stays bound and connected, as a socket of the
// kernel's does whose interface is gone. Receives wait, sends are ENETDOWN, and with another daemon
// at the same control socket both go on.

// lost is the end of a flow that the program did not want: the daemon is gone.
func (u *udp) lost(flow uint64) {
	u.mu.Lock()
	if u.flow != flow || u.over {
		u.mu.Unlock()
		return
	}
	p := u.pipe
	u.flow, u.pipe = 0, nil
	clear(u.known)
	begin := !u.reopening
	u.reopening = true
	u.mu.Unlock()
	if p != nil {
		p.file.Close()
	}
	if begin {
		u.reopen()
	}
}

// hadFlow says of a socket without a flow that it had one. mu is held.
func (u *udp) hadFlow() bool { return u.far >= 0 || u.local.IsValid() }

// holds says that the daemon has a socket for this one, or is to have one again.
func (u *udp) holds() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.flow != 0 || u.reopening
}

// reopenTime is how often a socket asks for its daemon.
const reopenTime = 250 * time.Millisecond

// reopen opens the socket again once the daemon is back.
func (u *udp) reopen() {
	for {
		u.mu.Lock()
		if u.over || u.flow != 0 || !u.hadFlow() || u.s.sup.ctx.Err() != nil {
			u.reopening = false
			u.mu.Unlock()
			return
		}
		far := -1
		if u.far >= 0 {
			far, _ = unix.FcntlInt(uintptr(u.far), unix.F_DUPFD_CLOEXEC, 0)
		}
		u.mu.Unlock()
		u.discard(far)
		u.changing.Lock()
		_ = u.ensureOpen(nil)
		u.changing.Unlock()
	}
}

// discard takes what a connected program sends for reopenTime. Who sent it learns that it is lost.
// It closes far.
func (u *udp) discard(far int) {
	ctx, cancel := context.WithTimeout(u.s.sup.ctx, reopenTime)
	defer cancel()
	if far < 0 {
		<-ctx.Done()
		return
	}
	f := os.NewFile(uintptr(far), "far end")
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
	var b [1]byte
	for {
		rc, err := f.SyscallConn()
		if err != nil {
			return
		}
		rerr := rc.Read(func(fd uintptr) bool {
			_, _, err = unix.Recvfrom(int(fd), b[:], unix.MSG_DONTWAIT)
			return err != unix.EAGAIN
		})
		if rerr != nil || err != nil {
			<-ctx.Done()
			return
		}
		u.fail(unix.ENETDOWN)
	}
}

// restore opens the socket as it was. changing is held.
func (u *udp) restore(c *call) syscall.Errno {
	u.mu.Lock()
	local, far, remote, bound := u.local, u.far, u.remote, u.wanted.IsValid()
	if bound {
		local = u.wanted
	}
	u.mu.Unlock()
	open := func(local netip.AddrPort) syscall.Errno {
		if far < 0 {
			return u.open(c, local)
		}
		rep, session, errno := u.dial(far, local, remote)
		if errno != 0 {
			return errno
		}
		u.mu.Lock()
		u.session, u.flow, u.local = session, rep.Flow, parseWire(rep.Local)
		u.mu.Unlock()
		u.follow(rep)
		return 0
	}
	errno := open(local)
	if !bound && (errno == unix.EADDRINUSE || errno == unix.EADDRNOTAVAIL) {
		// Nobody asked for this address, and another daemon may have others.
		if local = netip.AddrPortFrom(u.any(), 0); far >= 0 {
			local = netip.AddrPort{}
		}
		errno = open(local)
	}
	if errno != 0 {
		return errno
	}
	u.mu.Lock()
	joined, watches := u.joined, u.watches() || u.whole.four || u.whole.six
	u.mu.Unlock()
	for _, r := range joined {
		_, _ = u.request(r)
	}
	if watches {
		u.watch()
	}
	return 0
}
