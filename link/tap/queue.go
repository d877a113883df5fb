package tap

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
)

// A queue is one descriptor of the native driver. All system calls on it are
// non-blocking; the runtime's poller does the waiting, so that Close ends it.
type queue struct {
	dev   *device
	conn  syscall.RawConn
	vnet  bool
	order binary.ByteOrder

	// Of the one reader. attempt is q.readOnce, bound once: a method value made
	// for each call would be an allocation for each frame.
	attempt func(fd uintptr) bool
	drain   func(fd uintptr) bool // q.readReady, likewise
	rest    []link.Frame          // what readReady fills
	rxHdr   [link.VirtioLen]byte
	rxMore  [1]byte
	rxVec   [3]unix.Iovec // header, the caller's buffer, rxMore
	rxN     int
	rxErrno unix.Errno

	writers sync.Pool // of *writer
	many    submitter // unused with virtio headers
}

func newQueue(d *device, f *os.File, h *handle) (*queue, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("descriptor: %w", err)
	}
	q := &queue{dev: d, conn: conn, vnet: h.vnet, order: h.order}
	q.attempt, q.drain = q.readOnce, q.readReady
	q.rxVec[0].Base = &q.rxHdr[0]
	q.rxVec[0].SetLen(len(q.rxHdr))
	q.rxVec[2].Base = &q.rxMore[0]
	q.rxVec[2].SetLen(len(q.rxMore))
	q.writers.New = func() any { return newWriter(q) }
	if !q.vnet {
		q.many.open()
	}
	return q, nil
}

// strikes is how many errors that no kernel is known to answer a Read with, in a
// row, are taken for a wire that is gone rather than for lost frames.
const strikes = 64

// Read returns one frame where frames have virtio headers, for one may be a whole
// super-frame, and else all that are ready: see readReady.
func (q *queue) Read(frames []link.Frame) (int, error) {
	if err := q.dev.ended(); err != nil {
		return 0, err
	}
	if len(frames) == 0 {
		return 0, nil
	}
	f := &frames[0]
	for unknown := 0; ; {
		n, errno, ok := q.receive(f.Buf)
		switch {
		case !ok, errno == unix.EBADFD:
			return 0, q.dev.end()
		case errno == unix.EINVAL: // virtio_net_hdr_from_skb had no words for it
			q.dev.Drop(link.DropRxOffload)
			continue
		case errno != 0:
			q.dev.Drop(link.DropRxError)
			if unknown++; unknown == strikes {
				return 0, q.dev.end()
			}
			continue
		}
		if q.vnet {
			n -= link.VirtioLen
		}
		switch {
		case n > len(f.Buf):
			q.dev.DropFrame(link.DropRxOversize, f.Buf)
			continue
		case n < link.HeaderLen:
			q.dev.DropFrame(link.DropRxShort, f.Buf[:max(n, 0)])
			continue
		}
		f.Offload = link.Offload{}
		if q.vnet {
			o, err := link.DecodeVirtio(q.rxHdr[:], q.order)
			if err != nil || o.Validate(n) != nil {
				q.dev.DropFrame(link.DropRxOffload, f.Buf[:n])
				continue
			}
			f.Offload = o
		}
		f.N = n
		q.dev.Rx(1, n)
		if q.vnet || len(frames) == 1 {
			return 1, nil
		}
		return 1 + q.readRest(frames[1:]), nil
	}
}

// receive waits for one frame. n counts the virtio header too, and is more than the
// buffer holds for a frame that does not fit: the kernel cuts such a frame off
// without a word (tun_put_user), which only the byte behind the buffer shows. ok is false when the wait itself has ended: the
// descriptor was closed, or the interface deleted, which poll reports as an error
// condition.
func (q *queue) receive(buf []byte) (n int, _ unix.Errno, ok bool) {
	q.rxVec[1].Base = unsafe.SliceData(buf)
	q.rxVec[1].SetLen(len(buf))
	err := q.conn.Read(q.attempt)
	q.rxVec[1].Base = nil
	return q.rxN, q.rxErrno, err == nil
}

// readOnce is one readv. It answers false to wait until the descriptor is readable.
func (q *queue) readOnce(fd uintptr) bool {
	vec := q.rxVec[:]
	if !q.vnet {
		vec = vec[1:]
	}
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&vec[0])), uintptr(len(vec)))
		switch errno {
		case unix.EAGAIN:
			return false
		case unix.EINTR:
			continue
		}
		q.rxN, q.rxErrno = int(n), errno
		return true
	}
}

// Write hands frame after frame to the kernel, which runs them up to the receiving
// socket, or drops them, before it returns.
func (q *queue) Write(frames []link.OutFrame) (int, error) {
	if err := q.dev.ended(); err != nil {
		return 0, err
	}
	if len(frames) == 0 {
		return 0, nil
	}
	w := q.writers.Get().(*writer)
	w.frames, w.sent, w.size, w.gone = frames, 0, 0, false
	err := q.conn.Control(w.attempt)
	sent, gone := w.sent, w.gone
	w.frames = nil
	q.writers.Put(w)
	if err != nil || gone {
		return sent, q.dev.end()
	}
	return sent, nil
}

// A writer is what one call of Write needs, kept for the next.
type writer struct {
	q       *queue
	attempt func(fd uintptr)
	hdr     [link.VirtioLen]byte
	vec     []unix.Iovec // vec[0] is hdr
	merged  []byte       // for frames of too many pieces

	frames []link.OutFrame
	sent   int // frames that the kernel took …
	size   int // … and their bytes
	gone   bool
}

// maxPieces is the kernel's IOV_MAX (UIO_MAXIOV in include/uapi/linux/uio.h).
const maxPieces = 1024

func newWriter(q *queue) *writer {
	w := &writer{q: q, vec: make([]unix.Iovec, 1, 16)}
	w.attempt = w.writeAll
	w.vec[0].Base = &w.hdr[0]
	w.vec[0].SetLen(len(w.hdr))
	return w
}

// writeAll writes w.frames. The descriptor is held open meanwhile.
func (w *writer) writeAll(fd uintptr) {
	d := w.q.dev
	if w.q.vnet || !w.q.many.writeBatches(w, fd) {
		for i := range w.frames {
			f := &w.frames[i]
			n, why, ok := d.info.CheckOut(f)
			if !ok {
				d.Drop(why)
				continue
			}
			w.account(w.write(fd, f), n)
			if w.gone {
				break
			}
		}
	}
	if w.sent > 0 {
		d.Tx(w.sent, w.size)
	}
}

// account counts what became of one frame of n bytes.
func (w *writer) account(errno unix.Errno, n int) {
	d := w.q.dev
	switch errno {
	case 0:
		w.sent, w.size = w.sent+1, w.size+n
	case unix.EIO:
		d.Drop(link.DropTxDown)
	case unix.EAGAIN, unix.ENOBUFS:
		d.Drop(link.DropTxFull)
	case unix.EBADFD:
		w.gone = true
	default:
		d.Drop(link.DropTxError)
	}
}

// write is one writev.
func (w *writer) write(fd uintptr, f *link.OutFrame) unix.Errno {
	w.gather(f)
	vec := w.vec
	if w.q.vnet {
		f.Offload.EncodeVirtio(w.hdr[:], w.q.order)
	} else {
		vec = vec[1:]
	}
	var errno unix.Errno
	for {
		_, _, errno = unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&vec[0])), uintptr(len(vec)))
		if errno != unix.EINTR {
			break
		}
	}
	clear(w.vec[1:]) // no reference stays
	return errno
}

// gather lists the pieces of f in w.vec, behind the header.
func (w *writer) gather(f *link.OutFrame) {
	w.vec = w.vec[:1]
	for _, p := range f.Pieces {
		if len(p) == 0 {
			continue
		}
		if len(w.vec) == maxPieces {
			w.merge(f)
			return
		}
		var v unix.Iovec
		v.Base = unsafe.SliceData(p)
		v.SetLen(len(p))
		w.vec = append(w.vec, v)
	}
}

// merge lists f as one piece, copied together. Its length has been checked.
func (w *writer) merge(f *link.OutFrame) {
	if w.merged == nil {
		w.merged = make([]byte, 0, link.MaxFrame)
	}
	w.merged = w.merged[:0]
	for _, p := range f.Pieces {
		w.merged = append(w.merged, p...)
	}
	clear(w.vec[1:])
	w.vec = w.vec[:2]
	w.vec[1].Base = unsafe.SliceData(w.merged)
	w.vec[1].SetLen(len(w.merged))
}
