package doctor

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a watcher: frames kept of each kind, and bytes kept of each.
const (
	maxFrames = 2048
	snapLen   = 2048
)

// A Frame is one frame as the kernel saw it on an interface.
type Frame struct {
	At   time.Time
	Link string
	// Out is true for what the kernel sent to the interface: on a tap, what the stack
	// reads.
	Out bool
	// Len is the whole length in bytes; Data holds the first 2048 at most.
	Len  int
	Data []byte
	// Partial says that the kernel knows the checksum to be left open.
	Partial bool
}

func (f *Frame) dst() net.HardwareAddr { return net.HardwareAddr(f.Data[0:6]) }
func (f *Frame) src() net.HardwareAddr { return net.HardwareAddr(f.Data[6:12]) }
func (f *Frame) etherType() uint16     { return binary.BigEndian.Uint16(f.Data[12:]) }

// A watcher collects the frames of interfaces by packet(7) sockets.
type watcher struct {
	files []*os.File
	done  sync.WaitGroup
	keep  func(*Frame) bool // nil keeps all

	mu     sync.Mutex
	frames []Frame
	arp    int // of the frames
	lost   int // frames that were not kept
}

// watch begins to collect the frames of the named interfaces, in the namespace of the
// calling thread. It needs CAP_NET_RAW.
func watch(names []string) (*watcher, error) { return watchFor(names, nil) }

// watchFor is watch for the frames that keep reports true of.
func watchFor(names []string, keep func(*Frame) bool) (*watcher, error) {
	w := &watcher{keep: keep}
	for _, name := range names {
		fd, err := packetSocket(name, unix.ETH_P_ALL)
		if err != nil {
			w.stop()
			return nil, err
		}
		// The buffer is for bursts; that it stays small without CAP_NET_ADMIN only loses some.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
		}
		f := os.NewFile(uintptr(fd), "watch "+name)
		w.files = append(w.files, f)
		w.done.Go(func() { w.read(f, name) })
	}
	return w, nil
}

// packetSocket opens a packet(7) socket on an interface; protocol 0 only sends.
func packetSocket(name string, protocol uint16) (int, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return -1, fmt.Errorf("packet socket on %s: %w", name, err)
	}
	// Protocol 0 until it is bound: nothing of another interface gets in.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket on %s: %w", name, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("packet socket on %s: PACKET_AUXDATA: %w", name, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: iface.Index}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("packet socket on %s: bind: %w", name, err)
	}
	return fd, nil
}

// networkOrder returns a number whose bytes in memory are v in network order.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func (w *watcher) read(f *os.File, name string) {
	rc, err := f.SyscallConn()
	if err != nil {
		return
	}
	buf, oob := make([]byte, 1<<17), make([]byte, 128)
	for {
		var n, oobn int
		var from unix.Sockaddr
		var rerr error
		err := rc.Read(func(fd uintptr) bool {
			n, oobn, _, from, rerr = unix.Recvmsg(int(fd), buf, oob, 0)
			return rerr != unix.EAGAIN
		})
		switch {
		case err != nil:
			return // stopped
		case rerr == unix.EINTR, rerr == unix.ENETDOWN:
			continue // it went down; more may come
		case rerr != nil:
			return
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_LOOPBACK {
			continue // the kernel's copy for itself of a multicast it sends
		}
		w.add(Frame{
			At: time.Now(), Link: name, Out: ll.Pkttype == unix.PACKET_OUTGOING,
			Len: n, Data: buf[:min(n, snapLen)], Partial: isPartial(oob[:oobn]),
		})
	}
}

// isPartial reads TP_STATUS_CSUMNOTREADY from struct tpacket_auxdata, whose first word
// is the status (include/uapi/linux/if_packet.h).
func isPartial(oob []byte) bool {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
			return binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_CSUMNOTREADY != 0
		}
	}
	return false
}

// add keeps a frame. ARP is kept apart, so that other traffic does not crowd it out.
func (w *watcher) add(f Frame) {
	if w.keep != nil && !w.keep(&f) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	isARP := len(f.Data) >= 14 && f.etherType() == unix.ETH_P_ARP
	if isARP && w.arp >= maxFrames || !isARP && len(w.frames)-w.arp >= maxFrames {
		w.lost++
		return
	}
	if isARP {
		w.arp++
	}
	f.Data = slices.Clone(f.Data)
	w.frames = append(w.frames, f)
}

// seen returns what was collected so far.
func (w *watcher) seen() (frames []Frame, lost int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.frames), w.lost
}

// stop ends the collection.
func (w *watcher) stop() {
	for _, f := range w.files {
		f.Close()
	}
	w.done.Wait()
}
