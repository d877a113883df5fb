package runner

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// newFar makes the far end of a connection: a socket whose peer is the program's, which has no
// peer yet and whose peer it becomes by join.
func (d *dgram) newFar(c *call) (int, error) {
	if err := d.withFD(c, d.nameIt); err != nil {
		return -1, err
	}
	far, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(far, &unix.SockaddrUnix{Name: peerName('f', inodeOf(far)&(1<<48-1), d.s.domain == unix.AF_INET6)})
	if err == nil {
		err = unix.Connect(far, &unix.SockaddrUnix{Name: d.name()})
	}
	if err != nil {
		unix.Close(far)
		return -1, err
	}
	return far, nil
}

// join connects the program's socket to its far end. From then on nobody else can send to it.
func (d *dgram) join(c *call, far int) error {
	name, err := unix.Getsockname(far)
	if err != nil {
		return err
	}
	return d.withFD(c, func(fd int) error { return unix.Connect(fd, name) })
}

// leave takes the program's socket off its peer, and returns what is in its queue.
func (d *dgram) leave(c *call) (queue []inbound) {
	_ = d.withFD(c, func(fd int) error {
		queue = d.drainQueue(fd)
		disconnect(fd)
		return nil
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	unix.Close(d.far)
	d.far, d.remote = -1, netip.AddrPort{}
	return queue
}
