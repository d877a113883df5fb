package hostnet

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A namespace is a network namespace: where it was entered and how it is told
// from others.
type namespace struct {
	handle netns.NsHandle
	// inode of the namespace in nsfs. The kernel uses the number again once the
	// namespace is gone.
	inode uint64
	// cookie is unique until the next boot (SO_NETNS_COOKIE, Linux 5.14), 0 where
	// the kernel has none.
	cookie uint64
}

// currentNamespace returns the calling thread's.
func currentNamespace() (namespace, error) {
	handle, err := netns.Get()
	if err != nil {
		return namespace{}, fmt.Errorf("open the network namespace: %w", err)
	}
	ns := namespace{handle: handle}
	var st unix.Stat_t
	if err := unix.Fstat(int(handle), &st); err != nil {
		handle.Close()
		return namespace{}, fmt.Errorf("identify the network namespace: %w", err)
	}
	ns.inode = st.Ino
	if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
		// Old kernels answer ENOPROTOOPT: the inode must do.
		ns.cookie, _ = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		unix.Close(fd)
	}
	return ns, nil
}

func (ns *namespace) close() { ns.handle.Close() }

// do runs f on a thread that is in the namespace. Below /proc/sys/net a file
// belongs to the namespace of the thread that opens it. Only a caller elsewhere
// needs CAP_SYS_ADMIN.
func (ns *namespace) do(f func() error) error {
	runtime.LockOSThread()
	here, err := currentNamespace()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer here.close()
	if here.inode == ns.inode {
		defer runtime.UnlockOSThread()
		return f()
	}
	if err := netns.Set(ns.handle); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network namespace of the tap: %w", err)
	}
	err = f()
	if back := netns.Set(here.handle); back != nil {
		// The thread stays locked: it ends with its goroutine instead of running
		// others in the wrong namespace.
		if err == nil {
			err = fmt.Errorf("leave the network namespace of the tap: %w", back)
		}
		return err
	}
	runtime.UnlockOSThread()
	return err
}

// bootID returns the kernel's identity of this boot, "" where there is none.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(b) < 36 {
		return ""
	}
	return string(b[:36])
}
