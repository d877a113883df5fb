package control

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// recvNow is recv(2) with MSG_DONTWAIT, without the sender's address, which
// unix.Recvfrom would allocate at every call.
func recvNow(fd int, b []byte) (int, error) {
	var iov unix.Iovec
	var msg unix.Msghdr
	if len(b) > 0 {
		iov.Base = &b[0]
		iov.SetLen(len(b))
		msg.Iov = &iov
		msg.SetIovlen(1)
	}
	for {
		n, _, errno := syscall.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_DONTWAIT)
		if errno == 0 {
			return int(n), nil
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}

// sendNow is send(2) with MSG_DONTWAIT and no SIGPIPE.
func sendNow(fd int, b []byte) (int, error) {
	return unix.SendmsgN(fd, b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// sendPieces is sendNow of several pieces, none of them empty, or of the first 16.
func sendPieces(fd int, pieces [][]byte) (int, error) {
	var iov [16]unix.Iovec
	pieces = pieces[:min(len(pieces), len(iov))]
	for i, p := range pieces {
		iov[i].Base = &p[0]
		iov[i].SetLen(len(p))
	}
	var msg unix.Msghdr
	msg.Iov = &iov[0]
	msg.SetIovlen(len(pieces))
	for {
		n, _, errno := syscall.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if errno == 0 {
			return int(n), nil
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}
