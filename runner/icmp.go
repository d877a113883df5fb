package runner

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// newICMP makes the kind of a ping socket or of a raw ICMP socket.
func newICMP(*socket) (kind, syscall.Errno) { return nil, unix.EPROTONOSUPPORT }
