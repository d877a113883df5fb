package tap

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"syscall"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
)

// openWater opens the one queue of the portable driver.
func openWater(cfg Config, clone string) (_ link.Device, err error) {
	multiQueue, persist, err := probe(&cfg, clone)
	if err != nil {
		return nil, err
	}
	// water opens without O_CLOEXEC: no process may be started until that is put
	// right, or it would hold the tap.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	iface, err := water.New(water.Config{
		DeviceType: water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{
			Name: cfg.Name, MultiQueue: multiQueue, Persist: persist,
		},
	})
	if err != nil {
		return nil, attachError(&cfg, nil, err)
	}
	d := &device{}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	file, ok := iface.ReadWriteCloser.(*os.File)
	if !ok {
		iface.Close()
		return nil, fmt.Errorf("tap %s: driver %s gave a %T, not a file: use driver=%s", cfg.Name, DriverWater, iface.ReadWriteCloser, DriverNative)
	}
	d.files = []*os.File{file}
	conn, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("tap %s: descriptor: %w", cfg.Name, err)
	}
	var inner error
	if err := conn.Control(func(fd uintptr) {
		unix.CloseOnExec(int(fd))
		inner = d.setupWater(int(fd), &cfg, iface.Name())
	}); err != nil {
		return nil, fmt.Errorf("tap %s: descriptor: %w", cfg.Name, err)
	}
	if inner != nil {
		return nil, inner
	}
	q := &waterQueue{dev: d, file: file}
	q.merged.New = func() any { return &[link.MaxFrame]byte{} }
	d.queues = []link.Queue{q}
	return d, nil
}

// probe finds out natively what water must be told, since water leaks its
// descriptor when the kernel refuses, needs to know whether the tap is a
// multi-queue one, and makes a persistent tap vanish unless told otherwise.
func probe(cfg *Config, clone string) (multiQueue, persist bool, err error) {
	h, err := attach(cfg, clone, false)
	if err != nil {
		return false, false, err
	}
	defer unix.Close(h.fd)
	r := new(ifreq)
	if err := ioctlIfreq(h.fd, unix.TUNGETIFF, r); err != nil {
		return false, false, fmt.Errorf("tap %s: TUNGETIFF: %w", cfg.Name, err)
	}
	return r.flags()&unix.IFF_MULTI_QUEUE != 0, cfg.Persist || r.flags()&unix.IFF_PERSIST != 0, nil
}

// setupWater undoes what the tap's last user may have left.
func (d *device) setupWater(fd int, cfg *Config, name string) error {
	r := new(ifreq)
	if err := ioctlIfreq(fd, unix.TUNGETIFF, r); err != nil {
		return fmt.Errorf("tap %s: TUNGETIFF: %w", name, err)
	}
	if r.flags()&unix.IFF_VNET_HDR != 0 {
		return fmt.Errorf("tap %s: another process uses it with virtio headers, which driver %s has not: use driver=%s", name, DriverWater, DriverNative)
	}
	if err := ioctlUint(fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return fmt.Errorf("tap %s: TUNSETOFFLOAD 0: %w", name, err)
	}
	// Without a bound a Write cannot come to wait.
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETSNDBUF, math.MaxInt32); err != nil {
		return fmt.Errorf("tap %s: TUNSETSNDBUF: %w", name, err)
	}
	return d.describe(fd, cfg, DriverWater, name, offloads{})
}

// A waterQueue reads and writes whole frames.
type waterQueue struct {
	dev  *device
	file io.ReadWriter
	// in is longer than any frame, of the one reader: the kernel cuts a frame that is
	// longer than the buffer off without a word, so that a caller's buffer would not
	// show it.
	in     [link.MaxFrame + 1]byte
	merged sync.Pool // of *[link.MaxFrame]byte
}

// Read returns one frame: the kernel hands over one at a time.
func (q *waterQueue) Read(frames []link.Frame) (int, error) {
	if err := q.dev.ended(); err != nil {
		return 0, err
	}
	if len(frames) == 0 {
		return 0, nil
	}
	f := &frames[0]
	for unknown := 0; ; {
		n, err := q.file.Read(q.in[:])
		switch {
		case err == nil && n < link.HeaderLen:
			q.dev.Drop(link.DropRxShort)
		case err == nil && n > min(len(f.Buf), link.MaxFrame):
			q.dev.Drop(link.DropRxOversize)
		case err == nil:
			f.N, f.Offload = copy(f.Buf, q.in[:n]), link.Offload{}
			q.dev.Rx(1, n)
			return 1, nil
		case wireError(err) && !errors.Is(err, unix.EBADFD):
			q.dev.Drop(link.DropRxError)
			if unknown++; unknown == strikes {
				return 0, q.dev.end()
			}
		default: // closed, or deleted: EBADFD, or poll's error condition
			return 0, q.dev.end()
		}
	}
}

// wireError reports whether an errno is behind err, rather than a descriptor that
// was closed or that poll gave up.
func wireError(err error) bool {
	var errno unix.Errno
	return errors.As(err, &errno)
}

// Write copies each frame together, since a frame is one write.
func (q *waterQueue) Write(frames []link.OutFrame) (int, error) {
	if err := q.dev.ended(); err != nil {
		return 0, err
	}
	if len(frames) == 0 {
		return 0, nil
	}
	buf := q.merged.Get().(*[link.MaxFrame]byte)
	defer q.merged.Put(buf)
	sent, size := 0, 0
	defer func() { q.dev.Tx(sent, size) }()
	for i := range frames {
		n, why, ok := q.dev.info.CheckOut(&frames[i])
		if !ok {
			q.dev.Drop(why)
			continue
		}
		at := 0
		for _, p := range frames[i].Pieces {
			at += copy(buf[at:], p)
		}
		_, err := q.file.Write(buf[:at])
		switch {
		case err == nil:
			sent, size = sent+1, size+n
		case errors.Is(err, unix.EIO):
			q.dev.Drop(link.DropTxDown)
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
			q.dev.Drop(link.DropTxFull)
		case wireError(err) && !errors.Is(err, unix.EBADFD):
			q.dev.Drop(link.DropTxError)
		default:
			return sent, q.dev.end()
		}
	}
	return sent, nil
}
