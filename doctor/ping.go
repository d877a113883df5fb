package doctor

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// The stack gives up on a neighbour after 3 s, and the kernel's first answer after a tap
// was opened may get lost: so often and so long each the stack pings.
const (
	pingTries = 3
	pingLimit = 1200 * time.Millisecond
)

// hostPingLimit is how long the stack may take to answer the host, which is known to be
// there by then.
const hostPingLimit = 2 * time.Second

// A Ping is one echo request and what came of it.
type Ping struct {
	To netip.Addr
	// Size is the length of the data in bytes.
	Size int
	// RTT is the time until the reply, 0 without one.
	RTT time.Duration
	// Err says why there was none.
	Err error
}

// Answered reports whether a reply came.
func (p *Ping) Answered() bool { return p.Err == nil }

func (p *Ping) String() string {
	if p.Err != nil {
		return fmt.Sprintf("ping %s: %v", p.To, p.Err)
	}
	return fmt.Sprintf("ping %s: answered after %v", p.To, p.RTT.Round(10*time.Microsecond))
}

// ICMP types of echo messages (RFC 792; RFC 4443 section 4).
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
	unreachable4             = 3
	tooBig6, unreachable6    = 2, 1
)

// newEcho makes an echo request whose identifier and data no other one has.
func newEcho(to netip.Addr, size int) []byte {
	b := make([]byte, 8+size)
	b[0] = echoRequest4
	if to.Is6() {
		b[0] = echoRequest6
	}
	rand.Read(b[4:])
	return b
}

// judgeEcho says whether an ICMP message answers a request, and how.
func judgeEcho(request, m []byte) (answers bool, err error) {
	if len(m) < 8 {
		return false, nil
	}
	reply, unreachable := byte(echoReply4), byte(unreachable4)
	if request[0] == echoRequest6 {
		reply, unreachable = echoReply6, unreachable6
	}
	switch {
	case m[0] == reply && string(m[4:]) == string(request[4:]):
		return true, nil
	case m[0] != unreachable && (m[0] != tooBig6 || request[0] != echoRequest6):
		return false, nil
	}
	// The error quotes the IP header, then 8 bytes at least (RFC 792).
	inner := m[8:]
	at := 40
	if len(inner) > 0 && inner[0]>>4 == 4 {
		at = int(inner[0]&0xf) * 4
	}
	if len(inner) < at+8 || inner[at] != request[0] || string(inner[at+4:at+8]) != string(request[4:8]) {
		return false, nil
	}
	switch {
	case m[0] == tooBig6 && request[0] == echoRequest6, m[0] == unreachable4 && m[1] == 4 && request[0] == echoRequest4:
		return true, unix.EMSGSIZE
	case m[1] == 0:
		return true, unix.ENETUNREACH
	}
	return true, unix.EHOSTUNREACH
}

// pingFromStack has the stack send one echo request, which nobody may fragment.
func pingFromStack(ctx context.Context, st station, to netip.Addr, size int, limit time.Duration) (p Ping) {
	p = Ping{To: to, Size: size}
	network := "ip4"
	if to.Is6() {
		network = "ip6"
	}
	conn, err := st.icmp(ctx, network)
	if err != nil {
		p.Err = err
		return p
	}
	defer conn.Close()
	if to.Is4() {
		if p.Err = conn.SetOption("ip.mtu_discover", unix.IP_PMTUDISC_DO); p.Err != nil {
			return p
		}
	}
	begin := time.Now()
	conn.SetReadDeadline(begin.Add(limit))
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	request := newEcho(to, size)
	if p.Err = conn.WriteICMP(request, to); p.Err != nil {
		return p
	}
	for {
		var m control.ICMPMessage
		if m, p.Err = conn.ReadICMP(); p.Err != nil {
			p.Err = noAnswer(p.Err)
			return p
		}
		if done, err := judgeEcho(request, m.Data); done {
			p.RTT, p.Err = time.Since(begin), err
			return p
		}
	}
}

// pingFromHost has the kernel of the thread's namespace send one echo request, and
// returns a function that waits for what comes of it, on any thread. It needs
// CAP_NET_RAW.
func pingFromHost(to netip.Addr, limit time.Duration) (wait func() Ping) {
	p := Ping{To: to, Size: 56}
	fail := func(err error) func() Ping {
		p.Err = err
		return func() Ping { return p }
	}
	domain, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if to.Is6() {
		domain, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return fail(os.NewSyscallError("raw socket", err))
	}
	request := newEcho(to, p.Size)
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16(), ZoneId: zoneOf(to)}
	if to.Is4() {
		sa = &unix.SockaddrInet4{Addr: to.As4()}
		binary.BigEndian.PutUint16(request[2:], checksum(request)) // of ICMPv6 the kernel makes it
	}
	begin := time.Now()
	if err := unix.Sendto(fd, request, 0, sa); err != nil {
		unix.Close(fd)
		return fail(err)
	}
	return func() Ping {
		defer unix.Close(fd)
		p.Err = awaitEcho(fd, request, begin.Add(limit))
		p.RTT = time.Since(begin)
		return p
	}
}

// awaitEcho waits for the answer to an echo request on a raw socket.
func awaitEcho(fd int, request []byte, deadline time.Time) error {
	buf := make([]byte, 1<<16)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return noAnswer(os.ErrDeadlineExceeded)
		}
		tv := unix.NsecToTimeval(max(int64(left), int64(time.Microsecond)))
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		m := buf[:n]
		if request[0] == echoRequest4 { // with its IP header
			if n < 20 || n < int(m[0]&0xf)*4 {
				continue
			}
			m = m[int(m[0]&0xf)*4:]
		}
		if done, err := judgeEcho(request, m); done {
			return err
		}
	}
}

// noAnswer puts the end of a time limit into words.
func noAnswer(err error) error {
	if os.IsTimeout(err) {
		return fmt.Errorf("no answer: %w", os.ErrDeadlineExceeded)
	}
	return err
}

// checksum is the Internet checksum (RFC 1071) of b.
func checksum(b []byte) uint16 { return ^fold(sum(0, b)) }

func sum(s uint32, b []byte) uint32 {
	for len(b) >= 2 {
		s += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// zoneOf returns the interface index of a scoped address.
func zoneOf(ip netip.Addr) uint32 {
	if ip.Zone() == "" {
		return 0
	}
	if i, err := net.InterfaceByName(ip.Zone()); err == nil {
		return uint32(i.Index)
	}
	return 0
}
