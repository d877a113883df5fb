// Package iovec hands frames in pieces to the kernel with one call and without an allocation, for
// drivers of wires that are sockets.
package iovec

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxPieces is the kernel's IOV_MAX (UIO_MAXIOV in include/uapi/linux/uio.h).
const maxPieces = 1024

// A Message is one message to send, gathered from pieces. It may be used again and again.
type Message struct {
	msg    unix.Msghdr
	vec    []unix.Iovec
	merged []byte
}

// Gather makes the message of a head and the pieces behind it. Empty ones are allowed.
func (m *Message) Gather(head []byte, pieces [][]byte) {
	m.vec = m.vec[:0]
	m.add(head)
	if len(pieces) < maxPieces {
		for _, p := range pieces {
			m.add(p)
		}
		return
	}
	m.merged = m.merged[:0]
	for _, p := range pieces {
		m.merged = append(m.merged, p...)
	}
	m.add(m.merged)
}

func (m *Message) add(b []byte) {
	if len(b) == 0 {
		return
	}
	var v unix.Iovec
	v.Base = unsafe.SliceData(b)
	v.SetLen(len(b))
	m.vec = append(m.vec, v)
}

// Send sends what was gathered, without waiting: to a socket's peer, or to the address of n bytes at
// name. It returns 0 or why not (sendmsg(2)).
func (m *Message) Send(fd uintptr, name *byte, n uint32) unix.Errno {
	m.msg.Name, m.msg.Namelen = name, n
	m.msg.Iov = unsafe.SliceData(m.vec)
	m.msg.SetIovlen(len(m.vec))
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&m.msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if errno != unix.EINTR {
			return errno
		}
	}
}

// Forget drops every reference to memory of others.
func (m *Message) Forget() {
	clear(m.vec[:cap(m.vec)])
	m.msg.Name = nil
}
