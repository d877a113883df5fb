package runner

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// newUDP makes the kind of a UDP socket.
func newUDP(*socket) (kind, syscall.Errno) { return nil, unix.EPROTONOSUPPORT }
