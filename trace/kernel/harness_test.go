package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ways are the subtests of what both ways must do.
func ways(t *testing.T, test func(t *testing.T, via string)) {
	for _, via := range []string{ViaBPF, ViaTracefs} {
		t.Run(via, func(t *testing.T) { test(t, via) })
	}
}

// open opens a Source whose own namespace is ns.
func open(t *testing.T, ns *netlab.NS, c Config) *Source {
	t.Helper()
	var s *Source
	var err error
	ns.Do(t, func() { s, err = Open(c) })
	if errors.Is(err, ErrUnsupported) {
		netlab.Lack(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// inode returns the identity of a namespace.
func inode(t *testing.T, ns *netlab.NS) uint64 {
	t.Helper()
	n, err := netnsInode(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A tail collects the events of a Source.
type tail struct {
	mu     sync.Mutex
	events []Event
	more   chan struct{} // closed and replaced at each event; nil at the end
}

func follow(t *testing.T, s *Source) *tail {
	t.Helper()
	l := &tail{more: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			e, err := s.Read()
			l.mu.Lock()
			if err != nil {
				close(l.more)
				l.more = nil
				l.mu.Unlock()
				if !errors.Is(err, ErrClosed) {
					t.Errorf("read: %v", err)
				}
				return
			}
			l.events = append(l.events, e)
			close(l.more)
			l.more = make(chan struct{})
			l.mu.Unlock()
		}
	}()
	t.Cleanup(func() { s.Close(); <-done })
	return l
}

// forget drops what there was so far.
func (l *tail) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = nil
}

// until waits for an event and returns all up to it.
func (l *tail) until(t *testing.T, what string, is func(Event) bool) []Event {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		l.mu.Lock()
		events, more := slices.Clone(l.events), l.more
		l.mu.Unlock()
		if i := slices.IndexFunc(events, is); i >= 0 {
			return events[:i+1]
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("no %s within 10 s; there was:\n%s", what, list(events))
		}
		if more == nil {
			t.Fatalf("the source ended before %s; there was:\n%s", what, list(events))
		}
	}
}

// has reports whether there was such an event.
func (l *tail) has(is func(Event) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.events, is)
}

func list(events []Event) string {
	var b strings.Builder
	for _, e := range events[max(0, len(events)-40):] {
		fmt.Fprintf(&b, "%v %s %s proto %#04x len %d skb %x reason %q where %q head %x\n",
			e.Mono, e.Step, e.Dev, e.Proto, e.Len, e.Skb, e.Reason, e.Where, e.Head[:min(len(e.Head), 34)])
	}
	return b.String()
}

// openTap opens a tap of ns.
func openTap(t *testing.T, ns *netlab.NS, name string) *os.File {
	t.Helper()
	f := openTun(t, ns, name, unix.IFF_TAP)
	ns.Sysctl(t, "net.ipv6.conf."+name+".disable_ipv6", "1") // no frames of its own
	return f
}

func openTun(t *testing.T, ns *netlab.NS, name string, flags uint16) *os.File {
	t.Helper()
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(flags | unix.IFF_NO_PI)
	var fd int
	ns.Do(t, func() {
		fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err == nil {
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		}
	})
	if err != nil {
		t.Fatalf("open tap %s: %v", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { f.Close() })
	return f
}

// unique makes a device's name one that no other test has: tracefs shows every
// namespace's.
func unique(name string) string { return fmt.Sprintf("%s%d", name, os.Getpid()) }

// host is a namespace with one tap that is up and has 10.0.0.1/24.
func host(t *testing.T) (*netlab.NS, *os.File) {
	t.Helper()
	ns := netlab.New(t, "host")
	tap := openTap(t, ns, tap0)
	ns.Addr(t, tap0, "10.0.0.1/24")
	ns.Up(t, tap0)
	return ns, tap
}

var (
	tap0, h0, m0, br0, noise0 = unique("t"), unique("h"), unique("m"), unique("b"), unique("n")

	hostIP  = netip.MustParseAddr("10.0.0.1")
	guestIP = netip.MustParseAddr("10.0.0.2")
	guest   = net.HardwareAddr{2, 0, 0, 0, 0, 0x77}
	other   = net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	all     = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

func frame(dst, src net.HardwareAddr, etherType uint16, payload []byte) []byte {
	b := append(slices.Clone(dst), src...)
	b = binary.BigEndian.AppendUint16(b, etherType)
	return append(b, payload...)
}

// ipv4 builds a packet with a right checksum of its header.
func ipv4(src, dst netip.Addr, proto uint8, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// udp is a datagram without a checksum.
func udp(from, to uint16, payload string) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

func arp(op uint16, sha net.HardwareAddr, spa netip.Addr, tha net.HardwareAddr, tpa netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, sha...), spa.AsSlice()...)
	return append(append(b, tha...), tpa.AsSlice()...)
}

func send(t *testing.T, tap *os.File, b []byte) {
	t.Helper()
	if _, err := tap.Write(b); err != nil {
		t.Fatalf("write a frame to the tap: %v", err)
	}
}

// serve plays a guest behind a tap that answers ARP and ICMP echo, until the tap is closed.
func serve(t *testing.T, tap *os.File) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		for {
			n, err := tap.Read(buf)
			if err != nil {
				return
			}
			if answer := reply(buf[:n]); answer != nil {
				if _, err := tap.Write(answer); err != nil {
					t.Errorf("guest: %v", err)
				}
			}
		}
	}()
	t.Cleanup(func() { tap.Close(); <-done })
}

func reply(b []byte) []byte {
	if len(b) < 42 {
		return nil
	}
	from := net.HardwareAddr(b[6:12])
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0806:
		spa, tpa := netip.AddrFrom4([4]byte(b[28:32])), netip.AddrFrom4([4]byte(b[38:42]))
		if binary.BigEndian.Uint16(b[20:]) == 1 && tpa == guestIP {
			return frame(from, guest, 0x0806, arp(2, guest, guestIP, from, spa))
		}
	case 0x0800:
		if b[14] == 0x45 && b[23] == 1 && b[34] == 8 {
			icmp := slices.Clone(b[34:])
			icmp[0], icmp[2], icmp[3] = 0, 0, 0
			binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
			return frame(from, guest, 0x0800, ipv4(guestIP, netip.AddrFrom4([4]byte(b[26:30])), 1, icmp))
		}
	}
	return nil
}

// ping sends one echo request from ns and waits for its answer.
func ping(t *testing.T, ns *netlab.NS, to netip.Addr) {
	t.Helper()
	ns.Do(t, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		limit := unix.Timeval{Sec: 10}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
			t.Fatal(err)
		}
		request := []byte{8, 0, 0, 0, 0, 0, 0, 1, 'p', 'i', 'n', 'g'}
		if err := unix.Sendto(fd, request, 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
			t.Fatalf("ping %v: %v", to, err)
		}
		if _, _, err := unix.Recvfrom(fd, make([]byte, 1500), 0); err != nil {
			t.Fatalf("answer from %v: %v", to, err)
		}
	})
}

// instances lists what is in tracefs of this process.
func instances(t *testing.T) []string {
	t.Helper()
	root, err := findTracefs()
	if err != nil {
		netlab.Lack(t, err.Error())
	}
	found, err := filepath.Glob(filepath.Join(root, "instances", fmt.Sprintf("%s%d-*", instancePrefix, os.Getpid())))
	if err != nil {
		t.Fatal(err)
	}
	return found
}
