package demo

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// runAgain runs the demo in a process of its own, as root of a user namespace in
// which it may make network namespaces. started is false where the kernel does not
// permit that to this user.
func runAgain(cmd *exec.Cmd) (started bool, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	// The signal of Pdeathsig comes when the *thread* ends that made the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("make a user namespace: %w", err)
	}
	return true, cmd.Wait()
}
