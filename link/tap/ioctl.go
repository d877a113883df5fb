package tap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An ifreq is struct ifreq of a 64-bit kernel: a name, then a union of 24 bytes
// (include/uapi/linux/if.h). Integers in it are in the machine's byte order.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data [24]byte
}

func newIfreq(name string) *ifreq {
	r := new(ifreq)
	copy(r.name[:unix.IFNAMSIZ-1], name)
	return r
}

func (r *ifreq) nameString() string {
	name, _, _ := bytes.Cut(r.name[:], []byte{0})
	return string(name)
}

func (r *ifreq) flags() uint16     { return binary.NativeEndian.Uint16(r.data[:]) }
func (r *ifreq) setFlags(f uint16) { binary.NativeEndian.PutUint16(r.data[:], f) }

// ioctlIfreq makes a request whose argument is a struct ifreq.
func ioctlIfreq(fd int, req uint, r *ifreq) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(r))); errno != 0 {
		return errno
	}
	return nil
}

// ioctlUint makes a request whose argument is an unsigned long, not a pointer:
// TUNSETOFFLOAD and TUNSETPERSIST.
func ioctlUint(fd int, req uint, arg uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), arg); errno != 0 {
		return errno
	}
	return nil
}

// setUp brings an interface up.
func setUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket for SIOCGIFFLAGS: %w", err)
	}
	defer unix.Close(fd)
	r := newIfreq(name)
	if err := ioctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
		return fmt.Errorf("SIOCGIFFLAGS: %w", err)
	}
	if r.flags()&unix.IFF_UP != 0 {
		return nil
	}
	r.setFlags(r.flags() | unix.IFF_UP)
	if err := ioctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("SIOCSIFFLAGS: %w", err)
	}
	return nil
}

// ioctlEthtool makes a request of ethtool about an interface; cmd is the first byte of its structure.
func ioctlEthtool(fd int, name string, cmd *byte) error {
	var r struct {
		name [unix.IFNAMSIZ]byte
		data *byte
		_    [16]byte
	}
	copy(r.name[:unix.IFNAMSIZ-1], name)
	r.data = cmd
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return errno
	}
	return nil
}

// hardwareAddr asks a tap's descriptor for the interface's address.
func hardwareAddr(fd int) (net.HardwareAddr, error) {
	r := new(ifreq)
	if err := ioctlIfreq(fd, unix.SIOCGIFHWADDR, r); err != nil {
		return nil, fmt.Errorf("SIOCGIFHWADDR: %w", err)
	}
	// struct sockaddr: a 2-byte family, then the address.
	return bytes.Clone(r.data[2:8]), nil
}

// setupMTU gives the interface the MTU want, unless that is 0 or what it has, and
// returns what it has then. Any socket of the namespace may ask.
func setupMTU(name string, want int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket for SIOCGIFMTU: %w", err)
	}
	defer unix.Close(fd)
	r := newIfreq(name)
	if err := ioctlIfreq(fd, unix.SIOCGIFMTU, r); err != nil {
		return 0, fmt.Errorf("SIOCGIFMTU: %w", err)
	}
	have := int(int32(binary.NativeEndian.Uint32(r.data[:])))
	if want == 0 || want == have {
		return have, nil
	}
	binary.NativeEndian.PutUint32(r.data[:], uint32(want))
	if err := ioctlIfreq(fd, unix.SIOCSIFMTU, r); err != nil {
		return 0, fmt.Errorf("set MTU %d (it has %d; this needs CAP_NET_ADMIN): %w", want, have, err)
	}
	return want, nil
}

// queueLength is how many frames wait in each queue of a tap for the stack to read
// them. The kernel's 500 (TUN_READQ_SIZE of drivers/net/tun.c) last for less than 3 ms
// of small datagrams: with 2000, 1.4 times as many of a flood arrive.
const queueLength = 2000

// lengthen gives a tap that ends with its descriptor a queue of queueLength, unless
// it has a longer one. One that is persistent is left as its owner made it.
func lengthen(fd int, name string) error {
	r := new(ifreq)
	if err := ioctlIfreq(fd, unix.TUNGETIFF, r); err != nil {
		return fmt.Errorf("TUNGETIFF: %w", err)
	}
	if r.flags()&unix.IFF_PERSIST != 0 {
		return nil
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket for SIOCGIFTXQLEN: %w", err)
	}
	defer unix.Close(s)
	r = newIfreq(name)
	if err := ioctlIfreq(s, unix.SIOCGIFTXQLEN, r); err != nil {
		return fmt.Errorf("SIOCGIFTXQLEN: %w", err)
	}
	if have := int32(binary.NativeEndian.Uint32(r.data[:])); have >= queueLength {
		return nil
	}
	binary.NativeEndian.PutUint32(r.data[:], queueLength)
	if err := ioctlIfreq(s, unix.SIOCSIFTXQLEN, r); err != nil {
		return fmt.Errorf("SIOCSIFTXQLEN %d (this needs CAP_NET_ADMIN): %w", queueLength, err)
	}
	return nil
}
