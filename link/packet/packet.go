// Package packet carries frames over a network interface of the host by a packet
// socket (AF_PACKET, packet(7)): as they are, or each inside of a frame of the
// interface's, behind a header: Ethernet in Ethernet.
//
// # Beside the host
//
// The host goes on using the interface. A stack on it is another station: it needs a
// hardware address and IP addresses of its own. What is addressed to it the host sees as
// for another station (PACKET_OTHERHOST) and drops, so that the host answers no flow of the
// stack's; broadcasts reach both, and each answers for its own addresses. The host and a
// station on its interface do not hear each other, as with macvlan: what the host sends is
// not looped back.
//
// # Offloads
//
// With virtio headers (PACKET_VNET_HDR) frames received keep the checksum and
// segmentation state that they have in the kernel, and the kernel, or the interface,
// finishes those sent.
//
// # No ring
//
// Frames are received by recvmmsg(2), not from a ring in shared memory (TPACKET_V3). The
// ring was measured beside it over a veth pair, on one machine: to take a frame of 60 bytes
// out of it costs 0.03 µs instead of 0.7 to 1.1, of about 5 with what the kernel does for it
// on its way; for a super-frame of 32 KB both cost the same, 1.6 µs, which is the copy. But
// its reader is woken when a block is full or after a millisecond, which is 20 round trips,
// and the rings whose reader is woken for each frame (TPACKET_V2) have slots of one size, 64 KB with
// offloads. One recvmsg(2) for each frame costs a tenth more than recvmmsg, and another call
// to learn that there is no more.
package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/ifwatch"
	"github.com/ustack/ustack/link"
)

// A Config describes a packet socket. Interface is required.
type Config struct {
	// Interface is the name of a network interface of Ethernet kind in the namespace of the
	// calling thread.
	Interface string
	// Quiet leaves the interface's filter as it is: what is addressed to other stations than the
	// host may then not arrive. Else it is promiscuous as long as the Device is open.
	Quiet bool
	// Plain takes and gives ordinary frames only: what the kernel has of others is finished here.
	Plain bool
	// Envelope carries every frame inside of another; nil: as they are. Such frames are ordinary.
	Envelope *Envelope
	// MTU is in bytes; 0 means the interface's, less what the Envelope takes. It cannot exceed that.
	MTU int
	// Logger may be nil.
	Logger *slog.Logger
}

// device is a packet socket.
type device struct {
	link.Counters
	info  link.Info
	log   *slog.Logger
	index int
	env   *Envelope
	vnet  bool
	file  *os.File
	conn  syscall.RawConn
	watch *ifwatch.Watcher

	lostMu sync.Mutex
	lost   uint64 // frames the kernel had no room for, taken out of its counter

	closed  atomic.Bool
	gone    atomic.Bool
	closing sync.Once
	err     error // of Close, set by closing

	in      receiver // of the one reader
	senders sync.Pool
}

// Open opens a packet socket on an interface. It needs CAP_NET_RAW.
func Open(cfg Config) (_ link.Device, err error) {
	wrap := func(err error) error { return fmt.Errorf("packet %s: %w", cfg.Interface, err) }
	ifi, err := net.InterfaceByName(cfg.Interface)
	switch {
	case err != nil:
		return nil, wrap(fmt.Errorf("%w: 'ip link' lists the interfaces", err))
	case len(ifi.HardwareAddr) != 6:
		return nil, wrap(errors.New("it is not an Ethernet interface: it has no address of 6 bytes"))
	}
	d := &device{index: ifi.Index, env: cfg.Envelope, log: cfg.Logger}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	most := ifi.MTU
	kind, protocol := "packet", uint16(unix.ETH_P_ALL)
	if d.env != nil {
		if err := d.env.prepare(ifi.HardwareAddr); err != nil {
			return nil, wrap(err)
		}
		most -= d.env.overhead()
		kind, protocol = "macinmac", d.env.etherType()
	}
	mtu := cfg.MTU
	if mtu == 0 {
		mtu = min(most, link.MaxMTU)
	}
	if err := link.CheckMTU(mtu); err != nil {
		return nil, wrap(err)
	}
	if mtu > most {
		return nil, wrap(fmt.Errorf("MTU %d is more than the %d bytes that the interface's MTU of %d leaves: ip link set %s mtu %d", mtu, most, ifi.MTU, ifi.Name, ifi.MTU+mtu-most))
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errors.Is(err, unix.EPERM) {
		return nil, wrap(fmt.Errorf("packet socket: %w: it needs CAP_NET_RAW: run as root", err))
	} else if err != nil {
		return nil, wrap(fmt.Errorf("packet socket: %w", err))
	}
	d.file = os.NewFile(uintptr(fd), "packet socket on "+ifi.Name)
	defer func() {
		if err != nil {
			d.file.Close()
			if d.watch != nil {
				d.watch.Close()
			}
		}
	}()
	if err := d.setup(fd, cfg); err != nil {
		return nil, wrap(err)
	}
	d.info = link.Info{Name: ifi.Name, Kind: kind, HardwareAddr: bytes.Clone(ifi.HardwareAddr), MTU: mtu, Driver: "af_packet"}
	if d.env != nil {
		d.info.HardwareAddr = nil // that is the outer station's
	}
	if d.vnet {
		const all = link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6 | link.OffloadECN
		d.info.RX = all
		if !cfg.Plain {
			d.info.TX = all
		}
	}
	// Only now, so that no frame comes before all is set.
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: ifi.Index}); err != nil {
		return nil, wrap(fmt.Errorf("bind: %w", err))
	}
	if d.conn, err = d.file.SyscallConn(); err != nil {
		return nil, wrap(err)
	}
	if err := d.file.SetReadDeadline(time.Time{}); err != nil { // the runtime's poller has to take it
		return nil, wrap(err)
	}
	// A packet socket is told once that its interface is down, and not that it is deleted after that.
	d.watch, err = ifwatch.Watch(ifi.Index, func() {
		d.gone.Store(true)
		_ = d.file.SetReadDeadline(time.Unix(1, 0)) // lets a Read look
	})
	if err != nil {
		return nil, wrap(err)
	}
	d.in.init(d)
	d.senders.New = func() any { return newSender(d) }
	if d.vnet && cfg.Plain {
		p := &plain{Device: link.Complete(d, 0)}
		p.queues = []link.Queue{plainQueue{p.Device.Queues()[0], d}}
		return p, nil
	}
	return d, nil
}

// plain is a Device whose reader gets ordinary frames, finished in software, and who takes no others.
type plain struct {
	link.Device
	queues []link.Queue
}

func (p *plain) Info() link.Info {
	i := p.Device.Info()
	i.TX = 0
	return i
}

func (p *plain) Queues() []link.Queue { return p.queues }

type plainQueue struct {
	link.Queue
	d *device
}

func (q plainQueue) Write(frames []link.OutFrame) (int, error) { return q.d.Write(frames) }

// setup sets what must be known before the first frame.
func (d *device) setup(fd int, cfg Config) error {
	if d.env == nil {
		err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
		if d.vnet = err == nil; err != nil {
			d.log.Info("no virtio headers: no offloads", "interface", cfg.Interface, "err", err)
		}
	}
	for _, o := range []struct {
		name     string
		level, o int
		needed   bool
	}{
		{"PACKET_AUXDATA", unix.SOL_PACKET, unix.PACKET_AUXDATA, true},
		{"PACKET_IGNORE_OUTGOING", unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, false}, // since Linux 4.20; else by their type
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.o, 1); err != nil && o.needed {
			return fmt.Errorf("%s: %w", o.name, err)
		}
	}
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], socketBuffer) // as much as an ordinary user may
		}
	}
	if cfg.Quiet {
		return nil
	}
	mreq := &unix.PacketMreq{Ifindex: int32(d.index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, mreq); err != nil {
		return fmt.Errorf("PACKET_MR_PROMISC: %w", err)
	}
	return nil
}

// socketBuffer is what the kernel holds for us each way, in bytes.
const socketBuffer = 8 << 20

func networkOrder(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// Info implements link.Device.
func (d *device) Info() link.Info {
	i := d.info
	i.HardwareAddr = bytes.Clone(i.HardwareAddr)
	return i
}

// Queues implements link.Device.
func (d *device) Queues() []link.Queue { return []link.Queue{d} }

// Stats implements link.Device.
func (d *device) Stats() link.Stats {
	s := d.Counters.Stats()
	d.lostMu.Lock()
	_ = d.conn.Control(func(fd uintptr) { // once it is closed there is nothing new
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			d.lost += uint64(st.Drops)
		}
	})
	if d.lost > 0 {
		if s.Drops == nil {
			s.Drops = make(map[string]uint64)
		}
		s.Drops[link.DropRxFull.String()] += d.lost
	}
	d.lostMu.Unlock()
	return s
}

// Close implements link.Device.
func (d *device) Close() error {
	d.closing.Do(func() {
		d.closed.Store(true)
		d.err = d.file.Close()
		d.watch.Close()
	})
	return d.err
}

// ended returns the error that ended the Device, or nil.
func (d *device) ended() error {
	switch {
	case d.closed.Load():
		return link.ErrClosed
	case d.gone.Load():
		return fmt.Errorf("packet %s: %w: the interface was deleted", d.info.Name, link.ErrGone)
	}
	return nil
}

// isGone looks whether the interface is still there, after an error that may say so.
func (d *device) isGone() bool {
	if d.gone.Load() {
		return true
	}
	there := true
	err := d.conn.Control(func(fd uintptr) {
		_, err := ifwatch.Name(int(fd), d.index)
		there = !errors.Is(err, unix.ENODEV)
	})
	if err == nil && !there {
		d.gone.Store(true)
	}
	return d.gone.Load()
}
