package packet

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/ifwatch"
	"github.com/ustack/ustack/internal/iovec"
	"github.com/ustack/ustack/link"
)

// A receiver is what the one reader works with.
type receiver struct {
	d       *device
	attempt func(fd uintptr) bool // bound once, so that no call allocates
	frames  []link.Frame
	got     int
	size    int
	errno   unix.Errno

	msg   unix.Msghdr
	from  unix.RawSockaddrLinklayer
	vec   [3]unix.Iovec // header, the caller's buffer, one byte more
	hdr   [max(link.VirtioLen, link.HeaderLen+MaxHeader)]byte
	extra [1]byte
	ctl   [64]byte
}

func (r *receiver) init(d *device) {
	r.d = d
	r.attempt = r.receive
	head := 0
	switch {
	case d.vnet:
		head = link.VirtioLen
	case d.env != nil:
		head = len(d.env.out)
	}
	r.vec[0].Base = &r.hdr[0]
	r.vec[0].SetLen(head)
	r.vec[2].Base = &r.extra[0]
	r.vec[2].SetLen(len(r.extra))
	r.msg.Name = (*byte)(unsafe.Pointer(&r.from))
	r.msg.Iov = &r.vec[0]
	r.msg.SetIovlen(len(r.vec))
	r.msg.Control = &r.ctl[0]
}

// Read implements link.Queue.
func (d *device) Read(frames []link.Frame) (int, error) {
	r := &d.in
	for {
		if err := d.ended(); err != nil || len(frames) == 0 {
			return 0, err
		}
		r.frames, r.got, r.size, r.errno = frames, 0, 0, 0
		err := d.conn.Read(r.attempt)
		r.frames, r.vec[1].Base = nil, nil
		if r.got > 0 {
			d.Rx(r.got, r.size)
			return r.got, nil
		}
		switch {
		case err != nil:
			if d.ended() == nil {
				d.gone.Store(true) // the poller says so
			}
		case d.isGone():
		case r.errno == unix.ENETDOWN: // told once; frames come again when it is up
		case r.errno != 0:
			d.Drop(link.DropRxError)
		}
	}
}

// maxTries bounds the frames that one attempt drops: a flood of those that are not for us must not
// keep Close waiting.
const maxTries = 1024

// receive fills r.frames without waiting. It answers false to wait until there is something.
func (r *receiver) receive(fd uintptr) bool {
	for tries := 0; r.got < len(r.frames) && tries < maxTries; tries++ {
		f := &r.frames[r.got]
		r.vec[1].Base = unsafe.SliceData(f.Buf)
		r.vec[1].SetLen(len(f.Buf))
		r.msg.Namelen = uint32(unsafe.Sizeof(r.from))
		r.msg.SetControllen(len(r.ctl))
		n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.msg)), unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return r.got > 0
		case unix.EINVAL: // the kernel had no words for its offloads
			r.d.Drop(link.DropRxOffload)
			continue
		default:
			r.errno = errno
			return true
		}
		if r.from.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if why, ok := r.accept(f, int(n)); !ok {
			r.d.Drop(why)
			continue
		}
		r.got, r.size = r.got+1, r.size+f.N
	}
	return true
}

// accept finishes a frame that was received, of n bytes with what is before it.
func (r *receiver) accept(f *link.Frame, n int) (link.Drop, bool) {
	n -= int(r.vec[0].Len)
	f.Offload = link.Offload{}
	if n < link.HeaderLen {
		return link.DropRxShort, false
	}
	if n > len(f.Buf) {
		return link.DropRxOversize, false
	}
	switch {
	case r.d.env != nil:
		if why, ok := r.d.env.open(r.hdr[:r.vec[0].Len]); !ok {
			return why, false
		}
	case r.d.vnet:
		o, err := link.DecodeVirtio(r.hdr[:link.VirtioLen], binary.NativeEndian)
		if err != nil {
			return link.DropRxOffload, false
		}
		f.Offload = o
	}
	f.N = n
	aux := auxdata(r.ctl[:min(int(r.msg.Controllen), len(r.ctl))])
	if r.d.env == nil {
		// Of an envelope the tag was the outer one, which is nothing to us.
		if !insertTag(f, aux) {
			return link.DropRxOversize, false
		}
		if aux.Status&unix.TP_STATUS_CSUM_VALID != 0 && !f.Offload.NeedsCsum {
			f.Offload.DataValid = r.d.vnet
		}
	}
	if f.Offload.Validate(f.N) != nil {
		return link.DropRxOffload, false
	}
	return 0, true
}

// auxdata finds PACKET_AUXDATA among the control messages.
func auxdata(ctl []byte) (aux unix.TpacketAuxdata) {
	for len(ctl) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(ctl)))
		size := int(h.Len)
		if size < unix.CmsgLen(0) || size > len(ctl) {
			break
		}
		if h.Level == unix.SOL_PACKET && h.Type == unix.PACKET_AUXDATA && size >= unix.CmsgLen(int(unsafe.Sizeof(aux))) {
			return *(*unix.TpacketAuxdata)(unsafe.Pointer(&ctl[unix.CmsgLen(0)]))
		}
		ctl = ctl[min(unix.CmsgSpace(size-unix.CmsgLen(0)), len(ctl)):]
	}
	return aux
}

// insertTag puts the VLAN tag that the kernel has taken out back to its place. It returns false if
// there is no room.
func insertTag(f *link.Frame, aux unix.TpacketAuxdata) bool {
	const tag, at = 4, 12
	if aux.Status&unix.TP_STATUS_VLAN_VALID == 0 {
		return true
	}
	if f.N+tag > len(f.Buf) {
		return false
	}
	tpid := uint16(unix.ETH_P_8021Q)
	if aux.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		tpid = aux.Vlan_tpid
	}
	copy(f.Buf[at+tag:], f.Buf[at:f.N])
	binary.BigEndian.PutUint16(f.Buf[at:], tpid)
	binary.BigEndian.PutUint16(f.Buf[at+2:], aux.Vlan_tci)
	f.N += tag
	if f.Offload.NeedsCsum {
		f.Offload.CsumStart += tag
	}
	if f.Offload.GSOType != link.GSONone {
		f.Offload.HdrLen += tag
	}
	return true
}

// A sender is what one Write works with.
type sender struct {
	d       *device
	attempt func(fd uintptr)
	frames  []link.OutFrame
	sent    int
	size    int
	gone    bool

	msg iovec.Message
	hdr [link.VirtioLen]byte
}

func newSender(d *device) *sender {
	s := &sender{d: d}
	s.attempt = s.send
	return s
}

// Write implements link.Queue.
func (d *device) Write(frames []link.OutFrame) (int, error) {
	if err := d.ended(); err != nil || len(frames) == 0 {
		return 0, err
	}
	s := d.senders.Get().(*sender)
	s.frames, s.sent, s.size, s.gone = frames, 0, 0, false
	err := d.conn.Control(s.attempt)
	sent, size, gone := s.sent, s.size, s.gone
	s.frames = nil
	s.msg.Forget()
	d.senders.Put(s)
	d.Tx(sent, size)
	if err != nil || gone {
		if err := d.ended(); err != nil {
			return sent, err
		}
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
		switch errno := s.one(fd, f); errno {
		case 0:
			s.sent, s.size = s.sent+1, s.size+n
		case unix.ENETDOWN, unix.ENXIO, unix.ENODEV:
			if d.isGoneAt(fd) {
				s.gone = true
				return
			}
			d.Drop(link.DropTxDown)
		case unix.EAGAIN, unix.ENOBUFS:
			d.Drop(link.DropTxFull)
		case unix.EMSGSIZE:
			d.Drop(link.DropTxOversize)
		case unix.EINVAL:
			d.Drop(link.DropTxOffload)
		default:
			d.Drop(link.DropTxError)
		}
	}
}

// isGoneAt is isGone for who holds the descriptor.
func (d *device) isGoneAt(fd uintptr) bool {
	if _, err := ifwatch.Name(int(fd), d.index); err == unix.ENODEV {
		d.gone.Store(true)
	}
	return d.gone.Load()
}

// one sends one frame.
func (s *sender) one(fd uintptr, f *link.OutFrame) unix.Errno {
	var head []byte
	switch {
	case s.d.vnet:
		f.Offload.EncodeVirtio(s.hdr[:], binary.NativeEndian)
		head = s.hdr[:]
	case s.d.env != nil:
		head = s.d.env.out
	}
	s.msg.Gather(head, f.Pieces)
	return s.msg.Send(fd, nil, 0)
}
