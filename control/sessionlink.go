package control

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A sessionLink is the client's end of a flows connection.
type sessionLink struct {
	e *endpoint
	// fd is the descriptor of a link whose owner polls it; else -1, and reads wait.
	fd int

	in   []byte // room for one message
	have int    // how many bytes of it have come

	writeMu sync.Mutex
}

// newSessionLink takes over conn. What br has read ahead comes first.
func newSessionLink(conn *net.UnixConn, br *bufio.Reader, polled bool) (*sessionLink, error) {
	l := &sessionLink{fd: -1, in: make([]byte, maxMessage)}
	ahead, _ := br.Peek(br.Buffered())
	l.have = copy(l.in, ahead)
	var err error
	if polled {
		l.fd, l.e, err = outOfPoller(conn)
	} else {
		l.e, err = newEndpoint(conn)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return l, nil
}

// outOfPoller takes a connection away from the runtime's poller, which would wake a thread
// for all that comes. It closes conn.
func outOfPoller(conn *net.UnixConn) (int, *endpoint, error) {
	defer conn.Close()
	rc, err := conn.SyscallConn()
	if err != nil {
		return -1, nil, err
	}
	fd := -1
	var opErr error
	if err := rc.Control(func(old uintptr) { fd, opErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, nil, err
	}
	if opErr == nil {
		opErr = unix.SetNonblock(fd, false) // os.NewFile polls what does not block
	}
	if opErr != nil {
		closeFD(fd)
		return -1, nil, os.NewSyscallError("fcntl", opErr)
	}
	f := os.NewFile(uintptr(fd), "session")
	e, err := newEndpoint(f)
	if err != nil {
		f.Close()
		return -1, nil, err
	}
	return fd, e, nil
}

// read passes the messages on that have come, and waits for some unless the link is polled. The
// error is of the connection or of each.
func (l *sessionLink) read(each func(line []byte) error) error {
	n, err := l.recv(l.in[l.have:])
	switch {
	case err == syscall.EAGAIN:
		return nil
	case err != nil:
		return err
	case n == 0:
		return io.ErrUnexpectedEOF
	}
	return l.took(n, each)
}

func (l *sessionLink) recv(b []byte) (n int, err error) {
	if l.fd < 0 {
		return l.e.recv(func(fd int) (int, error) { return recvNow(fd, b) })
	}
	err = l.e.control(func(fd int) (err error) {
		n, err = recvNow(fd, b)
		return err
	})
	return n, err
}

// took passes on the messages that n bytes more have completed.
func (l *sessionLink) took(n int, each func(line []byte) error) error {
	rest := l.in[:l.have+n]
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		if err := each(rest[:i]); err != nil {
			return err
		}
		rest = rest[i+1:]
	}
	if len(rest) == len(l.in) {
		return fmt.Errorf("a reply of the daemon: %w", errMessageTooLong)
	}
	l.have = copy(l.in, rest)
	return nil
}

// write sends b, with descriptor fd on its first byte unless that is negative. It waits for room.
func (l *sessionLink) write(b []byte, fd int) error {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	for len(b) > 0 {
		n, err := l.send(b, rights)
		if err != nil {
			return err
		}
		b, rights = b[n:], nil
	}
	return nil
}

func (l *sessionLink) send(b, rights []byte) (n int, err error) {
	try := func(fd uintptr) bool {
		for {
			n, err = unix.SendmsgN(int(fd), b, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			switch {
			case err == unix.EINTR:
			case err == unix.EAGAIN && l.fd >= 0:
				_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
			default:
				return err != unix.EAGAIN
			}
		}
	}
	var rawErr error
	if l.fd < 0 {
		rawErr = l.e.rc.Write(try)
	} else {
		rawErr = l.e.rc.Control(func(fd uintptr) { try(fd) })
	}
	if rawErr != nil {
		return n, rawError(rawErr)
	}
	return n, err
}

// close ends the connection. Whoever polls it finds POLLHUP.
func (l *sessionLink) close() {
	_ = l.e.control(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) })
	l.e.Close()
}
