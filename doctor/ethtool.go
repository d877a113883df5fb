package doctor

import (
	"context"
	"encoding/binary"
	"runtime"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Interface flags of include/uapi/linux/if.h that matter here.
const (
	iffUp      = unix.IFF_UP
	iffNoARP   = unix.IFF_NOARP
	iffLowerUp = unix.IFF_LOWER_UP
)

// gatherEthtool asks the tap and its fellow ports.
func gatherEthtool(_ context.Context, _ *Config, env *Environment) {
	tap := env.Tap()
	if tap == nil {
		return
	}
	links := []netlink.Link{tap}
	if m := env.Master(); m != nil {
		links = append(links, env.Ports(m)...)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		env.notef("ethtool: %v", err)
		return
	}
	defer unix.Close(fd)
	env.Ethtool = make(map[string]Ethtool)
	for _, l := range links {
		env.Ethtool[l.Attrs().Name] = askEthtool(fd, l.Attrs().Name)
	}
}

// ethtoolCmd is struct ethtool_cmd, 44 bytes: speed is a u16 at 12 with its upper half
// at 28, duplex a byte at 14 (include/uapi/linux/ethtool.h).
const ethtoolCmdLen = 44

func askEthtool(fd int, name string) (e Ethtool) {
	var cmd [ethtoolCmdLen]byte
	binary.NativeEndian.PutUint32(cmd[:], unix.ETHTOOL_GSET)
	if ethtoolIoctl(fd, name, unsafe.Pointer(&cmd)) == nil {
		e.Known = true
		e.Speed = uint32(binary.NativeEndian.Uint16(cmd[12:])) | uint32(binary.NativeEndian.Uint16(cmd[28:]))<<16
		if e.Speed == 0xffff || e.Speed == 0xffffffff { // SPEED_UNKNOWN, of 16 and of 32 bits
			e.Speed = 0
		}
		e.Duplex = "unknown"
		switch cmd[14] {
		case 0:
			e.Duplex = "half"
		case 1:
			e.Duplex = "full"
		}
	}
	e.TxChecksum = ethtoolValue(fd, name, unix.ETHTOOL_GTXCSUM)
	e.TSO = ethtoolValue(fd, name, unix.ETHTOOL_GTSO)
	return e
}

// ethtoolValue asks for one of the values that struct ethtool_value holds.
func ethtoolValue(fd int, name string, cmd uint32) bool {
	v := [2]uint32{cmd, 0}
	return ethtoolIoctl(fd, name, unsafe.Pointer(&v)) == nil && v[1] != 0
}

// ethtoolIoctl makes a request; data is what ifr_data points to.
func ethtoolIoctl(fd int, name string, data unsafe.Pointer) error {
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:unix.IFNAMSIZ-1], name)
	ifr.data = data
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr)))
	runtime.KeepAlive(data)
	if errno != 0 {
		return errno
	}
	return nil
}

// setSpeed states a speed in Mbit/s and full duplex (ETHTOOL_SSET).
func setSpeed(name string, speed uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var cmd [ethtoolCmdLen]byte
	binary.NativeEndian.PutUint32(cmd[:], unix.ETHTOOL_GSET)
	if err := ethtoolIoctl(fd, name, unsafe.Pointer(&cmd)); err != nil {
		return err
	}
	binary.NativeEndian.PutUint32(cmd[:], unix.ETHTOOL_SSET)
	binary.NativeEndian.PutUint16(cmd[12:], uint16(speed))
	binary.NativeEndian.PutUint16(cmd[28:], uint16(speed>>16))
	cmd[14] = 1 // full
	cmd[18] = 0 // no autonegotiation
	return ethtoolIoctl(fd, name, unsafe.Pointer(&cmd))
}

// setCarrier sets IFLA_CARRIER of an interface.
func setCarrier(l netlink.Link, on bool) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Attrs().Index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_CARRIER, []byte{byte(boolInt(on))}))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
