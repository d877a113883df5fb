package runner

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// interfaceRequests are the ioctls of netdevice(7) that ask for addresses. Only internet sockets
// answer them; the others, such as SIOCGIFCONF, a unix socket answers as well.
var interfaceRequests = []uint32{unix.SIOCGIFADDR, unix.SIOCGIFDSTADDR, unix.SIOCGIFBRDADDR, unix.SIOCGIFNETMASK}

// sizeofIfreq is the size of struct ifreq on 64-bit machines.
const sizeofIfreq = 40

// interfaceIoctl asks the kernel in the program's network namespace, where it has the image of
// the stack's link.
func interfaceIoctl(c *call) verdict {
	var req [sizeofIfreq]byte
	if errno := c.read(c.args[2], req[:]); errno != 0 {
		return fail(errno)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return native
	}
	defer unix.Close(fd)
	_, _, errno := syscall.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(uint32(c.args[1])), uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return fail(errno)
	}
	return answer(c.write(c.args[2], req[:]))
}
