package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
)

// A PacketsConfig describes an inherited socket.
type PacketsConfig struct {
	// FD is a connected socket of type SOCK_DGRAM or SOCK_SEQPACKET, which the Device owns.
	FD int
	// Name is what the Device calls itself.
	Name string
	// MTU is in bytes; 0 means link.DefaultMTU.
	MTU int
	// Buffer is that of DgramConfig.
	Buffer int
	// Logger may be nil.
	Logger *slog.Logger
}

// OpenPackets makes a Device of a connected socket. The descriptor is closed if that does not work.
func OpenPackets(cfg PacketsConfig) (link.Device, error) {
	d := &packets{}
	if err := d.init("fd", cfg.Name, cfg.MTU, cfg.Logger); err != nil {
		unix.Close(cfg.FD)
		return nil, err
	}
	kind, err := unix.GetsockoptInt(cfg.FD, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case err != nil:
		err = fmt.Errorf("SO_TYPE: %w", err)
	case kind != unix.SOCK_DGRAM && kind != unix.SOCK_SEQPACKET:
		err = errors.New("a socket of packets is needed: SOCK_DGRAM or SOCK_SEQPACKET")
	default:
		_, err = unix.Getpeername(cfg.FD)
		if err != nil {
			err = fmt.Errorf("it has no peer: %w", err)
		} else if err = unix.SetNonblock(cfg.FD, true); err == nil {
			d.ends = kind == unix.SOCK_SEQPACKET
			d.connected = true
			err = d.start(cfg.FD, cfg.Buffer)
			if err == nil {
				return d, nil
			}
			return nil, fmt.Errorf("qemu: %s: %w", cfg.Name, err)
		}
	}
	unix.Close(cfg.FD)
	return nil, fmt.Errorf("qemu: %s: %w", cfg.Name, err)
}

// packets is a Device over a socket that keeps packets apart.
type packets struct {
	common
	file   *os.File
	raw    syscall.RawConn
	remote unix.Sockaddr // nil: what it was connected to
	path   string        // of the socket's own file, removed with it
	ends   bool          // nothing received means that the peer is gone

	buffer int

	// Guarded by qmu.
	qmu       sync.Mutex
	more      sync.Cond
	connected bool
	retry     time.Time // of the next connect
	queue     [][]byte  // what the peer has not taken yet
	queued    int       // bytes
	busy      bool      // flush is at work: what comes goes behind
}

// start begins to use fd, which it takes over.
func (d *packets) start(fd, buffer int) error {
	if buffer == 0 {
		buffer = DefaultBuffer
	}
	d.buffer = buffer
	d.more.L = &d.qmu
	// What the system allows at most is enough.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 512<<10)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	d.file = os.NewFile(uintptr(fd), d.info.Name)
	raw, err := d.file.SyscallConn()
	if err == nil {
		err = d.file.SetReadDeadline(time.Time{}) // the runtime's poller does not take every descriptor
	}
	if err != nil {
		d.file.Close()
		return err
	}
	d.raw = raw
	d.work.Go(d.flush)
	if _, ok := d.remote.(*unix.SockaddrUnix); ok {
		d.work.Go(d.follow)
	}
	return nil
}

// Queues implements link.Device.
func (d *packets) Queues() []link.Queue { return []link.Queue{d} }

// Stats implements link.Device.
func (d *packets) Stats() link.Stats {
	s := d.Counters.Stats()
	d.qmu.Lock()
	defer d.qmu.Unlock()
	if u, ok := d.remote.(*unix.SockaddrUnix); ok && !d.connected && d.over() == nil {
		s.Waiting = "nobody is at " + u.Name
	}
	return s
}

// Close implements link.Device.
func (d *packets) Close() error {
	d.end(link.ErrClosed)
	d.closed.Do(d.release)
	d.work.Wait()
	return nil
}

// release closes the socket, which unblocks everything.
func (d *packets) release() {
	d.qmu.Lock()
	d.more.Broadcast()
	d.qmu.Unlock()
	d.file.Close()
	if d.path != "" {
		os.Remove(d.path)
	}
}

// gone ends the Device because its peer went, and returns why it has ended.
func (d *packets) gone(why error) error {
	d.end(fmt.Errorf("%w: %v", link.ErrGone, why))
	d.qmu.Lock()
	d.more.Broadcast()
	d.qmu.Unlock()
	return d.over()
}

// maxTries bounds the packets that one attempt drops: a flood of those that are no frames must not
// keep Close waiting.
const maxTries = 1024

// Read implements link.Queue.
func (d *packets) Read(frames []link.Frame) (int, error) {
	for {
		if err := d.over(); err != nil || len(frames) == 0 {
			return 0, err
		}
		got, size := 0, 0
		var errno error
		err := d.raw.Read(func(fd uintptr) bool {
			d.qmu.Lock()
			_ = d.connect(int(fd)) // else the next time
			d.qmu.Unlock()
			for tries := 0; got < len(frames) && tries < maxTries; tries++ {
				out := &frames[got]
				n, err := recv(int(fd), out.Buf)
				switch {
				case err == unix.EINTR:
					continue
				case err == unix.EAGAIN:
					return got > 0
				case err != nil:
					errno = err
					return true
				case n == 0 && d.ends:
					errno = errPeerClosed
					return true
				case n < link.HeaderLen:
					d.Drop(link.DropRxShort)
				case n > len(out.Buf):
					d.Drop(link.DropRxOversize)
				default:
					out.N, out.Offload = n, link.Offload{}
					got, size = got+1, size+n
				}
			}
			return true
		})
		if got > 0 {
			d.Rx(got, size)
			return got, nil
		}
		switch {
		case err != nil:
			if d.over() == nil { // closed
				d.end(link.ErrClosed)
			}
		case errno == errPeerClosed, errno == unix.ECONNRESET && d.remote == nil:
			d.gone(errno)
		case errno != nil:
			// Of a datagram sent before: nobody was there.
			d.Drop(link.DropRxError)
		}
	}
}

var errPeerClosed = errors.New("the peer closed the socket")

// recv receives one packet; n is its whole length, though not all may have fitted.
// unix.Recvfrom would allocate an address each time.
func recv(fd int, b []byte) (n int, errno error) {
	got, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
		uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(got), nil
}

// Write implements link.Queue.
func (d *packets) Write(frames []link.OutFrame) (int, error) {
	if err := d.over(); err != nil || len(frames) == 0 {
		return 0, err
	}
	d.qmu.Lock()
	defer d.qmu.Unlock()
	taken, size := 0, 0
	defer func() { d.Tx(taken, size) }()
	for i := range frames {
		f := &frames[i]
		n, why, ok := d.info.CheckOut(f)
		if ok && !d.busy {
			err := d.send(f.Pieces)
			switch {
			case err == nil:
				taken, size = taken+1, size+n
				continue
			case err == unix.EAGAIN:
				d.busy = true
				d.more.Broadcast()
			case d.ends && (err == unix.EPIPE || err == unix.ECONNRESET), d.remote == nil && err == unix.ECONNREFUSED:
				d.end(fmt.Errorf("%w: %v", link.ErrGone, err))
				d.more.Broadcast()
				_ = d.file.SetReadDeadline(time.Unix(1, 0)) // of a SOCK_DGRAM nothing else tells a Read
				return taken, d.over()
			case errors.Is(err, os.ErrClosed):
				return taken, link.ErrClosed
			default:
				ok, why = false, dropOf(err)
			}
		}
		switch {
		case !ok:
			d.Drop(why)
		case d.queued+n > d.buffer:
			d.Drop(link.DropTxFull)
		default:
			whole := make([]byte, 0, n)
			for _, p := range f.Pieces {
				whole = append(whole, p...)
			}
			d.queue, d.queued = append(d.queue, whole), d.queued+n
			taken, size = taken+1, size+n
		}
	}
	return taken, nil
}

// dropOf says what an error of send means for the frame.
func dropOf(err error) link.Drop {
	switch err {
	case unix.ECONNREFUSED, unix.ENOENT, unix.ENOTCONN, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.ECONNRESET, unix.EPIPE:
		return link.DropTxDown
	case unix.EMSGSIZE:
		return link.DropTxOversize
	case unix.ENOBUFS: // the interface's queue is full, and nothing tells when it is not
		return link.DropTxFull
	}
	return link.DropTxError
}

// reconnectPause is the least time between two attempts to find the peer.
const reconnectPause = 20 * time.Millisecond

// maxPieces is the kernel's IOV_MAX (UIO_MAXIOV in include/uapi/linux/uio.h).
const maxPieces = 1024

// send gives one packet to the kernel, or EAGAIN if it has no room. qmu is held.
func (d *packets) send(pieces [][]byte) (errno error) {
	err := d.raw.Control(func(fd uintptr) {
		for try := 0; ; try++ {
			if errno = d.connect(int(fd)); errno != nil {
				return
			}
			if len(pieces) > maxPieces {
				pieces = [][]byte{bytes.Join(pieces, nil)}
			}
			_, errno = unix.SendmsgBuffers(int(fd), pieces, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			switch errno {
			case unix.EINTR:
				continue
			case unix.ECONNREFUSED, unix.ENOTCONN, unix.ECONNRESET:
				// Of UDP it is about an earlier datagram; a unix peer is another one now.
				if d.remote != nil && try == 0 {
					if _, ok := d.remote.(*unix.SockaddrUnix); ok {
						d.connected, d.retry = false, time.Time{}
					}
					continue
				}
			}
			return
		}
	})
	if err != nil {
		return os.ErrClosed
	}
	return errno
}

// connect makes the peer the only one that frames come from, once it is there. Two unix sockets that
// are connected to each other have room for more, too (unix_dgram_sendmsg in net/unix/af_unix.c). qmu
// is held.
func (d *packets) connect(fd int) error {
	if d.connected {
		return nil
	}
	now := time.Now()
	if now.Before(d.retry) {
		return unix.ENOTCONN
	}
	if err := unix.Connect(fd, d.remote); err != nil {
		d.retry = now.Add(reconnectPause)
		return err
	}
	d.connected = true
	return nil
}

// followPause is how long a unix peer that went and came again may stay unheard.
const followPause = 500 * time.Millisecond

// follow keeps to the peer's path. The kernel lets nobody send to a socket that is connected to another
// one, be that closed, and says so only to those who send to the closed one.
func (d *packets) follow() {
	tick := time.NewTicker(followPause)
	defer tick.Stop()
	for {
		d.qmu.Lock()
		_ = d.raw.Control(func(fd uintptr) {
			was := d.connected
			d.connected = unix.Connect(int(fd), d.remote) == nil // of no effect where it is the same peer
			if was && !d.connected {
				disconnect(int(fd))
			}
		})
		d.qmu.Unlock()
		select {
		case <-d.done:
			return
		case <-tick.C:
		}
	}
}

// disconnect lets everybody send to a datagram socket again (connect(2)). unix.Connect has no address
// for it.
func disconnect(fd int) {
	none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none))
}

// flush waits for the peer to take what it did not take at once.
func (d *packets) flush() {
	d.qmu.Lock()
	defer d.qmu.Unlock()
	for {
		for !d.busy && d.over() == nil {
			d.more.Wait()
		}
		if d.over() != nil {
			return
		}
		d.qmu.Unlock()
		err := d.raw.Write(func(fd uintptr) bool { return d.drain() })
		d.qmu.Lock()
		if err != nil {
			return
		}
	}
}

// drain sends what waits until there is no room again, and says whether all went.
func (d *packets) drain() bool {
	d.qmu.Lock()
	defer d.qmu.Unlock()
	for len(d.queue) > 0 {
		err := d.send(d.queue[0:1])
		if err == unix.EAGAIN {
			return false
		}
		if err != nil {
			d.Drop(dropOf(err))
		}
		d.queued -= len(d.queue[0])
		d.queue[0] = nil
		d.queue = d.queue[1:]
	}
	d.queue, d.busy = nil, false
	return true
}
