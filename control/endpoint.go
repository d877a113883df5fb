package control

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bufferLen is the size of one step of a copy, in bytes. netstack joins only
// what one write hands over, so small steps make small frames.
const bufferLen = 256 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferLen); return &b }}

// pollable is what an *os.File and a *net.UnixConn share.
type pollable interface {
	SyscallConn() (syscall.RawConn, error)
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	Close() error
}

// An endpoint is one end of a unix socket whose other end another process may
// hold. That process shares the file's flags where it passed the descriptor, so
// every call asks for MSG_DONTWAIT instead of trusting O_NONBLOCK.
type endpoint struct {
	pollable
	rc syscall.RawConn
}

func newEndpoint(p pollable) (*endpoint, error) {
	rc, err := p.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &endpoint{p, rc}, nil
}

// endpointFromFD takes over fd, a connected unix socket of one of the types given.
// It closes fd when that is not what it is.
func endpointFromFD(fd int, types ...int) (*endpoint, error) {
	if err := checkDataFD(fd, types); err != nil {
		unix.Close(fd)
		return nil, err
	}
	// Most programs make it so.
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		if err := unix.SetNonblock(fd, true); err != nil {
			unix.Close(fd)
			return nil, os.NewSyscallError("fcntl", err)
		}
	}
	return dataEndpoint(fd)
}

// dataEndpoint takes over a data socket that does not block.
func dataEndpoint(fd int) (*endpoint, error) {
	setSendBuffer(fd, socketBuffer)
	f := os.NewFile(uintptr(fd), "flow")
	e, err := newEndpoint(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return e, nil
}

// badDescriptor says why a descriptor cannot carry data.
func badDescriptor(errno syscall.Errno, format string, args ...any) error {
	return &remoteError{text: "descriptor " + fmt.Sprintf(format, args...), errno: errno}
}

func checkDataFD(fd int, types []int) error {
	// The peer's address tells at once that it is a unix socket, connected, and no listener.
	if peer, err := unix.Getpeername(fd); err == nil {
		if _, ok := peer.(*unix.SockaddrUnix); ok {
			return checkType(fd, types)
		}
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return badDescriptor(syscall.ENOTSOCK, "is not a socket: pass one end of a unix socket pair")
	}
	if domain != unix.AF_UNIX {
		return badDescriptor(syscall.EINVAL, "is not a unix socket: pass one end of a unix socket pair")
	}
	if err := checkType(fd, types); err != nil {
		return err
	}
	if listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && listening != 0 {
		return badDescriptor(syscall.EINVAL, "is a listening socket: pass a connected one")
	}
	if _, err := unix.Getpeername(fd); err != nil {
		return badDescriptor(syscall.ENOTCONN, "is not connected")
	}
	return nil
}

func checkType(fd int, types []int) error {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if !slices.Contains(types, typ) {
		return badDescriptor(syscall.EPROTOTYPE, "is a unix socket of type %s; this flow takes %s", typeName(typ), typeName(types...))
	}
	return nil
}

func typeName(types ...int) (s string) {
	for i, t := range types {
		if i > 0 {
			s += " or "
		}
		switch t {
		case unix.SOCK_STREAM:
			s += "SOCK_STREAM"
		case unix.SOCK_DGRAM:
			s += "SOCK_DGRAM"
		case unix.SOCK_SEQPACKET:
			s += "SOCK_SEQPACKET"
		default:
			s += fmt.Sprint(t)
		}
	}
	return s
}

// socketPair makes a pair: the endpoint to keep and the descriptor to pass on.
func socketPair(typ int) (*endpoint, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	e, err := dataEndpoint(fds[0])
	if err != nil {
		unix.Close(fds[1])
		return nil, -1, err
	}
	return e, fds[1], nil
}

// rawError converts what a RawConn itself reports.
func rawError(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return net.ErrClosed
}

// recv calls try once data, an end or an error may be there, and again each time it
// answers EAGAIN.
func (e *endpoint) recv(try func(fd int) (int, error)) (n int, err error) {
	var opErr error
	err = e.rc.Read(func(fd uintptr) bool {
		n, opErr = try(int(fd))
		return opErr != syscall.EAGAIN
	})
	if err != nil {
		return 0, rawError(err)
	}
	if opErr != nil {
		return 0, opErr
	}
	return n, nil
}

// Read reads from a stream; io.EOF is the peer's half-close or close.
func (e *endpoint) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := e.recv(func(fd int) (int, error) { return recvNow(fd, b) })
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// Write writes all of b to a stream.
func (e *endpoint) Write(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	var opErr error
	err = e.rc.Write(func(fd uintptr) bool {
		for n < len(b) {
			var m int
			m, opErr = sendNow(int(fd), b[n:])
			switch opErr {
			case nil:
				n += m
			case syscall.EINTR:
			case syscall.EAGAIN:
				opErr = nil
				return false
			default:
				return true
			}
		}
		return true
	})
	if err != nil {
		return n, rawError(err)
	}
	return n, opErr
}

// Send writes one datagram. It waits for room.
func (e *endpoint) Send(b []byte) error {
	var opErr error
	err := e.rc.Write(func(fd uintptr) bool {
		opErr = sendDatagram(int(fd), b)
		return opErr != syscall.EAGAIN
	})
	if err != nil {
		return rawError(err)
	}
	return opErr
}

// TrySend writes one datagram, or reports EAGAIN at once when there is no room.
func (e *endpoint) TrySend(b []byte) error {
	var opErr error
	err := e.rc.Control(func(fd uintptr) { opErr = sendDatagram(int(fd), b) })
	if err != nil {
		return rawError(err)
	}
	return opErr
}

func sendDatagram(fd int, b []byte) error {
	for {
		_, err := sendNow(fd, b)
		// A unix socket under memory pressure says ENOBUFS: the datagram is lost, as it
		// would be on a wire.
		if err != syscall.EINTR {
			return err
		}
	}
}

// control runs f on the descriptor unless it is closed.
func (e *endpoint) control(f func(fd int) error) error {
	var opErr error
	if err := e.rc.Control(func(fd uintptr) { opErr = f(int(fd)) }); err != nil {
		return rawError(err)
	}
	return opErr
}

func (e *endpoint) CloseWrite() error {
	return e.control(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
}

func (e *endpoint) CloseRead() error {
	return e.control(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RD) })
}

// hup says whether both directions are over: the peer has closed, or each side
// has half-closed.
func (e *endpoint) hup() bool {
	up := true
	_ = e.control(func(fd int) error {
		up = pollHUP(fd)
		return nil
	})
	return up
}

func pollHUP(fd int) bool {
	p := [1]unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p[:], 0)
	return err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

// waitRoom returns when it is worth to write again.
func (e *endpoint) waitRoom() error {
	return rawError(e.rc.Write(func(fd uintptr) bool {
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(p[:], 0)
		return err == nil && n > 0
	}))
}

// waitHUP waits until hup, or until stop says so after a shutdown of this side. The runtime's poller is edge-triggered, so it wakes
// this up at each change only; data that waits unread does not spin it.
func (e *endpoint) waitHUP(stop func() bool) error {
	return rawError(e.rc.Read(func(fd uintptr) bool { return stop() || pollHUP(int(fd)) }))
}

// socketError takes the pending error: ECONNRESET when the peer closed with unread data.
func (e *endpoint) socketError() syscall.Errno {
	var errno int
	_ = e.control(func(fd int) (err error) {
		errno, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		return err
	})
	return syscall.Errno(errno)
}

// discardAllButOne reads away what is queued except for one byte: room for a
// blocked writer, which then learns of the shutdown, and yet unread data, so that a
// close shows as ECONNRESET on the other side.
func (e *endpoint) discardAllButOne() {
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	_ = e.control(func(fd int) error {
		queued, err := unix.IoctlGetInt(fd, unix.TIOCINQ) // SIOCINQ of unix(7)
		for err == nil && queued > 1 {
			var n int
			n, err = recvNow(fd, (*p)[:min(queued-1, len(*p))])
			if n == 0 {
				break
			}
			queued -= n
		}
		return err
	})
}

// skip reads up to n bytes away, of those that are there.
func (e *endpoint) skip(n int) {
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	_ = e.control(func(fd int) error {
		for n > 0 {
			m, err := recvNow(fd, (*p)[:min(n, len(*p))])
			if err != nil || m == 0 {
				return err
			}
			n -= m
		}
		return nil
	})
}
