package tap

import (
	"fmt"
	"math"
	"os"
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
	// Where the descriptor is known, frames need not be copied to or from one buffer,
	// as water's Read and Write would have it.
	q, err := newQueue(d, file, &handle{})
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", cfg.Name, err)
	}
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
