package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
)

// openNative opens every queue, and all or none.
func openNative(cfg Config, clone string) (_ link.Device, err error) {
	d := &device{}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	name, first := cfg.Name, (*handle)(nil)
	for range cfg.Queues {
		one := cfg
		one.Name = name // a "%d" is resolved by the first
		h, err := attach(&one, clone, len(d.files) > 0)
		if err != nil {
			return nil, err
		}
		if err := d.addNative(h, &one); err != nil {
			return nil, err
		}
		if name = h.name; first == nil {
			first = h
		}
	}
	if err := first.own(&cfg); err != nil {
		return nil, fmt.Errorf("tap %s: %w", name, err)
	}
	if cfg.Speed != 0 || cfg.Duplex != "" {
		if err := SetLink(name, cfg.Speed, cfg.Duplex); err != nil {
			return nil, fmt.Errorf("tap %s: speed and duplex: %w", name, err)
		}
	}
	// Last, so that nothing stays behind when opening did not work.
	if cfg.Persist {
		if err := ioctlUint(first.fd, unix.TUNSETPERSIST, 1); err != nil {
			return nil, fmt.Errorf("tap %s: TUNSETPERSIST: %w", name, err)
		}
	}
	return d, nil
}

// addNative makes a queue of an attached descriptor, which it takes over.
func (d *device) addNative(h *handle, cfg *Config) error {
	first := len(d.files) == 0
	var offloads offloads
	err := h.setup(cfg)
	if err == nil && first {
		offloads = h.offloads(cfg)
		err = d.describe(h.fd, cfg, DriverNative, h.name, offloads)
	}
	if err == nil && !first && h.vnet != d.queues[0].(*queue).vnet {
		err = fmt.Errorf("tap %s: another process changed it while it was opened: use it alone", h.name)
	}
	if err != nil {
		unix.Close(h.fd)
		return err
	}
	f := os.NewFile(uintptr(h.fd), "tap "+h.name)
	d.files = append(d.files, f)
	// A descriptor that the runtime's poller does not take would not be let go by
	// Close.
	if err := f.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("tap %s: wait for frames: %w", h.name, err)
	}
	q, err := newQueue(d, f, h)
	if err != nil {
		return fmt.Errorf("tap %s: %w", h.name, err)
	}
	d.queues = append(d.queues, q)
	return nil
}

// A handle is a descriptor attached to a tap.
type handle struct {
	fd    int
	name  string           // as the kernel gave it
	known bool             // it answers what taps are asked, see ask
	vnet  bool             // each frame has a virtio header
	order binary.ByteOrder // of that header
}

// attach opens the clone device and attaches it. A descriptor more of one device
// skips the checks that the first has passed.
func attach(cfg *Config, clone string, more bool) (*handle, error) {
	fd, err := unix.Open(clone, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(cfg.Name, clone, err)
	}
	h := &handle{fd: fd}
	if err := h.attach(cfg, more); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return h, nil
}

func (h *handle) attach(cfg *Config, more bool) error {
	var was *existing
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if more {
		flags |= unix.IFF_MULTI_QUEUE
	} else {
		was = lookup(cfg.Name)
		switch {
		case cfg.Queues > 1:
			flags |= unix.IFF_MULTI_QUEUE
		case was != nil && was.multiQueue:
			flags |= unix.IFF_MULTI_QUEUE
		}
		// The kernel would share a multi-queue tap: each of its holders would get
		// some of the frames.
		if was != nil && was.tap && was.queues > 0 {
			return attachError(cfg, was, unix.EBUSY)
		}
	}
	if cfg.Offload != OffloadOff && cfg.Driver != DriverWater {
		if features, err := unix.IoctlGetUint32(h.fd, unix.TUNGETFEATURES); err == nil && features&unix.IFF_VNET_HDR != 0 {
			flags |= unix.IFF_VNET_HDR
		}
	}
	err := h.setIff(cfg.Name, flags)
	if errors.Is(err, unix.EINVAL) && cfg.Queues == 1 && !more {
		// An existing tap wants the flag as it was made, and lookup may not know.
		err = h.setIff(cfg.Name, flags^unix.IFF_MULTI_QUEUE)
	}
	if err != nil {
		return attachError(cfg, was, err)
	}
	// What counts is what the tap is now: the flags of one that has queues already
	// do not change.
	r := new(ifreq)
	if err := ioctlIfreq(h.fd, unix.TUNGETIFF, r); err != nil {
		return fmt.Errorf("tap %s: TUNGETIFF: %w", cfg.Name, err)
	}
	h.name, h.vnet = r.nameString(), r.flags()&unix.IFF_VNET_HDR != 0
	return nil
}

func (h *handle) setIff(name string, flags uint16) error {
	r := newIfreq(name)
	r.setFlags(flags)
	return ioctlIfreq(h.fd, unix.TUNSETIFF, r)
}

// setup puts everything that a tap keeps from its last user into a known state.
func (h *handle) setup(cfg *Config) error {
	sndbuf := cfg.SndBuf
	if sndbuf == 0 {
		sndbuf = math.MaxInt32
	}
	if err := unix.IoctlSetPointerInt(h.fd, unix.TUNSETSNDBUF, sndbuf); err != nil {
		return fmt.Errorf("tap %s: TUNSETSNDBUF %d: %w", h.name, sndbuf, err)
	}
	if !h.vnet {
		return nil
	}
	if err := unix.IoctlSetPointerInt(h.fd, unix.TUNSETVNETHDRSZ, link.VirtioLen); err != nil {
		return fmt.Errorf("tap %s: TUNSETVNETHDRSZ %d: %w", h.name, link.VirtioLen, err)
	}
	// TUNSETVNETLE makes the header little-endian on every machine; a kernel
	// without it (before 4.1) knows the machine's own order only.
	h.order = binary.LittleEndian
	if err := unix.IoctlSetPointerInt(h.fd, unix.TUNSETVNETLE, 1); err != nil {
		h.order = binary.NativeEndian
	}
	return nil
}

// own gives a tap to a user and a group.
func (h *handle) own(cfg *Config) error {
	for _, o := range []struct {
		name string
		req  uint
		id   *int
	}{{"TUNSETOWNER", unix.TUNSETOWNER, cfg.Owner}, {"TUNSETGROUP", unix.TUNSETGROUP, cfg.Group}} {
		if o.id == nil {
			continue
		}
		if err := ioctlUint(h.fd, o.req, uintptr(*o.id)); err != nil {
			return fmt.Errorf("%s %d: %w", o.name, *o.id, err)
		}
	}
	return nil
}

// ladder is what we would like the kernel to leave to us, best first. Kernels
// refuse sets with a member they do not know.
var ladder = [...]struct {
	bits uintptr
	rx   link.Offloads
}{
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN, link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6 | link.OffloadECN},
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6, link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6},
	{unix.TUN_F_CSUM, link.OffloadCsum},
	{0, 0},
}

// offloads agrees with the kernel on them. Frames written may carry all whenever
// there is a virtio header: the kernel finishes what the path beyond needs.
func (h *handle) offloads(cfg *Config) offloads {
	steps := ladder[:]
	if !h.vnet {
		if cfg.Offload != OffloadOff {
			cfg.Logger.Info("the kernel has no virtio headers for a tap: no offloads", "tap", h.name)
		}
		steps = ladder[len(ladder)-1:]
	}
	for i, step := range steps {
		err := ioctlUint(h.fd, unix.TUNSETOFFLOAD, step.bits)
		if err == nil {
			if i > 0 {
				cfg.Logger.Info("the kernel offloads less than asked for", "tap", h.name, "offloads", step.rx)
			}
			o := offloads{rx: step.rx}
			if h.vnet {
				o.tx = ladder[0].rx
			}
			return o
		}
		cfg.Logger.Debug("TUNSETOFFLOAD refused", "tap", h.name, "offloads", step.rx, "err", err)
	}
	return offloads{}
}
