package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/ifwatch"
	"github.com/ustack/ustack/link"
)

// A CharConfig describes a character device that carries one frame for each read and write, as
// /dev/net/tun does once it is attached: a driver's own, such as /dev/xtun, or a macvtap's /dev/tapN. Path
// is required.
type CharConfig struct {
	Path string
	// Interface is the network interface of the host behind it; "" asks the device (TUNGETIFF), and
	// one that does not know has none. Its end is the wire's.
	Interface string
	// Offload is OffloadAuto, or "" for the same: what the device offers. OffloadOff turns virtio
	// headers off where that can be.
	Offload string
	// MTU is given to the interface if it has another; without an interface it is what the Device
	// states, and 0 means link.DefaultMTU.
	MTU int
	// Once ends the Device when the wire is gone. Else it is attached again when it returns, and an
	// Interface that was named is brought up then.
	Once bool
	// Logger may be nil.
	Logger *slog.Logger
}

// OpenChar opens a character device. A device that cannot be waited for with poll(2) is refused.
//
// Of a macvtap's /dev/tapN, Info.Station is the macvtap's own address: it delivers to no other.
func OpenChar(cfg CharConfig) (link.Device, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	first, err := openChar(cfg)
	if err != nil || cfg.Once {
		return first, err
	}
	again := func() (link.Device, error) {
		dev, err := openChar(cfg)
		if err != nil || cfg.Interface == "" {
			return dev, err
		}
		// Whoever brought it up before does not know of this one.
		if err := setUp(cfg.Interface); err != nil {
			cfg.Logger.Warn("an interface that returned stays down", "interface", cfg.Interface, "err", err)
		}
		return dev, nil
	}
	return link.Reopen(first, again, cfg.Logger), nil
}

func openChar(cfg CharConfig) (link.Device, error) {
	fd, err := unix.Open(cfg.Path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, charError(cfg.Path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		unix.Close(fd)
		return nil, fmt.Errorf("chardev %s: it is not a character device", cfg.Path)
	}
	return adopt(fd, "chardev", cfg)
}

// charError explains why a character device could not be opened.
func charError(path string, errno error) error {
	hint := ""
	switch {
	case errors.Is(errno, unix.ENOENT), errors.Is(errno, unix.ENXIO), errors.Is(errno, unix.ENODEV):
		hint = ": its driver is not loaded, or its interface is gone"
	case errors.Is(errno, unix.EACCES), errors.Is(errno, unix.EPERM):
		hint = ": this user may not open it: run as root, or allow it: chmod 0660 and chgrp " + path
	case errors.Is(errno, unix.EBUSY):
		hint = ": another process holds it"
	}
	return fmt.Errorf("chardev %s: open: %w%s", path, errno, hint)
}

// FromFD makes a Device of an inherited descriptor of a tap, or of a character device that carries
// frames, which it takes over. cfg.Path is its name for people; nothing is opened again.
func FromFD(fd int, cfg CharConfig) (link.Device, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("fd %s: O_NONBLOCK: %w", cfg.Path, err)
	}
	return adopt(fd, "fd", cfg)
}

// adopt makes a Device of a descriptor that is attached to a wire, which it takes over.
func adopt(fd int, kind string, cfg CharConfig) (_ link.Device, err error) {
	wrap := func(err error) error { return fmt.Errorf("%s %s: %w", kind, cfg.Path, err) }
	d := &device{}
	file := os.NewFile(uintptr(fd), kind+" "+cfg.Path)
	d.files = []*os.File{file}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	tapCfg := Config{Name: cfg.Interface, Offload: cfg.Offload, MTU: cfg.MTU, Logger: cfg.Logger}
	h := &handle{fd: fd, name: cfg.Interface}
	if err := h.ask(cfg.Offload); err != nil {
		return nil, wrap(err)
	}
	var o offloads
	if h.known {
		if err := h.setup(&tapCfg); err != nil {
			return nil, wrap(err)
		}
		o = h.offloads(&tapCfg)
	}
	if err := d.describeChar(h, kind, cfg, o); err != nil {
		return nil, wrap(err)
	}
	if err := file.SetReadDeadline(time.Time{}); err != nil {
		return nil, wrap(fmt.Errorf("it cannot be waited for with poll(2): %w", err))
	}
	q, err := newQueue(d, file, h)
	if err != nil {
		return nil, wrap(err)
	}
	d.queues = []link.Queue{q}
	return d, nil
}

// ask asks a descriptor what is before each frame (TUNGETIFF). A driver that does not know the
// question gives plain frames.
func (h *handle) ask(offload string) error {
	r := new(ifreq)
	err := ioctlIfreq(h.fd, unix.TUNGETIFF, r)
	switch {
	case errors.Is(err, unix.EBADFD):
		return errors.New("it is not attached to an interface: attach it before it is handed over (TUNSETIFF), or use tap:NAME")
	case err != nil:
		return nil
	}
	if r.flags()&unix.IFF_TAP == 0 {
		return errors.New("it carries IP packets, not Ethernet frames (IFF_TUN): make it with IFF_TAP")
	}
	if r.flags()&unix.IFF_VNET_HDR != 0 && offload == OffloadOff {
		off := newIfreq(r.nameString())
		off.setFlags(r.flags() &^ unix.IFF_VNET_HDR)
		// A macvtap takes it; the flags of a tap are those it was attached with.
		_ = ioctlIfreq(h.fd, unix.TUNSETIFF, off)
		if err := ioctlIfreq(h.fd, unix.TUNGETIFF, r); err != nil {
			return fmt.Errorf("TUNGETIFF: %w", err)
		}
		if r.flags()&unix.IFF_VNET_HDR != 0 {
			return errors.New("it has virtio headers that cannot be turned off: leave out offload=off")
		}
	}
	// Of a tap the bit of IFF_NO_PI in the answer means IFF_NOFILTER, too (tun_chr_ioctl in
	// drivers/net/tun.c); rtnetlink tells them apart.
	was := lookup(r.nameString())
	if r.flags()&unix.IFF_NO_PI == 0 || was != nil && was.info {
		return errors.New("it has packet information before each frame: make it with IFF_NO_PI")
	}
	h.known, h.vnet = true, r.flags()&unix.IFF_VNET_HDR != 0
	if name := r.nameString(); h.name == "" {
		h.name = name
	} else if name != h.name {
		return fmt.Errorf("the interface behind it is %s, not %s", name, h.name)
	}
	return nil
}

// describeChar fills in what is known of the wire, and watches for the end of its interface.
func (d *device) describeChar(h *handle, kind string, cfg CharConfig, o offloads) error {
	d.errGone = fmt.Errorf("%s %s: %w", kind, cfg.Path, link.ErrGone)
	d.info = link.Info{Name: cfg.Path, Kind: kind, Driver: "read/write", RX: o.rx, TX: o.tx, MTU: cfg.MTU}
	if h.name == "" {
		if d.info.MTU == 0 {
			d.info.MTU = link.DefaultMTU
		}
		return link.CheckMTU(d.info.MTU)
	}
	d.info.Name = h.name
	ifi, err := net.InterfaceByName(h.name)
	if err != nil {
		if h.known && kind == "fd" { // in another namespace, as of a container's tap
			if d.info.MTU == 0 {
				d.info.MTU = link.DefaultMTU
			}
			return nil
		}
		return fmt.Errorf("interface %s: %w", h.name, err)
	}
	if d.info.MTU, err = setupMTU(h.name, cfg.MTU); err != nil {
		return fmt.Errorf("interface %s: %w", h.name, err)
	}
	if len(ifi.HardwareAddr) == 6 {
		if k := kindOf(h.name); k == "macvtap" || k == "ipvtap" {
			d.info.Station = ifi.HardwareAddr
			if err := d.hearGroups(ifi.Index); err != nil {
				cfg.Logger.Warn("frames for groups may not arrive, and so no IPv6: ip link set "+h.name+" allmulticast on", "err", err)
			}
		} else {
			d.info.HardwareAddr = ifi.HardwareAddr
		}
	}
	d.watch, err = ifwatch.Watch(ifi.Index, func() {
		d.gone.Store(true)
		_ = d.files[0].SetReadDeadline(time.Unix(1, 0)) // lets a Read look
	})
	return err
}

// hearGroups makes a macvtap pass on frames for all groups, as long as the Device is open: its filter
// knows nothing of those that the Device's reader is a member of (PACKET_MR_ALLMULTI, packet(7)).
func (d *device) hearGroups(index int) error {
	// Of protocol 0 the socket receives nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	mreq := &unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_ALLMULTI}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, mreq); err != nil {
		unix.Close(fd)
		return fmt.Errorf("PACKET_MR_ALLMULTI: %w", err)
	}
	d.files = append(d.files, os.NewFile(uintptr(fd), "membership"))
	return nil
}

// SetLink gives a tap's interface a speed, in Mbit/s unless 0, and a duplex mode, "full", "half" or ""
// (ETHTOOL_GSET and ETHTOOL_SSET, include/uapi/linux/ethtool.h): what a bond or a bridge believes
// of it. It needs CAP_NET_ADMIN.
func SetLink(name string, speed int, duplex string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket for SIOCETHTOOL: %w", err)
	}
	defer unix.Close(fd)
	const (
		atSpeed, atDuplex, atAutoneg, atSpeedHigh = 12, 14, 18, 28
		size                                      = 44
	)
	var cmd [size]byte // struct ethtool_cmd
	binary.NativeEndian.PutUint32(cmd[:], unix.ETHTOOL_GSET)
	if err := ioctlEthtool(fd, name, &cmd[0]); err != nil {
		return fmt.Errorf("ETHTOOL_GSET: %w", err)
	}
	if speed != 0 {
		binary.NativeEndian.PutUint16(cmd[atSpeed:], uint16(speed))
		binary.NativeEndian.PutUint16(cmd[atSpeedHigh:], uint16(speed>>16))
	}
	switch duplex {
	case "full":
		cmd[atDuplex] = 1
	case "half":
		cmd[atDuplex] = 0
	}
	cmd[atAutoneg] = 0
	binary.NativeEndian.PutUint32(cmd[:], unix.ETHTOOL_SSET)
	if err := ioctlEthtool(fd, name, &cmd[0]); err != nil {
		return fmt.Errorf("ETHTOOL_SSET: %w", err)
	}
	return nil
}
