package packet

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/ifwatch"
	"github.com/ustack/ustack/internal/iovec"
	"github.com/ustack/ustack/link"
)

// batch is how many frames one call of recvmmsg(2) takes at most.
const batch = 32

// A receiver is what the one reader works with.
type receiver struct {
	d       *device
	attempt func(fd uintptr) bool // bound once, so that no call allocates
	frames  []link.Frame
	got     int
	size    int
	errno   unix.Errno

	head int // length of what is before each frame
	msgs [batch]message
	in   [batch]incoming
}

// A message is struct mmsghdr (recvmmsg(2)).
type message struct {
	unix.Msghdr
	n uint32
}

// An incoming frame is received into these.
type incoming struct {
	from  unix.RawSockaddrLinklayer
	vec   [3]unix.Iovec // header, the caller's buffer, one byte more
	hdr   [max(link.VirtioLen, link.HeaderLen+MaxHeader)]byte
	extra [1]byte
	ctl   [64]byte
}

func (r *receiver) init(d *device) {
	r.d = d
	r.attempt = r.receive
	switch {
	case d.vnet:
		r.head = link.VirtioLen
	case d.env != nil:
		r.head = len(d.env.out)
	}
	for i := range r.msgs {
		m, in := &r.msgs[i], &r.in[i]
		in.vec[0].Base = &in.hdr[0]
		in.vec[0].SetLen(r.head)
		in.vec[2].Base = &in.extra[0]
		in.vec[2].SetLen(len(in.extra))
		m.Name = (*byte)(unsafe.Pointer(&in.from))
		m.Iov = &in.vec[0]
		m.SetIovlen(len(in.vec))
		m.Control = &in.ctl[0]
	}
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
		for i := range min(len(frames), batch) {
			r.in[i].vec[1].Base = nil
		}
		r.frames = nil
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

// maxTries bounds the calls of one attempt that bring nothing: a flood of frames that are not for us
// must not keep Close waiting.
const maxTries = 64

// receive fills r.frames without waiting. It answers false to wait until there is something.
func (r *receiver) receive(fd uintptr) bool {
	for tries := 0; r.got < len(r.frames) && tries < maxTries; tries++ {
		room := r.frames[r.got:]
		want := min(len(room), batch)
		for i := range want {
			m, in := &r.msgs[i], &r.in[i]
			in.vec[1].Base = unsafe.SliceData(room[i].Buf)
			in.vec[1].SetLen(len(room[i].Buf))
			m.Namelen = uint32(unsafe.Sizeof(in.from))
			m.SetControllen(len(in.ctl))
		}
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.msgs[0])), uintptr(want), unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
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
		for i := range int(n) {
			r.take(i, &room[i])
		}
		if int(n) < want && r.got > 0 {
			return true // that was all
		}
	}
	return true
}

// take counts message i, which was received into from, as the next frame.
func (r *receiver) take(i int, from *link.Frame) {
	if r.in[i].from.Pkttype == unix.PACKET_OUTGOING {
		return
	}
	if why, ok := r.accept(i, from, int(r.msgs[i].n)); !ok {
		r.d.Drop(why)
		return
	}
	to := &r.frames[r.got]
	if to != from { // others before it were no frames
		if from.N > len(to.Buf) {
			r.d.Drop(link.DropRxOversize)
			return
		}
		to.N, to.Offload = copy(to.Buf, from.Buf[:from.N]), from.Offload
	}
	r.got, r.size = r.got+1, r.size+to.N
}

// accept finishes a frame that was received as message i, of n bytes with what is before it.
func (r *receiver) accept(i int, f *link.Frame, n int) (link.Drop, bool) {
	in := &r.in[i]
	n -= r.head
	f.Offload = link.Offload{}
	if n < link.HeaderLen {
		return link.DropRxShort, false
	}
	if n > len(f.Buf) {
		return link.DropRxOversize, false
	}
	switch {
	case r.d.env != nil:
		if why, ok := r.d.env.open(in.hdr[:r.head]); !ok {
			return why, false
		}
	case r.d.vnet:
		o, err := link.DecodeVirtio(in.hdr[:link.VirtioLen], binary.NativeEndian)
		if err != nil {
			return link.DropRxOffload, false
		}
		f.Offload = o
	}
	f.N = n
	aux := auxdata(in.ctl[:min(int(r.msgs[i].Controllen), len(in.ctl))])
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
