package control

import (
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

var (
	errTooManyFDs = errors.New("more descriptors than messages that announce them")
	errLostFDs    = errors.New("a descriptor did not arrive: the daemon has too many open")
	errHeadLimit  = errors.New("request head or body is too long")
)

// An fdReader reads a control connection and keeps the descriptors that come with
// the bytes, in order. The kernel hands a descriptor over with the first byte of
// the write it was sent with, so it is there no later than its message.
type fdReader struct {
	e   *endpoint
	fds []int
	// budget is how many bytes may still be read; negative for no limit.
	budget int
}

func (r *fdReader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if r.budget == 0 {
		return 0, errHeadLimit
	}
	if r.budget > 0 && len(b) > r.budget {
		b = b[:r.budget]
	}
	var oob [1024]byte // SCM_MAX_FD is 253 (include/net/scm.h)
	var n, oobn, flags int
	var opErr error
	err := r.e.rc.Read(func(fd uintptr) bool {
		for {
			n, oobn, flags, _, opErr = unix.Recvmsg(int(fd), b, oob[:], unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			if opErr != syscall.EINTR {
				return opErr != syscall.EAGAIN
			}
		}
	})
	if err != nil {
		return 0, rawError(err)
	}
	if opErr != nil {
		return 0, opErr
	}
	if err := r.take(oob[:oobn]); err != nil {
		return 0, err
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return 0, errLostFDs
	}
	if n == 0 {
		return 0, io.EOF
	}
	if r.budget > 0 {
		r.budget -= n
	}
	return n, nil
}

func (r *fdReader) take(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			r.fds = append(r.fds, fds...)
		}
	}
	if len(r.fds) > maxPendingFDs {
		return errTooManyFDs
	}
	return nil
}

// next takes the oldest descriptor that no message has claimed, or -1.
func (r *fdReader) next() int {
	if len(r.fds) == 0 {
		return -1
	}
	fd := r.fds[0]
	r.fds = r.fds[1:]
	return fd
}

// closeAll closes what no message claimed.
func (r *fdReader) closeAll() {
	for _, fd := range r.fds {
		unix.Close(fd)
	}
	r.fds = nil
}
