package tap

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of how many frames a call of the kernel is made: at most, and at least.
const (
	submitBatch = 64
	submitFew   = 8
)

// A submitter writes many frames without a virtio header in one system call,
// io_submit(2). The kernel runs such requests at once and in order where the file knows
// no other way, and a tap does not. That is no less work than as many writev(2) and
// slower by 0.3 µs a frame (BenchmarkWriteMany), but after each writev the receiving
// program, which the frame has woken, may take over this processor. (io_uring would do
// too, but is switched off in many containers.)
type submitter struct {
	mu     sync.Mutex
	ctx    uintptr // aio_context_t; 0 if there is none
	count  int     // of frames gathered
	iocbs  [submitBatch]iocb
	list   [submitBatch]*iocb
	events [submitBatch]ioEvent
	sizes  [submitBatch]int // bytes of each frame
	ends   [submitBatch]int // of the pieces of each frame in vec
	vec    []unix.Iovec
}

// An iocb is struct iocb of include/uapi/linux/aio_abi.h.
type iocb struct {
	data   uint64
	_      uint64 // aio_key and aio_rw_flags, in an order that depends on the machine's
	opcode uint16
	_      int16 // aio_reqprio
	fd     uint32
	buf    uint64
	nbytes uint64
	_      int64  // aio_offset
	_      uint64 // aio_reserved2
	_      uint32 // aio_flags
	_      uint32 // aio_resfd
}

// An ioEvent is struct io_event of the same file.
type ioEvent struct {
	data, obj uint64
	res, res2 int64
}

const iocbCmdPwritev = 8 // IOCB_CMD_PWRITEV

// open asks the kernel for a context. Without one, which kernels may not have or
// policies not allow, frames are written one by one.
func (s *submitter) open() {
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, submitBatch, uintptr(unsafe.Pointer(&s.ctx)), 0); errno != 0 {
		s.ctx = 0
		return
	}
	s.vec = make([]unix.Iovec, 0, 4*submitBatch)
}

func (s *submitter) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx != 0 {
		unix.Syscall(unix.SYS_IO_DESTROY, s.ctx, 0, 0)
		s.ctx = 0
	}
}

// writeBatches writes w.frames as writeAll does, if it may: while another goroutine
// does, that one need not be waited for.
func (s *submitter) writeBatches(w *writer, fd uintptr) bool {
	if len(w.frames) < submitFew || !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	if s.ctx == 0 {
		return false
	}
	d := w.q.dev
	for i := range w.frames {
		f := &w.frames[i]
		n, why, ok := d.info.CheckOut(f)
		if !ok {
			d.Drop(why)
			continue
		}
		w.gather(f)
		s.vec = append(s.vec, w.vec[1:]...)
		clear(w.vec[1:]) // no reference stays
		s.sizes[s.count], s.ends[s.count] = n, len(s.vec)
		// w.merged, which the last piece may be, is there once.
		if s.count++; s.count == submitBatch || len(f.Pieces) >= maxPieces {
			s.submit(w, fd)
		}
	}
	s.submit(w, fd)
	return true
}

// submit writes what was gathered.
func (s *submitter) submit(w *writer, fd uintptr) {
	start := 0
	for i := range s.count {
		vec := s.vec[start:s.ends[i]]
		s.iocbs[i] = iocb{
			data: uint64(i), opcode: iocbCmdPwritev, fd: uint32(fd),
			buf: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(vec)))), nbytes: uint64(len(vec)),
		}
		s.list[i] = &s.iocbs[i]
		start = s.ends[i]
	}
	for done := 0; done < s.count && !w.gone; {
		n, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, s.ctx, uintptr(s.count-done), uintptr(unsafe.Pointer(&s.list[done])))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 { // not of the frame: that would be an event
			w.account(unix.Errno(errno), s.sizes[done])
			done++
			continue
		}
		s.reap(w, int(n))
		done += int(n)
	}
	clear(s.vec)
	s.vec, s.count = s.vec[:0], 0
}

// reap takes the results of n frames.
func (s *submitter) reap(w *writer, n int) {
	for n > 0 {
		got, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, s.ctx, uintptr(n), uintptr(n), uintptr(unsafe.Pointer(&s.events[0])), 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return
		}
		for _, e := range s.events[:got] {
			errno := unix.Errno(0)
			if e.res < 0 {
				errno = unix.Errno(-e.res)
			}
			w.account(errno, s.sizes[e.data])
		}
		n -= int(got)
	}
}
