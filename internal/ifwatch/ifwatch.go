// Package ifwatch tells when a network interface of the host is deleted, by rtnetlink(7). Neither a
// packet socket nor the character device of a macvtap tells it.
package ifwatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Watcher waits for the end of one interface.
type Watcher struct {
	links  *os.File
	index  int
	ask    int // a socket of the interface's namespace
	closed atomic.Bool
	work   sync.WaitGroup
}

// Watch calls gone, from a goroutine of its own and at most once, when the interface of that number,
// in the network namespace of the calling thread, is deleted.
func Watch(index int, gone func()) (_ *Watcher, err error) {
	w := &Watcher{index: index, ask: -1}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	if w.ask, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("socket: %w", err)
	}
	w.links = os.NewFile(uintptr(fd), "rtnetlink")
	w.work.Go(func() { w.listen(gone) })
	return w, nil
}

// Close ends the Watcher and waits for a call of gone that is under way. It is harmless to call it
// twice, but not from gone.
func (w *Watcher) Close() {
	if w.closed.Swap(true) {
		w.work.Wait()
		return
	}
	w.links.Close()
	w.work.Wait()
	unix.Close(w.ask)
}

func (w *Watcher) listen(gone func()) {
	if !w.exists() { // it was deleted before anybody could be told
		gone()
		return
	}
	b := make([]byte, 32<<10)
	for !w.closed.Load() {
		n, err := w.links.Read(b)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err == nil && !deletes(b[:n], w.index):
			continue
		}
		// After an error messages may be lost, and that is a reason to ask, too.
		if !w.exists() {
			if !w.closed.Load() {
				gone()
			}
			return
		}
	}
}

// exists asks for the name of the interface (SIOCGIFNAME, netdevice(7)).
func (w *Watcher) exists() bool {
	_, err := Name(w.ask, w.index)
	return !errors.Is(err, unix.ENODEV)
}

// Name returns the name of the interface of a number in a socket's namespace. The error is ENODEV if
// there is none (SIOCGIFNAME, netdevice(7)).
func Name(fd, index int) (string, error) {
	var req struct {
		name  [unix.IFNAMSIZ]byte
		index int32
		_     [20]byte
	}
	req.index = int32(index)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFNAME, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return "", errno
	}
	return unix.ByteSliceToString(req.name[:]), nil
}

// deletes says whether one of the messages says that the interface of that number is no more.
func deletes(b []byte, index int) bool {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		kind := binary.NativeEndian.Uint16(b[4:])
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return false
		}
		if kind == unix.RTM_DELLINK && size >= unix.SizeofNlMsghdr+unix.SizeofIfInfomsg {
			// ifi_index is behind family, padding and type.
			if int(int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr+4:]))) == index {
				return true
			}
		}
		b = b[min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
	}
	return false
}
