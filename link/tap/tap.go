// Package tap is the link.Device of a Linux TAP interface, the kernel's own
// Ethernet card whose wire ends in a program (Documentation/networking/tuntap.rst,
// drivers/net/tun.c).
//
// Two drivers move the frames: "tun", the native one, with checksum and
// segmentation offloads and several queues, and "water", the plain one on
// github.com/songgao/water. Both create the interface or take an existing one,
// which needs no privilege when it was made for the user. Neither brings it up
// nor addresses it: that is package hostnet's work.
package tap

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
)

// The drivers of Config.Driver.
const (
	DriverNative = "tun"
	DriverWater  = "water"
)

// The values of Config.Offload.
const (
	OffloadAuto = "auto"
	OffloadOff  = "off"
)

// MaxQueues is the number of queues a tap may have (MAX_TAP_QUEUES in
// drivers/net/tun.c).
const MaxQueues = 256

// MaxMTU is the largest MTU of a tap in bytes: MAX_MTU less the Ethernet header
// (drivers/net/tun.c).
const MaxMTU = link.MaxMTU - link.HeaderLen

// A Config says which tap to open and how. Only Name is needed.
type Config struct {
	// Name is the interface's name, see CheckName. "%d" in it takes the first free
	// number; Info then has the name in full.
	Name string
	// Driver is DriverNative, DriverWater, or "" for the native one.
	Driver string
	// Queues is the number of queues to attach; 0 means 1. More than one needs a
	// new interface, or one made with "multi_queue", and the native driver.
	Queues int
	// Offload is OffloadAuto, or "" for the same: whatever the kernel and the driver
	// can do. OffloadOff makes every frame an ordinary one.
	Offload string
	// SndBuf bounds, in bytes, what the kernel holds of written frames before it
	// refuses more (TUNSETSNDBUF); 0 means no bound. The native driver only.
	SndBuf int
	// MTU is given to the interface if it has another, which needs CAP_NET_ADMIN; 0
	// leaves it as it is.
	MTU int
	// Persist keeps the interface when the Device is closed (TUNSETPERSIST). An
	// interface that is persistent already stays so in any case.
	Persist bool
	// Owner and Group, unless nil, are who may attach to the interface without a privilege, by number:
	// of use to one that persists (TUNSETOWNER, TUNSETGROUP). The native driver only, as the following.
	Owner, Group *int
	// Speed in Mbit/s, unless 0, and Duplex, "full" or "half" unless "", are what the interface says of
	// itself: a bond aggregates only what says both (see SetLink).
	Speed  int
	Duplex string
	// Logger is told of what works less well than asked for; nil discards.
	Logger *slog.Logger
}

// Check returns an error that says what of the Config no tap can be opened with.
func (c *Config) Check() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	switch c.Driver {
	case "", DriverNative, DriverWater:
	default:
		return fmt.Errorf("tap %s: unknown driver %q: use %s or %s", c.Name, c.Driver, DriverNative, DriverWater)
	}
	switch c.Offload {
	case "", OffloadAuto, OffloadOff:
	default:
		return fmt.Errorf("tap %s: unknown offload %q: use %s or %s", c.Name, c.Offload, OffloadAuto, OffloadOff)
	}
	if c.Queues < 0 || c.Queues > MaxQueues {
		return fmt.Errorf("tap %s: %d queues: use 1 to %d", c.Name, c.Queues, MaxQueues)
	}
	if c.SndBuf < 0 {
		return fmt.Errorf("tap %s: send buffer of %d bytes: use 0 for no bound, or a positive number", c.Name, c.SndBuf)
	}
	if c.MTU != 0 && (c.MTU < link.MinMTU || c.MTU > MaxMTU) {
		return fmt.Errorf("tap %s: MTU %d is out of range: use %d to %d bytes", c.Name, c.MTU, link.MinMTU, MaxMTU)
	}
	if c.Speed < 0 || c.Duplex != "" && c.Duplex != "full" && c.Duplex != "half" {
		return fmt.Errorf("tap %s: speed %d, duplex %q: use a speed in Mbit/s, and full or half", c.Name, c.Speed, c.Duplex)
	}
	if c.Driver == DriverWater {
		switch {
		case c.Queues > 1:
			return fmt.Errorf("tap %s: driver %s has one queue: leave out queues=%d or use driver=%s", c.Name, DriverWater, c.Queues, DriverNative)
		case c.SndBuf != 0:
			return fmt.Errorf("tap %s: driver %s has no send buffer to set: leave out sndbuf or use driver=%s", c.Name, DriverWater, DriverNative)
		case c.Owner != nil || c.Group != nil || c.Speed != 0 || c.Duplex != "":
			return fmt.Errorf("tap %s: driver %s sets neither owner, group, speed nor duplex: use driver=%s", c.Name, DriverWater, DriverNative)
		case c.Offload == OffloadAuto:
			return fmt.Errorf("tap %s: driver %s has no offloads: leave out offload or use driver=%s", c.Name, DriverWater, DriverNative)
		}
	}
	return nil
}

// CheckName returns an error if name cannot be that of a tap: 1 to 15 printable
// bytes without space, '/', ':' and ',', not "." or ".."; one "%d" is allowed
// (dev_valid_name and __dev_alloc_name in net/core/dev.c; a comma would end it in
// a SPEC).
func CheckName(name string) error {
	if name == "" {
		return errors.New(`tap: no interface name: use one like "tap0", or "tap%d" for the first free one`)
	}
	if len(name) >= unix.IFNAMSIZ {
		return fmt.Errorf("tap: interface name %q has %d bytes: the kernel takes at most %d", name, len(name), unix.IFNAMSIZ-1)
	}
	if name == "." || name == ".." {
		return fmt.Errorf("tap: %q is not an interface name", name)
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' || strings.IndexByte("/:,", c) >= 0 {
			return fmt.Errorf("tap: interface name %q holds %q: use letters, digits, '-', '_' and '.'", name, c)
		}
	}
	if rest := strings.Replace(name, "%d", "", 1); strings.Contains(rest, "%") {
		return fmt.Errorf(`tap: interface name %q: '%%' is only for one "%%d", the first free number`, name)
	}
	return nil
}

// Open attaches to the interface cfg.Name in the network namespace of the calling
// thread, and creates it if it is not there (which needs CAP_NET_ADMIN).
//
// Errors wrap the errno: EBUSY when another process holds the tap, EPERM or EACCES
// when the caller may not have it, ENOENT when the machine has no /dev/net/tun.
func Open(cfg Config) (link.Device, error) { return open(cfg, cloneDevice) }

// cloneDevice is where a tap's file descriptors come from.
const cloneDevice = "/dev/net/tun"

func open(cfg Config, clone string) (link.Device, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Queues = max(cfg.Queues, 1)
	if cfg.Driver == DriverWater {
		return openWater(cfg, clone)
	}
	return openNative(cfg, clone)
}
