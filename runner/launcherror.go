package runner

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A LaunchError says why a program could not be started.
type LaunchError struct {
	// Step is "seccomp", "exec", "namespaces", "proc", "watch", "access" or "start".
	Step string
	Path string
	Err  error
}

func (e *LaunchError) Error() string {
	errno, _ := e.Err.(syscall.Errno)
	switch {
	case e.Step == "exec":
		return fmt.Sprintf("run %s: %v", e.Path, e.Err)
	case e.Step == "namespaces":
		return fmt.Sprintf("run %s: no network namespace for it: %s: run this as root, or with --share-net: "+
			"then it stays in this network namespace, and looks up names at the servers of this host's /etc/resolv.conf", e.Path, namespaceReason(e.Err))
	case e.Step == "proc":
		return fmt.Sprintf("run %s: there is no /proc here: mount it first (mount -t proc proc /proc)", e.Path)
	case e.Step == "watch":
		return fmt.Sprintf("a process may not look into another here (%v): a container's seccomp profile has to allow "+
			"pidfd_open, pidfd_getfd, process_vm_readv and process_vm_writev, as Docker's does with --cap-add SYS_PTRACE", e.Err)
	case e.Step == "access":
		return fmt.Sprintf("run %s: ustack may not look into it (%v): %s", e.Path, e.Err, accessReason())
	case errno == unix.EBUSY:
		return "a supervisor of system calls watches this process already: ustack run cannot run inside ustack run"
	case e.Step == "seccomp" && (errno == unix.ENOSYS || errno == unix.EINVAL):
		return "this kernel does not pass system calls to a supervisor (seccomp user notification, Linux 5.14): ustack curl, ustack ping and ustack nc do without"
	case e.Step == "seccomp" && errno == unix.EPERM:
		return "system calls may not be passed to a supervisor here (seccomp: operation not permitted): a container's seccomp profile has to allow seccomp, pidfd_open, pidfd_getfd, process_vm_readv and process_vm_writev"
	}
	return fmt.Sprintf("start %s: %s: %v", e.Path, e.Step, e.Err)
}

// Unwrap returns the cause.
func (e *LaunchError) Unwrap() error { return e.Err }

// Is makes errors.Is find ErrNotSupported.
func (e *LaunchError) Is(target error) bool {
	errno, _ := e.Err.(syscall.Errno)
	return target == ErrNotSupported && e.Step == "seccomp" && (errno == unix.ENOSYS || errno == unix.EINVAL)
}

// accessReason says why the kernel does not let a supervisor look into its program.
func accessReason() string {
	if b, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); err == nil {
		switch scope := strings.TrimSpace(string(b)); scope {
		case "3":
			return "sysctl kernel.yama.ptrace_scope is 3, which forbids that to everybody until the next boot"
		case "2":
			return "sysctl kernel.yama.ptrace_scope is 2: run this as root"
		}
	}
	return "its file has to be readable for you, or run this as root"
}

// namespaceReason says why the kernel does not let this user make namespaces.
func namespaceReason(err error) string {
	for _, s := range []struct{ path, forbids, text string }{
		{"kernel/unprivileged_userns_clone", "0", "user namespaces are for root only (sysctl kernel.unprivileged_userns_clone is 0)"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor restricts user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns is 1)"},
		{"user/max_user_namespaces", "0", "user namespaces are switched off (sysctl user.max_user_namespaces is 0)"},
		{"user/max_net_namespaces", "0", "network namespaces are switched off (sysctl user.max_net_namespaces is 0)"},
	} {
		if b, rerr := os.ReadFile("/proc/sys/" + s.path); rerr == nil && strings.TrimSpace(string(b)) == s.forbids {
			return s.text
		}
	}
	return err.Error()
}
