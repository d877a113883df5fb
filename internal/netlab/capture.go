package netlab

import (
	"encoding/binary"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Frame is one Ethernet frame as the kernel saw it on an interface. With
// offloads it may be larger than the MTU.
type Frame struct {
	At time.Time
	// Out is true for what the kernel sent to the interface: on a tap, what the
	// stack reads.
	Out bool
	// Len is the whole length in bytes; Data holds the first 2048 at most.
	Len  int
	Data []byte
}

// Dst, Src and EtherType are the fields of the Ethernet header, zero in a frame too
// short to have them.
func (f Frame) Dst() net.HardwareAddr { return f.mac(0) }
func (f Frame) Src() net.HardwareAddr { return f.mac(6) }
func (f Frame) EtherType() uint16 {
	if len(f.Data) < 14 {
		return 0
	}
	return binary.BigEndian.Uint16(f.Data[12:])
}

func (f Frame) mac(at int) net.HardwareAddr {
	if len(f.Data) < at+6 {
		return make(net.HardwareAddr, 6)
	}
	return net.HardwareAddr(f.Data[at : at+6])
}

// A Capture collects the frames of one interface until the end of the test.
type Capture struct {
	f    *os.File
	done chan struct{}

	mu     sync.Mutex
	frames []Frame
	more   chan struct{} // closed and replaced at each frame
	err    error
}

// Capture begins to collect every frame of an interface, in both directions. Frames
// from before the call are not in it, those after it are. Do not look at fragments
// that the namespace forwards with NAT: the kernel puts them together and apart again in
// the same buffers, at times before they are read here.
func (ns *NS) Capture(t testing.TB, ifname string) *Capture {
	t.Helper()
	index := ns.Link(t, ifname).Attrs().Index
	c := &Capture{done: make(chan struct{}), more: make(chan struct{})}
	ns.Do(t, func() {
		// Protocol 0 until it is bound: nothing of another interface gets in.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatalf("netlab: %s: open a packet socket: %v", ns.name, err)
		}
		c.f = os.NewFile(uintptr(fd), "capture "+ifname)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			t.Fatalf("netlab: %s: capture buffer: %v", ns.name, err)
		}
		all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
			t.Fatalf("netlab: %s: capture on %s: %v", ns.name, ifname, err)
		}
	})
	go c.read()
	t.Cleanup(c.Stop)
	return c
}

func (c *Capture) read() {
	defer close(c.done)
	rc, err := c.f.SyscallConn()
	if err != nil {
		c.end(err)
		return
	}
	buf := make([]byte, 1<<17)
	for {
		var n int
		var from unix.Sockaddr
		var rerr error
		err := rc.Read(func(fd uintptr) bool {
			n, from, rerr = unix.Recvfrom(int(fd), buf, unix.MSG_TRUNC)
			return rerr != unix.EAGAIN
		})
		if err != nil {
			c.end(nil) // stopped
			return
		}
		if rerr == unix.EINTR || rerr == unix.ENETDOWN { // the interface went down; more may come
			continue
		}
		if rerr != nil {
			c.end(rerr)
			return
		}
		f := Frame{At: time.Now(), Len: n, Data: append([]byte(nil), buf[:min(n, 2048)]...)}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			if ll.Pkttype == unix.PACKET_LOOPBACK {
				continue // the kernel's copy for itself of a multicast it sends
			}
			f.Out = ll.Pkttype == unix.PACKET_OUTGOING
		}
		c.mu.Lock()
		c.frames = append(c.frames, f)
		close(c.more)
		c.more = make(chan struct{})
		c.mu.Unlock()
	}
}

func (c *Capture) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// Frames returns what has been collected so far.
func (c *Capture) Frames() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Frame(nil), c.frames...)
}

// Wait returns the first frame that matches, waiting for it if need be.
func (c *Capture) Wait(t testing.TB, timeout time.Duration, what string, match func(Frame) bool) Frame {
	t.Helper()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	seen := 0
	for {
		c.mu.Lock()
		frames, more := c.frames[seen:], c.more
		c.mu.Unlock()
		for _, f := range frames {
			if match(f) {
				return f
			}
		}
		seen += len(frames)
		select {
		case <-more:
		case <-timer.C:
			t.Fatalf("netlab: no frame that is %s within %v (%d others)", what, timeout, seen)
		}
	}
}

// Lost returns how many frames did not fit into the socket's buffer since it was
// last asked.
func (c *Capture) Lost(t testing.TB) int {
	t.Helper()
	rc, err := c.f.SyscallConn()
	if err != nil {
		t.Fatalf("netlab: capture: %v", err)
	}
	var drops uint32
	var serr error
	if err := rc.Control(func(fd uintptr) {
		var st *unix.TpacketStats
		if st, serr = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); serr == nil {
			drops = st.Drops
		}
	}); err != nil || serr != nil {
		t.Fatalf("netlab: capture statistics: %v %v", err, serr)
	}
	return int(drops)
}

// Stop ends the collection. Twice is harmless.
func (c *Capture) Stop() {
	c.f.Close()
	<-c.done
}

// Injector returns a function that sends a whole Ethernet frame out of an interface:
// on a tap, to whoever holds it. A frame that the kernel refuses is an error.
func (ns *NS) Injector(t testing.TB, ifname string) func(frame []byte) error {
	t.Helper()
	index := ns.Link(t, ifname).Attrs().Index
	fd := -1
	ns.Do(t, func() {
		var err error
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Fatalf("netlab: %s: open a packet socket: %v", ns.name, err)
		}
	})
	t.Cleanup(func() { unix.Close(fd) })
	return func(frame []byte) error {
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6})
	}
}
