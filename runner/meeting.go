package runner

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A meeting is where the unix sockets of programs are connected, in their network
// namespace: their far ends come out here.
type meeting struct {
	fd   int
	addr unix.Sockaddr

	// mu is held from a connect to its accept, so that the two belong together.
	mu sync.Mutex
}

func newMeeting() (*meeting, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	m := &meeting{fd: fd}
	if err = unix.Bind(fd, &unix.SockaddrUnix{}); err == nil { // any abstract name
		err = unix.Listen(fd, 64)
	}
	if err == nil {
		m.addr, err = unix.Getsockname(fd)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make a unix socket for the program's connections: %w", err)
	}
	return m, nil
}

func (m *meeting) close() { unix.Close(m.fd) }

// pair connects fd, an unconnected unix stream socket of a program, and returns the far end,
// which does not block.
func (m *meeting) pair(fd int) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := unix.Connect(fd, m.addr); err != nil {
		return -1, err
	}
	far, _, err := unix.Accept4(m.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	return far, err
}

// sendBuffer is what is asked for as the send buffer of a program's unix socket, in bytes.
const sendBuffer = 2 << 20

// growSendBuffer asks for a large send buffer; what the kernel grants is enough to work with.
func (sup *supervisor) growSendBuffer(fd int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	}
}
