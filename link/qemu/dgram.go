package qemu

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
)

// A DgramConfig describes a datagram socket. Local and Remote are required.
type DgramConfig struct {
	// Local and Remote are both paths, or both IP:PORT for UDP. A remote that is not there yet, or
	// comes again, is found: frames are dropped meanwhile (link.DropTxDown).
	Local, Remote string
	// Name is what the Device calls itself; "" means Remote.
	Name string
	// MTU is in bytes; 0 means link.DefaultMTU.
	MTU int
	// Buffer bounds what waits for a peer that takes no more, in bytes beyond what the kernel
	// takes; 0 means DefaultBuffer.
	Buffer int
	// Logger may be nil.
	Logger *slog.Logger
}

// OpenDgram opens a datagram socket.
func OpenDgram(cfg DgramConfig) (link.Device, error) {
	d := &packets{}
	name := cfg.Name
	if name == "" {
		name = cfg.Remote
	}
	if err := d.init("dgram", name, cfg.MTU, cfg.Logger); err != nil {
		return nil, err
	}
	fail := func(err error) (link.Device, error) { return nil, fmt.Errorf("qemu: dgram %s: %w", name, err) }
	kinds := [2]string{network(cfg.Local, "udp"), network(cfg.Remote, "udp")}
	if kinds[0] != kinds[1] {
		return fail(fmt.Errorf("local %q and remote %q: both must be paths, or both IP:PORT", cfg.Local, cfg.Remote))
	}
	family := unix.AF_UNIX
	var local unix.Sockaddr
	if kinds[0] == "unix" {
		local, d.remote = &unix.SockaddrUnix{Name: cfg.Local}, &unix.SockaddrUnix{Name: cfg.Remote}
		if err := removeDead(cfg.Local, "unixgram"); err != nil {
			return fail(err)
		}
	} else {
		var err error
		if family, local, err = udpAddr(cfg.Local); err != nil {
			return fail(fmt.Errorf("local: %w", err))
		}
		other := 0
		if other, d.remote, err = udpAddr(cfg.Remote); err != nil {
			return fail(fmt.Errorf("remote: %w", err))
		}
		if other != family {
			return fail(fmt.Errorf("local %s and remote %s are of two families", cfg.Local, cfg.Remote))
		}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail(fmt.Errorf("socket: %w", err))
	}
	if err := unix.Bind(fd, local); err != nil {
		unix.Close(fd)
		return fail(fmt.Errorf("bind %s: %w", cfg.Local, err))
	}
	if kinds[0] == "unix" {
		d.path = cfg.Local
	}
	if err := d.start(fd, cfg.Buffer); err != nil {
		return fail(err)
	}
	return d, nil
}

func udpAddr(s string) (family int, _ unix.Sockaddr, err error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		u, rerr := net.ResolveUDPAddr("udp", s) // a name of /etc/hosts, or of a service
		if rerr != nil {
			return 0, nil, rerr
		}
		a = u.AddrPort()
	}
	ip := a.Addr().Unmap()
	if ip.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}, nil
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: ip.As16()}, nil
}
