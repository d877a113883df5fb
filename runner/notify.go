package runner

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctls of include/uapi/linux/seccomp.h that x/sys does not have.
const (
	ioctlIDValid  = 0x40082102
	ioctlAddFD    = 0x40182103
	ioctlSetFlags = 0x40082104
)

// A notification is struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32 // the thread's
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// A response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

// An addFD is struct seccomp_notif_addfd.
type addFD struct {
	id         uint64
	flags      uint32
	srcFD      uint32
	newFD      uint32
	newFDFlags uint32
}

// A notifier is the descriptor of a filter.
type notifier struct{ fd int }

// receive takes a call that poll has found. ENOENT says that the thread that called has gone.
func (n notifier) receive(out *notification) error {
	*out = notification{} // the kernel insists
	_, _, errno := syscall.Syscall(unix.SYS_IOCTL, uintptr(n.fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(out)))
	if errno != 0 {
		return errno
	}
	return nil
}

func (n notifier) send(r *response) error {
	for {
		_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(n.fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(r)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}

func (n notifier) valid(id uint64) bool {
	_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(n.fd), ioctlIDValid, uintptr(unsafe.Pointer(&id)))
	return errno == 0
}

// addFD gives the caller a descriptor, and with SECCOMP_ADDFD_FLAG_SEND its number as the
// result of the call. The calling thread must have its signals blocked: one that
// interrupts the ioctl in the middle makes the call answer 0.
func (n notifier) addFD(a *addFD) (int, error) {
	fd, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(n.fd), ioctlAddFD, uintptr(unsafe.Pointer(a)))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// setSyncWakeup asks that the caller and the supervisor take turns on one CPU, which
// kernels since 6.6 can do.
func (n notifier) setSyncWakeup() {
	_, _, _ = syscall.RawSyscall(unix.SYS_IOCTL, uintptr(n.fd), ioctlSetFlags, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
}

// blockSignals blocks all signals of this thread and returns what undoes it. The goroutine
// must be locked to it.
func blockSignals() (restore func(), err error) {
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return nil, err
	}
	return func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) }, nil
}
