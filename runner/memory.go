package runner

import (
	"encoding/binary"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxRead bounds what one call reads of the program's memory at a time, in bytes.
const maxRead = 1 << 20

// read fills b from the program's memory at addr, or fails with EFAULT.
func (c *call) read(addr uint64, b []byte) syscall.Errno {
	return c.memory(unix.SYS_PROCESS_VM_READV, addr, b)
}

// write copies b to the program's memory at addr, or fails with EFAULT.
func (c *call) write(addr uint64, b []byte) syscall.Errno {
	return c.memory(unix.SYS_PROCESS_VM_WRITEV, addr, b)
}

// writeBoth is write of two values at once.
func (c *call) writeBoth(addr uint64, b []byte, addr2 uint64, b2 []byte) syscall.Errno {
	if len(b) == 0 {
		return c.write(addr2, b2)
	}
	if addr == 0 || addr2 == 0 {
		return unix.EFAULT
	}
	local := [2]unix.Iovec{{Base: &b[0]}, {Base: &b2[0]}}
	local[0].SetLen(len(b))
	local[1].SetLen(len(b2))
	remote := [2]unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}, {Base: uintptr(addr2), Len: len(b2)}}
	n, _, errno := syscall.RawSyscall6(unix.SYS_PROCESS_VM_WRITEV, uintptr(c.tid), uintptr(unsafe.Pointer(&local)), 2,
		uintptr(unsafe.Pointer(&remote)), 2, 0)
	return moved(int(n), errno, len(b)+len(b2))
}

func (c *call) memory(nr uintptr, addr uint64, b []byte) syscall.Errno {
	if len(b) == 0 {
		return 0
	}
	if addr == 0 || len(b) > maxRead {
		return unix.EFAULT
	}
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	remote := unix.RemoteIovec{Base: uintptr(addr), Len: len(b)}
	n, _, errno := syscall.RawSyscall6(nr, uintptr(c.tid), uintptr(unsafe.Pointer(&local)), 1,
		uintptr(unsafe.Pointer(&remote)), 1, 0)
	return moved(int(n), errno, len(b))
}

// moved is the answer to a transfer of n bytes of want.
func moved(n int, errno syscall.Errno, want int) syscall.Errno {
	switch {
	case errno == unix.ESRCH:
		return unix.ESRCH
	case errno != 0 || n != want:
		return unix.EFAULT
	}
	return 0
}

// mayWatch says whether what takes descriptors and memory out of another process is there at all, by
// doing it to this one.
func mayWatch() error {
	pidfd, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, pidfd, 0)
	if err != nil {
		return err
	}
	unix.Close(fd)
	var from, to [1]byte
	local := []unix.Iovec{{Base: &to[0]}}
	local[0].SetLen(1)
	remote := []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&from[0])), Len: 1}}
	if _, err = unix.ProcessVMReadv(unix.Getpid(), local, remote, 0); err == nil {
		_, err = unix.ProcessVMWritev(unix.Getpid(), local, remote, 0)
	}
	runtime.KeepAlive(&from)
	return err
}

// readInt reads an int of the program's.
func (c *call) readInt(addr uint64) (int, syscall.Errno) {
	var b [4]byte
	errno := c.read(addr, b[:])
	return int(int32(binary.NativeEndian.Uint32(b[:]))), errno
}

// writeInt writes an int of the program's.
func (c *call) writeInt(addr uint64, v int) syscall.Errno {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(int32(v)))
	return c.write(addr, b[:])
}

// writeValue writes a value and its length as getsockopt and getsockname do: no more than the
// room that *lenp tells. full says that *lenp becomes the value's whole length even so,
// as with addresses.
func (c *call) writeValue(addr, lenp uint64, value []byte, full bool) syscall.Errno {
	room, errno := c.readInt(lenp)
	if errno != 0 {
		return errno
	}
	if room < 0 {
		return unix.EINVAL
	}
	n := min(room, len(value))
	told := n
	if full {
		told = len(value)
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(int32(told)))
	return c.writeBoth(addr, value[:n], lenp, b[:])
}

// hostOrder is the order of numbers in the program's structures.
var hostOrder = binary.NativeEndian

func itoa(n int) string { return strconv.Itoa(n) }
