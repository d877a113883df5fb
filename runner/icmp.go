package runner

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// An icmp is a ping socket (SOCK_DGRAM) or a raw ICMP socket. The daemon's socket receives every
// message; this one picks.
type icmp struct {
	dgram
	six, raw bool

	// Guarded by mu.
	id uint16 // a ping socket's identifier: its port
	// blocked are the types that ICMP_FILTER or ICMP6_FILTER keeps away.
	blocked [256]bool
	last    uint64 // number of the last message sent
	// sent are the messages whose fate the daemon has not told yet.
	sent map[uint64]chan syscall.Errno
	// source reads what the program writes once it is connected.
	source *os.File
}

// ICMP types (RFC 792, RFC 4443).
const (
	echo4, reply4 = 8, 0
	echo6, reply6 = 128, 129
)

// icmpFrameLen is the length of the header of a frame (protocol.md).
const icmpFrameLen = 56

// newICMP makes the kind of a ping socket or of a raw ICMP socket.
func newICMP(s *socket) (kind, syscall.Errno) {
	i := &icmp{dgram: dgram{s: s, far: -1, options: make(map[string]int)}, six: s.domain == unix.AF_INET6, raw: s.typ == unix.SOCK_RAW}
	if i.six != (s.proto == unix.IPPROTO_ICMPV6) {
		return nil, unix.EPROTONOSUPPORT
	}
	i.sent = make(map[uint64]chan syscall.Errno)
	// A program's packet filter looks at what is in the unix socket's queue.
	i.queued = i.raw
	return i, 0
}

// mayUseRaw says whether a thread has CAP_NET_RAW.
func mayUseRaw(tid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	caps, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return err == nil && caps>>unix.CAP_NET_RAW&1 != 0
}

// ensureOpen makes the daemon's socket. changing is held.
func (i *icmp) ensureOpen(c *call) syscall.Errno {
	i.mu.Lock()
	have := i.flow != 0
	r := control.Request{Op: "icmp", Network: "ip4", Options: i.optionsFor(i.any())}
	i.mu.Unlock()
	if have {
		return 0
	}
	if i.six {
		r.Network = "ip6"
	}
	delete(r.Options, "ipv6.v6only")
	p, theirs, err := newPipe()
	if err != nil {
		return errnoOf(err)
	}
	if err = i.withFD(c, i.nameIt); err != nil {
		unix.Close(theirs)
		p.file.Close()
		return errnoOf(err)
	}
	rep, session, err := i.s.sup.daemon.call(i.s.sup.ctx, r, theirs)
	if err != nil {
		p.file.Close()
		return errnoOf(err)
	}
	i.mu.Lock()
	i.session, i.flow, i.pipe = session, rep.Flow, p
	i.takeID()
	i.mu.Unlock()
	i.s.sup.wg.Add(1)
	go func() {
		defer i.s.sup.wg.Done()
		i.relay(p)
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.pipe == p { // the daemon is gone
			p.file.Close()
			i.pipe, i.flow = nil, 0
		}
		for seq, told := range i.sent {
			told <- unix.ENETDOWN
			delete(i.sent, seq)
		}
	}()
	return 0
}

// takeID gives a ping socket its identifier. mu is held.
func (i *icmp) takeID() {
	if i.raw || i.id != 0 {
		return
	}
	i.id = uint16(1 + rand.IntN(0xffff))
	i.local = netip.AddrPortFrom(i.any(), i.id)
}

// relay picks the program's messages out of all that arrive.
func (i *icmp) relay(p *pipe) {
	defer close(p.done)
	buf := frames.Get().(*[]byte)
	defer frames.Put(buf)
	for {
		n, err := p.file.Read(*buf)
		if err != nil {
			return
		}
		b := (*buf)[:n]
		if n < icmpFrameLen {
			continue
		}
		switch b[0] {
		case frameData:
			i.arrived(frameAddr(b[1]>>4, b[24:40]), frameAddr(b[1]&0xf, b[40:56]), b[2], b[icmpFrameLen:])
		case frameError:
			seq := binary.BigEndian.Uint64(b[8:])
			i.mu.Lock()
			told := i.sent[seq]
			delete(i.sent, seq)
			i.mu.Unlock()
			if told != nil {
				told <- syscall.Errno(binary.BigEndian.Uint32(b[4:]))
			}
		}
	}
}

// arrived takes one message of the network's.
func (i *icmp) arrived(from, to netip.Addr, ttl byte, msg []byte) {
	const header = 8
	if len(msg) < header || !from.IsValid() {
		return
	}
	if q, ok := parseICMPError(i.six, msg); ok {
		i.errorArrived(from, q)
	}
	i.mu.Lock()
	id, blocked := i.id, i.blocked[msg[0]]
	i.mu.Unlock()
	in := inbound{from: netip.AddrPortFrom(from, 0), to: to, ttl: ttl}
	switch {
	case i.raw && blocked:
		return
	case i.raw && !i.six:
		in.data = appendIP4(nil, from, to, ttl, msg)
	case i.raw:
		in.data = msg
	default:
		reply := byte(reply4)
		if i.six {
			reply = reply6
		}
		if msg[0] != reply || binary.BigEndian.Uint16(msg[4:]) != id {
			return
		}
		in.data = msg
	}
	in.length = len(in.data)
	i.deliver(in)
}

// appendIP4 appends a message with the IPv4 header that raw sockets receive.
func appendIP4(b []byte, from, to netip.Addr, ttl byte, msg []byte) []byte {
	const header = 20
	h := make([]byte, header, header+len(msg))
	h[0], h[8], h[9] = 0x45, ttl, unix.IPPROTO_ICMP
	binary.BigEndian.PutUint16(h[2:], uint16(min(header+len(msg), 0xffff)))
	if from.Is4() && to.Is4() {
		s, d := from.As4(), to.As4()
		copy(h[12:], s[:])
		copy(h[16:], d[:])
	}
	var sum uint32
	for n := 0; n < header; n += 2 {
		sum += uint32(h[n])<<8 | uint32(h[n+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
	return append(append(b, h...), msg...)
}

// errorArrived tells of an ICMP error about one of the program's messages, as ping_err and
// raw_err do.
func (i *icmp) errorArrived(from netip.Addr, q quoted) {
	if q.proto != i.s.proto || len(q.data) < 8 {
		return
	}
	i.mu.Lock()
	key := optionKey{unix.IPPROTO_IP, unix.IP_RECVERR}
	if i.six {
		key = optionKey{unix.IPPROTO_IPV6, unix.IPV6_RECVERR}
	}
	wants := i.options[keptName(key)] != 0
	connected := i.remote.IsValid()
	ours := i.raw && (!connected || i.remote.Addr() == q.to) || !i.raw && binary.BigEndian.Uint16(q.data[4:]) == i.id
	i.mu.Unlock()
	switch {
	case !ours:
		return
	case wants:
		i.queue(queuedError{
			errno: q.errno, typ: q.typ, code: q.code, info: q.info, from: from, to: netip.AddrPortFrom(q.to, 0), data: q.data,
		})
	case !connected || !q.fatal:
		return
	}
	i.fail(q.errno)
}

func (i *icmp) gone() {
	i.mu.Lock()
	source := i.source
	i.source = nil
	i.mu.Unlock()
	if source != nil {
		source.Close()
	}
	i.dgram.gone()
}

func (i *icmp) bind(c *call, to sockaddr) verdict {
	i.mu.Lock()
	if i.id != 0 || i.wanted.IsValid() && !i.raw {
		i.mu.Unlock()
		return fail(unix.EINVAL)
	}
	if !i.raw {
		if i.id = to.addr.Port(); i.id == 0 {
			i.takeID()
		}
	}
	i.wanted = netip.AddrPortFrom(to.addr.Addr(), i.id)
	i.local = i.wanted
	i.mu.Unlock()
	d := c.detached()
	return c.once(func() verdict {
		i.changing.Lock()
		defer i.changing.Unlock()
		return answer(i.ensureOpen(d))
	})
}
