package vxlan

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/iovec"
	"github.com/ustack/ustack/link"
)

// A remote is another endpoint as the kernel wants it.
type remote struct {
	sa  [unix.SizeofSockaddrInet6]byte
	len uint32
}

func newRemote(a netip.AddrPort) (r remote) {
	port := [2]byte{byte(a.Port() >> 8), byte(a.Port())}
	if a.Addr().Is4() {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.sa))
		sa.Family, sa.Addr = unix.AF_INET, a.Addr().As4()
		*(*[2]byte)(unsafe.Pointer(&sa.Port)) = port
		r.len = unix.SizeofSockaddrInet4
	} else {
		sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&r.sa))
		sa.Family, sa.Addr = unix.AF_INET6, a.Addr().As16()
		*(*[2]byte)(unsafe.Pointer(&sa.Port)) = port
		r.len = unix.SizeofSockaddrInet6
	}
	return r
}

// A receiver is what the one reader works with.
type receiver struct {
	d       *device
	attempt func(fd uintptr) bool // bound once, so that no call allocates
	frames  []link.Frame
	got     int
	size    int

	msg  unix.Msghdr
	from unix.RawSockaddrInet6 // or Inet4, which is shorter
	vec  [2]unix.Iovec         // header, the caller's buffer
	hdr  [headerLen]byte
}

func (r *receiver) init(d *device) {
	r.d = d
	r.attempt = r.receive
	r.vec[0].Base = &r.hdr[0]
	r.vec[0].SetLen(headerLen)
	r.msg.Name = (*byte)(unsafe.Pointer(&r.from))
	r.msg.Iov = &r.vec[0]
	r.msg.SetIovlen(len(r.vec))
}

// Read implements link.Queue.
func (d *device) Read(frames []link.Frame) (int, error) {
	r := &d.in
	for {
		if err := d.ended(); err != nil || len(frames) == 0 {
			return 0, err
		}
		r.frames, r.got, r.size = frames, 0, 0
		err := d.conn.Read(r.attempt)
		r.frames, r.vec[1].Base = nil, nil
		if r.got > 0 {
			d.Rx(r.got, r.size)
			return r.got, nil
		}
		if err != nil {
			d.closed.Store(true) // nothing else ends a UDP socket
		}
	}
}

// maxTries bounds the datagrams that one attempt drops: a flood of those that are not for us must
// not keep Close waiting.
const maxTries = 1024

// receive fills r.frames without waiting. It answers false to wait until there is something.
func (r *receiver) receive(fd uintptr) bool {
	for tries := 0; r.got < len(r.frames) && tries < maxTries; tries++ {
		f := &r.frames[r.got]
		r.vec[1].Base = unsafe.SliceData(f.Buf)
		r.vec[1].SetLen(len(f.Buf))
		r.msg.Namelen = uint32(unsafe.Sizeof(r.from))
		n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.msg)), unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return r.got > 0
		default: // a report of what was sent before
			r.d.Drop(link.DropRxError)
			return true
		}
		if why, ok := r.accept(f, int(n), r.source()); !ok {
			r.d.Drop(why)
			continue
		}
		r.got, r.size = r.got+1, r.size+f.N
	}
	return true
}

// source returns the outer source address.
func (r *receiver) source() netip.Addr {
	if r.d.six {
		return netip.AddrFrom16(r.from.Addr)
	}
	return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&r.from)).Addr)
}

// accept finishes a frame of a datagram of n bytes.
func (r *receiver) accept(f *link.Frame, n int, from netip.Addr) (link.Drop, bool) {
	remote, known := r.d.byAddr[from]
	switch {
	case !known:
		return link.DropRxForeign, false
	case n < headerLen+link.HeaderLen:
		return link.DropRxShort, false
	case r.hdr[0]&flagI == 0, r.hdr[4] != r.d.header[4] || r.hdr[5] != r.d.header[5] || r.hdr[6] != r.d.header[6]:
		// Reserved bits are ignored (RFC 7348 section 5).
		return link.DropRxForeign, false
	case n-headerLen > len(f.Buf):
		return link.DropRxOversize, false
	}
	f.N = n - headerLen
	// A kernel's endpoint leaves the inner checksum to the outer interface, and to nobody where that is
	// a cable in memory.
	f.Offload, _ = link.FindPartial(f.Buf[:f.N])
	r.d.fdb.learn([6]byte(f.Buf[6:12]), remote)
	return 0, true
}

// A sender is what one Write works with.
type sender struct {
	d       *device
	attempt func(fd uintptr)
	frames  []link.OutFrame
	sent    int
	size    int

	msg iovec.Message
}

func newSender(d *device) *sender {
	s := &sender{d: d}
	s.attempt = s.send
	return s
}

// Write implements link.Queue. A frame for several remotes counts once; it is taken if the kernel
// took it for one of them at least.
func (d *device) Write(frames []link.OutFrame) (int, error) {
	if err := d.ended(); err != nil || len(frames) == 0 {
		return 0, err
	}
	s := d.senders.Get().(*sender)
	s.frames, s.sent, s.size = frames, 0, 0
	err := d.conn.Control(s.attempt)
	sent, size := s.sent, s.size
	s.frames = nil
	s.msg.Forget()
	d.senders.Put(s)
	d.Tx(sent, size)
	if err != nil {
		return sent, link.ErrClosed
	}
	return sent, nil
}

func (s *sender) send(fd uintptr) {
	d := s.d
	for i := range s.frames {
		f := &s.frames[i]
		n, why, ok := d.info.CheckOut(f)
		if !ok {
			d.Drop(why)
			continue
		}
		s.msg.Gather(d.header[:], f.Pieces)
		to := d.remotes
		if at, ok := d.fdb.lookup(destination(f)); ok {
			to = to[at : at+1]
		}
		took := false
		var errno unix.Errno
		for j := range to {
			if e := s.msg.Send(fd, &to[j].sa[0], to[j].len); e == 0 {
				took = true
			} else {
				errno = e
			}
		}
		if took {
			s.sent, s.size = s.sent+1, s.size+n
			continue
		}
		switch errno {
		case unix.EAGAIN, unix.ENOBUFS:
			d.Drop(link.DropTxFull)
		case unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENODEV, unix.ENXIO, unix.ECONNREFUSED, unix.EADDRNOTAVAIL:
			d.Drop(link.DropTxDown)
		case unix.EMSGSIZE:
			d.Drop(link.DropTxOversize)
		default:
			d.Drop(link.DropTxError)
		}
	}
}

// destination returns the first 6 bytes of a frame.
func destination(f *link.OutFrame) (mac [6]byte) {
	n := 0
	for _, p := range f.Pieces {
		if n += copy(mac[n:], p); n == len(mac) {
			break
		}
	}
	return mac
}
