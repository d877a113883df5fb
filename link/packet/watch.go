package packet

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A packet socket is told once that its interface is down, and not that it is deleted after that.
// rtnetlink(7) tells.

// watch opens a netlink socket that hears of deleted interfaces.
func (d *device) watch() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err == nil {
		if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return fmt.Errorf("rtnetlink: %w", err)
	}
	d.links = os.NewFile(uintptr(fd), "rtnetlink")
	return nil
}

// listen ends the Device when its interface is deleted. It returns after Close.
func (d *device) listen() {
	b := make([]byte, 32<<10)
	for {
		n, err := d.links.Read(b)
		if err != nil && d.closed.Load() {
			return
		}
		// After an error, of messages lost, too.
		if (err != nil || deletes(b[:n], d.index)) && d.isGone() {
			_ = d.file.SetReadDeadline(time.Unix(1, 0)) // lets a Read look
			return
		}
		if err != nil && d.ended() != nil {
			return
		}
	}
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
