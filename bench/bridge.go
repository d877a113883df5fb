package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/spec"
	"github.com/ustack/ustack/link/tap"
)

// A bridge is a wire between the kernels of two namespaces: the frames of a device
// in one, which may be impaired, and those of a tap in the other.
type bridge struct {
	ends [2]link.Device
	done sync.WaitGroup
}

// newBridge opens the link of a SPEC in the namespace of the process, and a tap
// without offloads in the namespace that is open as descriptor 3.
func newBridge(text string) (*bridge, error) {
	sp, err := spec.Parse(text)
	if err != nil {
		return nil, err
	}
	near, err := spec.Open(sp, spec.Env{})
	if err != nil {
		return nil, err
	}
	far, err := openFar(os.NewFile(3, "far namespace"), tap.OffloadOff)
	if err != nil {
		near.Close()
		return nil, err
	}
	b := &bridge{ends: [2]link.Device{near, far}}
	for i := range b.ends {
		from, to := b.ends[i].Queues()[0], b.ends[1-i].Queues()[0]
		b.done.Go(func() { forward(from, to) })
	}
	return b, nil
}

func openFar(space *os.File, offload string) (dev link.Device, err error) {
	if space == nil {
		return nil, errors.New("a bridge needs a namespace as descriptor 3")
	}
	defer space.Close()
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err = unix.Setns(int(space.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter the far namespace: %w", err)
			return
		}
		dev, err = tap.Open(tap.Config{Name: tapName, Offload: offload})
	}()
	<-opened
	return dev, err
}

// forward passes frames until one of the devices ends.
func forward(from, to link.Queue) {
	const batch = 64
	frames, out := make([]link.Frame, batch), make([]link.OutFrame, batch)
	for i := range frames {
		frames[i].Buf = make([]byte, link.MaxFrame)
		out[i].Pieces = make([][]byte, 1)
	}
	for {
		n, err := from.Read(frames)
		if err != nil {
			return
		}
		for i, f := range frames[:n] {
			out[i].Pieces[0], out[i].Offload = f.Buf[:f.N], f.Offload
		}
		if _, err := to.Write(out[:n]); err != nil {
			return
		}
	}
}

func (b *bridge) close() {
	for _, d := range b.ends {
		d.Close()
	}
	b.done.Wait()
}
