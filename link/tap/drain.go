package tap

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
)

// readRest reads what is ready behind a frame that has just been read, up to
// len(frames), and returns the number. It is for frames without a virtio header.
func (q *queue) readRest(frames []link.Frame) int {
	q.rest = frames
	q.conn.Read(q.drain) // of a descriptor that is closed the next Read will tell
	n := len(frames) - len(q.rest)
	q.rest = nil
	return n
}

// readReady reads frames into q.rest, and takes them off it, until the kernel has no
// more. It never waits. An error of the wire ends it: if it lasts, the next Read
// meets it.
func (q *queue) readReady(fd uintptr) bool {
	got, size := 0, 0
	vec := q.rxVec[1:]
	for ended := false; len(q.rest) > 0 && !ended; {
		f := &q.rest[0]
		vec[0].Base = unsafe.SliceData(f.Buf)
		vec[0].SetLen(len(f.Buf))
		r, _, errno := unix.RawSyscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&vec[0])), uintptr(len(vec)))
		switch n := int(r); {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN, errno == unix.EBADFD:
			ended = true
		case errno != 0:
			q.dev.Drop(link.DropRxError)
			ended = true
		case n > len(f.Buf):
			q.dev.DropFrame(link.DropRxOversize, f.Buf)
		case n < link.HeaderLen:
			q.dev.DropFrame(link.DropRxShort, f.Buf[:n])
		default:
			f.N, f.Offload = n, link.Offload{}
			q.rest = q.rest[1:]
			got, size = got+1, size+n
		}
	}
	vec[0].Base = nil
	if got > 0 {
		q.dev.Rx(got, size)
	}
	return true
}
