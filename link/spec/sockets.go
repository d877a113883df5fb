package spec

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/qemu"
	"github.com/ustack/ustack/link/tap"
)

// mtuOption is that of wires without an interface of their own.
var mtuOption = option{"mtu", "BYTES", number(link.MinMTU, link.MaxMTU)}

// bufferOption bounds what waits for a slow peer.
var bufferOption = option{"buffer", "BYTES", number(link.MaxFrame+4, 1<<30)}

// streamKind is a stream of frames to one peer.
func streamKind() kind {
	return kind{
		name: "stream",
		bare: func(s string) bool { return strings.HasPrefix(s, "/") },
		options: []option{
			{"listen", "", nil},
			{"once", "", nil},
			mtuOption, bufferOption,
		},
		check: func(s Spec) error {
			if s.Name == "" {
				return errors.New("an address is missing: use stream:/run/q.sock or stream:HOST:PORT, with ,listen to wait for the peer there")
			}
			return checkAddress(s.Name)
		},
		open: func(s Spec, env Env) (link.Device, error) {
			_, listen := s.lookup("listen")
			_, once := s.lookup("once")
			return qemu.OpenStream(qemu.StreamConfig{
				Address: s.Name, Listen: listen, Once: once, MTU: s.number("mtu"), Buffer: s.number("buffer"), Logger: env.Logger,
			})
		},
	}
}

// checkAddress returns what is wrong with a path or HOST:PORT.
func checkAddress(s string) error {
	const most = 107 // bytes of a path, sockaddr_un without its closing zero (unix(7))
	host, port, err := net.SplitHostPort(s)
	switch {
	case strings.Contains(s, "/"):
		if len(s) > most {
			return fmt.Errorf("path %q: %d bytes are too long for a socket: use at most %d", s, len(s), most)
		}
		return nil
	case err != nil:
		return fmt.Errorf("%q is neither a path with a / nor HOST:PORT", s)
	case host == "":
		return fmt.Errorf("%q: the host is missing: use 127.0.0.1:%s or [::]:%[2]s", s, port)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("%q: %q is not a port from 1 to 65535", s, port)
	}
	return nil
}

// dgramKind is a socket of datagrams to one peer.
func dgramKind() kind {
	address := func(s string) error { return checkAddress(s) }
	return kind{
		name: "dgram",
		bare: func(string) bool { return false },
		options: []option{
			{"local", "PATH|IP:PORT", address},
			{"remote", "PATH|IP:PORT", address},
			mtuOption, bufferOption,
		},
		check: func(s Spec) error {
			local, ok := s.lookup("local")
			remote, ok2 := s.lookup("remote")
			switch {
			case !ok || !ok2:
				return errors.New("both ends are needed: use dgram:local=PATH,remote=PATH or dgram:local=IP:PORT,remote=IP:PORT")
			case strings.Contains(local, "/") != strings.Contains(remote, "/"):
				return errors.New("local and remote must be both paths, or both IP:PORT")
			case local == remote:
				return errors.New("local and remote are the same")
			}
			return nil
		},
		open: func(s Spec, env Env) (link.Device, error) {
			local, _ := s.lookup("local")
			remote, _ := s.lookup("remote")
			return qemu.OpenDgram(qemu.DgramConfig{
				Local: local, Remote: remote, MTU: s.number("mtu"), Buffer: s.number("buffer"), Logger: env.Logger,
			})
		},
	}
}

// fdKind is a descriptor that was inherited.
func fdKind() kind {
	return kind{
		name:    "fd",
		bare:    func(string) bool { return false },
		options: []option{mtuOption, bufferOption},
		check: func(s Spec) error {
			if err := number(3, 1<<20)(s.Name); err != nil {
				return fmt.Errorf("%w: use fd:3, the number of a descriptor that was inherited", err)
			}
			return nil
		},
		open: openFD,
	}
}

// openFD makes a Device of an inherited descriptor, by what it is. Its number is used up.
func openFD(s Spec, env Env) (link.Device, error) {
	n, err := strconv.Atoi(s.Name)
	if err != nil {
		return nil, err
	}
	// What came through exec does not have the flag that all of a program's own have.
	if flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
		return nil, fmt.Errorf("link %q: no descriptor %d was inherited: whoever starts this program must leave it open", s, n)
	}
	kind, err := unix.GetsockoptInt(n, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case err != nil && err != unix.ENOTSOCK:
		return nil, fmt.Errorf("link %q: descriptor %d: %w", s, n, err)
	}
	isSocket := err == nil
	// A number of our own, so that no other part of the program can mistake it for its own.
	fd, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("link %q: duplicate descriptor %d: %w", s, n, err)
	}
	unix.Close(n)
	name := "fd" + s.Name
	if !isSocket {
		return tap.FromFD(fd, tap.CharConfig{Path: name, MTU: s.number("mtu"), Logger: env.Logger})
	}
	if kind != unix.SOCK_STREAM {
		return qemu.OpenPackets(qemu.PacketsConfig{FD: fd, Name: name, MTU: s.number("mtu"), Buffer: s.number("buffer"), Logger: env.Logger})
	}
	f := os.NewFile(uintptr(fd), name)
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("link %q: %w", s, err)
	}
	return qemu.OpenStream(qemu.StreamConfig{Conn: c, Name: name, MTU: s.number("mtu"), Buffer: s.number("buffer"), Logger: env.Logger})
}
