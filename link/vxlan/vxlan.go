// Package vxlan carries frames over UDP to one or more other endpoints, as RFC 7348 says and
// the kernel's vxlan device does.
//
// With several endpoints, a frame for everybody, for a group or for a station that has not been
// heard of goes to each of them (head-end replication), and others to the one where their
// station is. What one endpoint sends is never passed on to another.
//
// Datagrams are believed by their source address and VNI alone: RFC 7348 section 7 knows no
// other protection. The outer source port of others is anything (section 5), and ours is always
// the port that we listen on.
package vxlan

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
)

const (
	// Port is where endpoints listen (RFC 7348 section 5, IANA).
	Port = 4789
	// MaxVNI is the largest network identifier.
	MaxVNI = 1<<24 - 1
	// MaxRemotes bounds the other endpoints: each frame to everybody is sent once for each.
	MaxRemotes = 256

	headerLen = 8    // RFC 7348 section 5
	flagI     = 0x08 // the VNI is valid

	// What the kernel's device subtracts from the outer MTU: outer IP, UDP and VXLAN, and the inner
	// Ethernet header.
	overhead4 = 20 + 8 + headerLen + link.HeaderLen
	overhead6 = 40 + 8 + headerLen + link.HeaderLen
	// maxDatagram is the longest payload of UDP over IPv4.
	maxDatagram = 65535 - 20 - 8
)

// A Config describes an endpoint. Remotes are required.
type Config struct {
	// Remotes are the other endpoints, all of one address family.
	Remotes []netip.Addr
	// VNI is the network, 0 to MaxVNI.
	VNI uint32
	// Local is the address to use; the zero Addr leaves it to the kernel's routes.
	Local netip.Addr
	// Port is where all endpoints listen; 0 means Port. RemotePort is for remotes that listen
	// elsewhere; 0 means the same.
	Port, RemotePort uint16
	// Interface binds the socket to one interface of the host, unless it is "".
	Interface string
	// MTU is in bytes; 0 means what the route to the first remote leaves: 1450 of 1500 over IPv4, 1430
	// over IPv6. A larger one makes the kernel send outer fragments.
	MTU int
	// Logger may be nil.
	Logger *slog.Logger
}

// device is an endpoint.
type device struct {
	link.Counters
	info    link.Info
	log     *slog.Logger
	header  [headerLen]byte // of what is sent
	remotes []remote
	byAddr  map[netip.Addr]int // of remotes
	six     bool
	fdb     fdb

	file    *os.File
	conn    syscall.RawConn
	closed  atomic.Bool
	closing sync.Once
	err     error // of Close, set by closing

	in      receiver // of the one reader
	senders sync.Pool
}

// Open opens an endpoint.
func Open(cfg Config) (_ link.Device, err error) {
	wrap := func(err error) error { return fmt.Errorf("vxlan %s: %w", names(cfg.Remotes), err) }
	if cfg.Port == 0 {
		cfg.Port = Port
	}
	if cfg.RemotePort == 0 {
		cfg.RemotePort = cfg.Port
	}
	if err := cfg.Check(); err != nil {
		return nil, wrap(err)
	}
	d := &device{log: cfg.Logger, six: cfg.Remotes[0].Is6(), byAddr: make(map[netip.Addr]int)}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.header = [headerLen]byte{flagI, 0, 0, 0, byte(cfg.VNI >> 16), byte(cfg.VNI >> 8), byte(cfg.VNI)}
	for i, a := range cfg.Remotes {
		d.remotes = append(d.remotes, newRemote(netip.AddrPortFrom(a, cfg.RemotePort)))
		d.byAddr[a] = i
	}
	mtu := cfg.MTU
	if mtu == 0 {
		if mtu, err = d.pathMTU(cfg); err != nil {
			return nil, wrap(err)
		}
	}
	if err := link.CheckMTU(mtu); err != nil {
		return nil, wrap(err)
	}
	fd, err := d.socket(cfg)
	if err != nil {
		return nil, wrap(err)
	}
	d.file = os.NewFile(uintptr(fd), "vxlan")
	defer func() {
		if err != nil {
			d.file.Close()
		}
	}()
	d.info = link.Info{Name: fmt.Sprintf("vxlan%d", cfg.VNI), Kind: "vxlan", MTU: mtu, Driver: "udp", RX: link.OffloadCsum}
	if d.conn, err = d.file.SyscallConn(); err != nil {
		return nil, wrap(err)
	}
	if err := d.file.SetReadDeadline(time.Time{}); err != nil { // the runtime's poller has to take it
		return nil, wrap(err)
	}
	d.in.init(d)
	d.senders.New = func() any { return newSender(d) }
	d.fdb.init(len(d.remotes))
	return d, nil
}

// Check says what is wrong with what can be checked without opening it.
func (cfg *Config) Check() error {
	switch {
	case len(cfg.Remotes) == 0:
		return errors.New("no remote: name the address of another endpoint")
	case len(cfg.Remotes) > MaxRemotes:
		return fmt.Errorf("%d remotes: use at most %d", len(cfg.Remotes), MaxRemotes)
	case cfg.VNI > MaxVNI:
		return fmt.Errorf("VNI %d is more than %d", cfg.VNI, MaxVNI)
	}
	for i, a := range cfg.Remotes {
		switch {
		case a.Zone() != "" || a.Is4In6() || !a.IsValid() || a.IsUnspecified():
			return fmt.Errorf("remote %v is not the address of a host", a)
		case a.IsMulticast():
			return fmt.Errorf("remote %v is a group: list the endpoints instead", a)
		case a.Is6() != cfg.Remotes[0].Is6(), cfg.Local.IsValid() && a.Is6() != cfg.Local.Is6():
			return errors.New("all addresses must be of one family")
		case slices.Contains(cfg.Remotes[:i], a):
			return fmt.Errorf("remote %v is named twice", a)
		}
	}
	return nil
}

func names(remotes []netip.Addr) string {
	s := ""
	for i, a := range remotes {
		if i > 0 {
			s += "+"
		}
		s += a.String()
	}
	return s
}

// socket makes the socket that all datagrams go through.
func (d *device) socket(cfg Config) (fd int, err error) {
	family := unix.AF_INET
	if d.six {
		family = unix.AF_INET6
	}
	if fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if cfg.Interface != "" {
		if err := unix.BindToDevice(fd, cfg.Interface); err != nil {
			return -1, fmt.Errorf("interface %s: SO_BINDTODEVICE: %w", cfg.Interface, err)
		}
	}
	var sa unix.Sockaddr
	if d.six {
		// The kernel's own device listens on IPv4 beside us, or another one does.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return -1, fmt.Errorf("IPV6_V6ONLY: %w", err)
		}
		a := &unix.SockaddrInet6{Port: int(cfg.Port)}
		if cfg.Local.IsValid() {
			a.Addr = cfg.Local.As16()
		}
		sa = a
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT)
	} else {
		a := &unix.SockaddrInet4{Port: int(cfg.Port)}
		if cfg.Local.IsValid() {
			a.Addr = cfg.Local.As4()
		}
		sa = a
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	}
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], socketBuffer) // as much as an ordinary user may
		}
	}
	if err := unix.Bind(fd, sa); err != nil {
		hint := ""
		if errors.Is(err, unix.EADDRINUSE) {
			hint = ": another endpoint is there, the kernel's perhaps: use another local address or port"
		}
		return -1, fmt.Errorf("bind port %d: %w%s", cfg.Port, err, hint)
	}
	return fd, nil
}

// socketBuffer is what the kernel holds for us each way, in bytes.
const socketBuffer = 8 << 20

// pathMTU returns what the route to the first remote leaves.
func (d *device) pathMTU(cfg Config) (int, error) {
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if cfg.Interface == "" {
			return nil
		}
		cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), cfg.Interface) })
		return errors.Join(cerr, err)
	}}
	if cfg.Local.IsValid() {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(cfg.Local, 0))
	}
	// Nothing is sent: connect only asks the routes.
	c, err := dialer.Dial("udp", netip.AddrPortFrom(cfg.Remotes[0], cfg.RemotePort).String())
	if err != nil {
		return 0, fmt.Errorf("route: %w: give mtu", err)
	}
	defer c.Close()
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	outer, overhead := 0, overhead4
	cerr := raw.Control(func(fd uintptr) {
		if d.six {
			outer, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
			overhead = overhead6
		} else {
			outer, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
		}
	})
	if err := errors.Join(cerr, err); err != nil {
		return 0, fmt.Errorf("the MTU of the route: %w", err)
	}
	const tag = 4
	return min(outer-overhead, maxDatagram-headerLen-link.HeaderLen-tag), nil
}

// Info implements link.Device.
func (d *device) Info() link.Info { return d.info }

// Queues implements link.Device.
func (d *device) Queues() []link.Queue { return []link.Queue{d} }

// Close implements link.Device.
func (d *device) Close() error {
	d.closing.Do(func() {
		d.closed.Store(true)
		d.err = d.file.Close()
	})
	return d.err
}

func (d *device) ended() error {
	if d.closed.Load() {
		return link.ErrClosed
	}
	return nil
}
