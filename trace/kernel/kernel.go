// Package kernel follows frames through the Linux kernel by its tracepoints: each
// time a frame is queued on a device, handed to its driver, received, copied to the
// reader of a tap, dropped or thrown away by ARP there is one Event, with the
// device, the head of the frame and, for a drop, the kernel's reason and function.
//
// Open chooses by what the kernel allows. With BPF, small programs run at the raw
// tracepoints; they are assembled at run time from the kernel's own BTF, so that no
// compiler and no kernel headers are needed, and they leave out other namespaces
// inside the kernel. Without it, an instance of tracefs of our own gives the same
// steps as text: no head of the frame, times in microseconds, and of namespaces only
// the names of their devices, but for lo, which each of them has. What is told of a
// buffer alone, such as a drop, has the device on which it was just before; else it is
// left out, but for a write to a tap that is refused. Lockdown allows both ways where
// it denies kprobes and fentry.
//
// Event.Text says a step in words; a Follower recognises a packet at all its steps, on
// every device and through address translation.
//
// Nothing is left behind: programs and ring end with their descriptors, the
// instance of tracefs is removed by Close, and what a killed process left of it by
// the next Open.
package kernel

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Errors of Open and Read.
var (
	// ErrClosed is what Read returns once the Source is closed.
	ErrClosed = os.ErrClosed
	// ErrUnsupported is wrapped by the error of Open when the kernel, or this
	// process's rights, allow no way of tracing; the text says what is missing.
	ErrUnsupported = errors.ErrUnsupported
)

// The ways of Config.Via and Source.Via.
const (
	ViaBPF     = "bpf"
	ViaTracefs = "tracefs"
)

// Steps, named after the tracepoints.
const (
	Queue     = "net_dev_queue"           // handed to a device's queue
	StartXmit = "net_dev_start_xmit"      // handed to the driver
	Xmit      = "net_dev_xmit"            // the driver's answer, in RC
	NetifRx   = "netif_rx"                // put on a CPU's backlog by a virtual driver
	GRO       = "napi_gro_receive_entry"  // given to GRO, which may merge it
	Receive   = "netif_receive_skb"       // received by the stack, or by a bridge's port
	Drop      = "kfree_skb"               // dropped: Reason, Where
	Consume   = "consume_skb"             // done with, without a drop: Where
	CopyOut   = "skb_copy_datagram_iovec" // copied to a process that reads a tap or, with Socket, a socket
	TCPTake   = "tcp_probe"               // taken by the TCP connection it is for
	Ready     = "sk_data_ready"           // queued for the UDP socket at Port
	ICMPSend  = "icmp_send"               // answered with an ICMP error: ICMPType, ICMPCode
	TCPReset  = "tcp_send_reset"          // answered with a TCP reset: Reason
)

// Config says what to follow. The zero value follows the caller's namespace.
type Config struct {
	// NetNS are the network namespaces to follow, by the inode of their file in
	// nsfs; none means that of the calling thread. At most 64.
	NetNS    []uint64
	AllNetNS bool         // follow every namespace; NetNS is not looked at
	Logger   *slog.Logger // nil discards
	Snap     int          // bytes of each frame; 0 means 128, at most 1024
	// Via forces one way: ViaBPF, ViaTracefs; "" tries them in this order.
	Via string
	// Buffer is the size of the kernel's buffer in bytes, of tracefs for each CPU,
	// rounded up to a power of two; 0 means 8 MiB. A frame takes about 300 bytes at
	// each of its steps.
	Buffer int
}

const (
	defaultSnap   = 128
	maxSnap       = 1024
	defaultBuffer = 8 << 20
	maxBuffer     = 1 << 30
	maxNetNS      = 64
)

// PktType is whom the frame is for, as the kernel saw it: PACKET_* of
// linux/if_packet.h.
type PktType uint8

// Values of PktType.
const (
	ToHost      PktType = unix.PACKET_HOST
	ToBroadcast PktType = unix.PACKET_BROADCAST
	ToMulticast PktType = unix.PACKET_MULTICAST
	ToOther     PktType = unix.PACKET_OTHERHOST
	Outgoing    PktType = unix.PACKET_OUTGOING
)

// An Event is one step of one frame. Fields that a step, or the way it was seen,
// does not give are zero.
type Event struct {
	Mono    time.Duration // CLOCK_MONOTONIC; Now gives the same clock
	CPU     int
	Step    string
	Dev     string
	IfIndex int
	InIndex int    // of the device the frame came in by, 0 for the host's own
	NetNS   uint64 // inode of the namespace; 0 with tracefs
	Skb     uint64 // identity of the kernel's buffer while it lives, nothing else
	Len     int    // bytes of the frame, from where Head begins; with tracefs, as the kernel counts at this step
	// Head begins with the Ethernet header or, with NoEth, with the network header.
	// It holds at most Snap bytes, and of a frame in pieces only the first.
	// Xmit comes after the buffer may be gone: its Head is that of StartXmit.
	Head      []byte
	NoEth     bool
	Proto     uint16 // EtherType as the kernel has it
	VLANProto uint16 // 0x8100 or 0x88a8 where a tag was taken out of the frame, else 0
	VLAN      uint16 // that tag's TCI
	PktType   PktType
	IPSummed  uint8 // CHECKSUM_NONE 0, UNNECESSARY 1, COMPLETE 2, PARTIAL 3
	GSOSize   int   // bytes of payload of each segment, 0 for a single packet
	GSOSegs   int
	// Reason is of Drop, as enum skb_drop_reason names it, without its prefix:
	// OTHERHOST, NO_SOCKET; a subsystem's own as OPENVSWITCH:3. Of TCPReset it is
	// enum sk_rst_reason. It is empty where the kernel gives none.
	Reason   string
	Where    string // function that dropped or consumed; empty where kallsyms hides it
	RC       int    // of Xmit: NETDEV_TX_* or NET_XMIT_*; 0 is success
	Port     uint16 // of Ready
	ICMPType uint8  // of ICMPSend
	ICMPCode uint8
	PID      int    // of CopyOut, the process that reads, as the first PID namespace counts
	Comm     string // the name of its thread
	Socket   bool   // of CopyOut: it reads a socket; UDP's reads are mostly not told
}

// A Source gives the events. Read is for one goroutine at a time; the other methods
// may be called at any time.
type Source struct {
	via   string
	feed  feed
	order order
	names names
	heads heads
	ready ready

	close sync.Once
	err   error
}

// A feed is one way to see tracepoints.
type feed interface {
	// read returns the next event as the kernel gave it, or an error that is
	// os.ErrDeadlineExceeded when there was none until deadline (zero: for ever), or
	// ErrClosed.
	read(deadline time.Time) (Event, error)
	// lost counts events that the kernel had no room for.
	lost() uint64
	// close ends read.
	io.Closer
}

// Open begins to follow. Its error wraps ErrUnsupported when neither BPF nor tracefs
// can be used.
func Open(c Config) (*Source, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if !c.AllNetNS && len(c.NetNS) == 0 {
		inode, err := netnsInode("/proc/thread-self/ns/net")
		if err != nil {
			return nil, fmt.Errorf("trace/kernel: find the namespace to follow: %w", err)
		}
		c.NetNS = []uint64{inode}
	}
	var refused []error
	for _, way := range []struct {
		via  string
		open func(Config) (feed, error)
	}{{ViaBPF, openBPF}, {ViaTracefs, openTracefs}} {
		if c.Via != "" && c.Via != way.via {
			continue
		}
		f, err := way.open(c)
		if err == nil {
			if len(refused) > 0 {
				c.Logger.Info("kernel steps by tracefs: without frame heads", "why", refused[0])
			}
			return &Source{via: way.via, feed: f}, nil
		}
		refused = append(refused, fmt.Errorf("%s: %w", way.via, err))
	}
	return nil, &unsupported{refused}
}

func (c *Config) check() error {
	switch {
	case c.Snap < 0 || c.Snap > maxSnap:
		return fmt.Errorf("trace/kernel: Snap of %d bytes: 0 to %d are possible", c.Snap, maxSnap)
	case c.Buffer < 0 || c.Buffer > maxBuffer:
		return fmt.Errorf("trace/kernel: Buffer of %d bytes: 0 to %d are possible", c.Buffer, maxBuffer)
	case len(c.NetNS) > maxNetNS:
		return fmt.Errorf("trace/kernel: %d namespaces: %d at most, or AllNetNS", len(c.NetNS), maxNetNS)
	case c.Via != "" && c.Via != ViaBPF && c.Via != ViaTracefs:
		return fmt.Errorf("trace/kernel: Via %q: %q, %q or empty", c.Via, ViaBPF, ViaTracefs)
	}
	if c.Snap == 0 {
		c.Snap = defaultSnap
	}
	if c.Buffer == 0 {
		c.Buffer = defaultBuffer
	}
	return nil
}

// netnsInode returns the identity of the namespace whose file is at path.
func netnsInode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// Now reads the clock of Event.Mono.
func Now() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return time.Duration(ts.Nano())
}

// Via tells which way was taken: ViaBPF or ViaTracefs.
func (s *Source) Via() string { return s.via }

// Lost returns how many events were lost since Open, because the kernel's buffer was
// full or a program was interrupted by itself.
func (s *Source) Lost() uint64 { return s.feed.lost() }

// Read returns the next event, in the order of time. To have them in order it holds
// each one back until it is Window old. It blocks; its error is ErrClosed after
// Close, or says what became of the kernel's buffer.
func (s *Source) Read() (Event, error) {
	for {
		e, deadline, ok := s.order.next(Now())
		if ok {
			if !s.complete(&e) {
				continue
			}
			return e, nil
		}
		e, err := s.feed.read(deadline)
		switch {
		case err == nil:
			s.order.add(e)
		case errors.Is(err, os.ErrDeadlineExceeded):
		case errors.Is(err, ErrClosed):
			return Event{}, ErrClosed
		default:
			return Event{}, fmt.Errorf("trace/kernel: read events: %w", err)
		}
	}
}

// complete fills in what earlier events tell of this one. It returns false if nothing
// tells of which frame it is.
func (s *Source) complete(e *Event) bool {
	s.names.complete(e)
	s.heads.complete(e)
	return s.ready.complete(e)
}

// Close ends Read and releases all that Open took. It waits for a Read in progress.
func (s *Source) Close() error {
	s.close.Do(func() { s.err = s.feed.Close() })
	return s.err
}
