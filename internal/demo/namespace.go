package demo

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// A namespace is a network namespace without a name. A thread of this process
// lives in it and an open file holds it; when both are gone, and with them every
// socket and interface in it, the kernel removes it.
type namespace struct {
	file *os.File
	work chan func()
	done sync.WaitGroup
}

// newNamespace makes a namespace. The error wraps EPERM where that is not
// permitted.
func newNamespace() (*namespace, error) {
	ns := &namespace{work: make(chan func())}
	ready := make(chan error)
	ns.done.Go(func() {
		// Never unlocked, so that the thread ends with the goroutine and does not
		// carry the namespace back into the pool.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
			err = fmt.Errorf("make a network namespace: %w", err)
		} else {
			ns.file, err = os.Open("/proc/thread-self/ns/net")
		}
		ready <- err
		if err != nil {
			return
		}
		for f := range ns.work {
			f()
		}
	})
	if err := <-ready; err != nil {
		ns.done.Wait()
		return nil, err
	}
	return ns, nil
}

// do runs f on the thread that lives in the namespace. What f opens stays in the
// namespace, whoever uses it.
func (ns *namespace) do(f func() error) error {
	result := make(chan error)
	ns.work <- func() { result <- f() }
	return <-result
}

func (ns *namespace) close() error {
	close(ns.work)
	ns.done.Wait()
	return ns.file.Close()
}
