package netns

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The commands that turn one offload off, those first that others depend on.
var offloadCommands = []struct {
	cmd  uint32
	name string
}{
	{unix.ETHTOOL_SGRO, "receive merging"},
	{unix.ETHTOOL_SGSO, "generic segmentation"},
	{unix.ETHTOOL_STSO, "TCP segmentation"},
	{unix.ETHTOOL_SSG, "scatter-gather"},
	{unix.ETHTOOL_STXCSUM, "transmit checksums"},
	{unix.ETHTOOL_SRXCSUM, "receive checksums"},
}

// ethtoolValue is struct ethtool_value of include/uapi/linux/ethtool.h.
type ethtoolValue struct{ cmd, data uint32 }

// NoOffloads turns checksum, segmentation and receive offloads of an interface off, as
// `ethtool -K IF rx off tx off sg off tso off gso off gro off` does.
func (ns *NS) NoOffloads(ifname string) error {
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("netns: socket for ethtool: %w", err)
		}
		defer unix.Close(fd)
		for _, c := range offloadCommands {
			v := ethtoolValue{cmd: c.cmd, data: 0}
			// struct ifreq of include/uapi/linux/if.h, with ifr_data.
			var ifr struct {
				name [unix.IFNAMSIZ]byte
				data *ethtoolValue
				_    [16]byte
			}
			copy(ifr.name[:unix.IFNAMSIZ-1], ifname)
			ifr.data = &v
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
				return fmt.Errorf("netns: %s: turn %s of %s off: %w", ns.name, c.name, ifname, errno)
			}
		}
		return nil
	})
}
