package runner

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// spares are duplicates of the far ends that the daemon has, one for each connection of the
// program. When the daemon is killed the kernel closes its descriptors, which alone would be an
// orderly end for the program: with its duplicate the supervisor makes it an error. A connection
// without one, because descriptors have run short, ends in that way.
type spares struct {
	n   atomic.Int64
	max int64
}

// limit leaves half of the descriptors that the supervisor may have to everything else.
func (s *spares) limit() {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil {
		s.max = int64(min(r.Cur, 1<<30) / 2)
	}
}

// adopt makes fd a spare, or closes it and returns -1.
func (s *spares) adopt(fd int) int {
	if fd >= 0 && s.n.Add(1) > s.max {
		s.drop(fd)
		return -1
	}
	return fd
}

// dup makes a spare of fd, which stays the caller's; -1 if there is no room.
func (s *spares) dup(fd int) int {
	spare, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return s.adopt(spare)
}

// drop closes a spare, if there is one.
func (s *spares) drop(fd int) {
	if fd >= 0 {
		s.n.Add(-1)
		unix.Close(fd)
	}
}

// takeSpare takes the spare from the socket. mu is held.
func (t *tcp) takeSpare() int {
	spare := t.spare
	t.spare = -1
	return spare
}

// cutOff makes the close of a spare, whose daemon is gone, a reset for the program, unless
// the connection's end had come there before.
func cutOff(spare int, withFD func(func(fd int) error) error) {
	if spare < 0 || readable(spare) { // what the program wrote is unread, or it has ended
		return
	}
	// Of no bytes a send only says whether the daemon has shut down that direction.
	if unix.Sendto(spare, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil) != unix.EPIPE {
		_ = withFD(leaveByte)
	}
}
