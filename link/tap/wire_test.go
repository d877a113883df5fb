package tap

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/link"
)

// A packetWire is the kernel's side of a tap: a packet socket on the interface,
// with offload metadata (PACKET_VNET_HDR, packet(7)).
type packetWire struct {
	t     testing.TB
	ns    *netlab.NS
	name  string
	index int
	file  *os.File
	conn  syscall.RawConn
	buf   []byte
}

// newWire brings the interface up and opens the socket.
func newWire(t testing.TB, ns *netlab.NS, name string) *packetWire {
	t.Helper()
	w := &packetWire{t: t, ns: ns, name: name, buf: make([]byte, link.VirtioLen+link.MaxFrame+4)}
	ns.Up(t, name)
	w.index = ns.Link(t, name).Attrs().Index
	ns.Do(t, func() {
		// Protocol 0: it receives nothing before it is bound to the interface.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatalf("packet socket: %v", err)
		}
		w.file = os.NewFile(uintptr(fd), "packet socket on "+name)
		for _, o := range []struct{ level, name, value int }{
			{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32 << 20},
			{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
			// The queueing discipline of an interface that has just come up still drops
			// everything for a moment; frames go past it.
			{unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1},
			{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
		} {
			if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
				t.Fatalf("packet socket: option %d: %v", o.name, err)
			}
		}
		all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: w.index}); err != nil {
			t.Fatalf("bind packet socket to %s: %v", name, err)
		}
	})
	var err error
	if w.conn, err = w.file.SyscallConn(); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *packetWire) Send(frame []byte, o link.Offload) error {
	b := make([]byte, link.VirtioLen+len(frame))
	o.EncodeVirtio(b, binary.NativeEndian)
	copy(b[link.VirtioLen:], frame)
	var errno unix.Errno
	err := w.conn.Write(func(fd uintptr) bool {
		_, _, errno = unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		return errno != unix.EAGAIN
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return err
}

func (w *packetWire) Recv(d time.Duration) ([]byte, link.Offload, error) {
	if err := w.file.SetReadDeadline(time.Now().Add(d)); err != nil {
		return nil, link.Offload{}, err
	}
	n, err := w.file.Read(w.buf)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = os.ErrDeadlineExceeded
		}
		return nil, link.Offload{}, err
	}
	o, err := link.DecodeVirtio(w.buf[:n], binary.NativeEndian)
	if err != nil {
		return nil, o, err
	}
	return append([]byte(nil), w.buf[link.VirtioLen:n]...), o, nil
}

// Remove deletes the interface, as "ip link del" does.
func (w *packetWire) Remove() error {
	return w.ns.Netlink().LinkDel(w.ns.Link(w.t, w.name))
}

func (w *packetWire) Close() error { return w.file.Close() }
