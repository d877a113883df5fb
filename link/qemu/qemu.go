// Package qemu carries Ethernet frames over sockets as QEMU's network back-ends do
// (qemu(1), -netdev stream and -netdev dgram; net/stream.c, net/dgram.c of QEMU):
//
//	stream   a unix or TCP stream, each frame behind its length in 4 bytes, big-endian
//	         (what -netdev socket speaks over TCP, too)
//	dgram    a unix or UDP datagram socket, one frame a datagram
//	packets  an inherited unix socket of packets, one frame each (SOCK_DGRAM, SOCK_SEQPACKET)
//
// Frames are ordinary ones: nothing is offloaded. The host has no interface behind such
// a wire.
//
// # Back-pressure
//
// A peer that takes no more frames fills first the kernel's buffers and then a queue of this package,
// which loses nothing and resumes when the peer does. Beyond its bound frames are dropped and counted.
//
// QEMU itself stops reading its tap instead, and resumes when its guest has room: what waits, and is
// dropped by the kernel at last, is that guest's alone. Whoever reads for a peer here reads for other
// ports, too, and they would wait. Beside a port that takes 10 of the 20 MB/s of datagrams sent to it
// a TCP stream to another port keeps 800 MB/s and a round trip of 0.7 ms; if the switch waited, it would
// have 15 to 30 MB/s and up to 90 ms. Beside a port that stands still it keeps 1000 MB/s, or would have
// nothing at all. Where all that goes to the slow port is TCP, its windows hold that back, and both ways
// cost the same (BenchmarkSlowPort in package bridge, two processors).
package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ustack/ustack/link"
)

// DefaultBuffer is how many bytes of frames wait for a peer that does not take them.
const DefaultBuffer = 1 << 20

// common is what the Devices of this package share: what they state, count and how they end.
type common struct {
	link.Counters
	info link.Info
	log  *slog.Logger
	said atomic.Int64 // when a warning was logged, UnixNano

	mu     sync.Mutex
	ended  error // why, once it has
	work   sync.WaitGroup
	done   chan struct{} // closed with ended
	closed sync.Once
}

func (c *common) init(kind, name string, mtu int, log *slog.Logger) error {
	if mtu == 0 {
		mtu = link.DefaultMTU
	}
	if err := link.CheckMTU(mtu); err != nil {
		return fmt.Errorf("qemu: %s %s: %w", kind, name, err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c.info = link.Info{Name: name, Kind: kind, MTU: mtu, Driver: "socket"}
	c.log = log.With("link", name)
	c.done = make(chan struct{})
	return nil
}

// Info implements link.Device.
func (c *common) Info() link.Info {
	i := c.info
	i.HardwareAddr = bytes.Clone(i.HardwareAddr)
	return i
}

// end notes why the Device has ended, once. It says whether this was the first time.
func (c *common) end(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endLocked(err)
}

func (c *common) endLocked(err error) bool {
	if c.ended == nil {
		c.ended = err
		close(c.done)
		return true
	}
	if errors.Is(err, link.ErrClosed) {
		c.ended = err // what is closed is closed, though the wire went before
	}
	return false
}

// over returns why the Device has ended, or nil.
func (c *common) over() error {
	select {
	case <-c.done:
	default:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// warn logs at most once a second.
func (c *common) warn(text string, args ...any) {
	now, last := time.Now().UnixNano(), c.said.Load()
	if now-last >= int64(time.Second) && c.said.CompareAndSwap(last, now) {
		c.log.Warn(text, args...)
	}
}

// network returns "unix" for a path and "tcp" or "udp" for HOST:PORT.
func network(address, other string) string {
	if host, port, err := net.SplitHostPort(address); err == nil && port != "" && !bytes.ContainsRune([]byte(host), '/') {
		return other
	}
	return "unix"
}
