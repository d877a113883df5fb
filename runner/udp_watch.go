package runner

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// A watch receives the ICMP messages of one family for UDP sockets that ask for the errors of
// what they send with a TTL of their own, traceroute and its like, and for those that forbid
// fragments. What a connected socket learns without it is only that nobody listens.
type watch struct {
	mu   sync.Mutex
	pipe *pipe
}

// watches says whether a socket wants that.
func (u *udp) watches() bool {
	recverr := u.options[keptName(optionKey{unix.IPPROTO_IP, unix.IP_RECVERR})] != 0 ||
		u.options[keptName(optionKey{unix.IPPROTO_IPV6, unix.IPV6_RECVERR})] != 0
	_, ttl := u.options["ip.ttl"]
	_, hops := u.options["ipv6.unicast_hops"]
	return recverr && (ttl || hops)
}

// setOption makes sure that errors arrive before the datagram goes that causes them.
func (u *udp) setOption(c *call, level, name int, value []byte) verdict {
	if key := (optionKey{level, name}); key == keyDiscover || key == keyDiscover6 || key == keyDontFrag {
		return u.setDiscover(c, key, value)
	}
	u.mu.Lock()
	before := u.watches()
	u.mu.Unlock()
	v := u.dgram.setOption(c, level, name, value)
	u.mu.Lock()
	now := u.watches()
	u.mu.Unlock()
	if before || !now {
		return v
	}
	return c.later(func() verdict {
		u.watch()
		return v
	})
}

// watch makes the supervisor receive ICMP messages.
func (u *udp) watch() {
	u.s.sup.watch4.open(u.s.sup, false)
	if u.s.domain == unix.AF_INET6 {
		u.s.sup.watch6.open(u.s.sup, true)
	}
}

func (w *watch) open(sup *supervisor, six bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pipe != nil {
		return
	}
	p, theirs, err := newPipe()
	if err != nil {
		return
	}
	r := control.Request{Op: "icmp", Network: "ip4"}
	if six {
		r.Network = "ip6"
	}
	if _, _, err := sup.daemon.call(sup.ctx, r, theirs); err != nil {
		p.file.Close()
		return
	}
	w.pipe = p
	sup.wg.Add(1)
	go func() {
		defer sup.wg.Done()
		w.relay(sup, p, six)
		p.file.Close()
		w.mu.Lock()
		w.pipe = nil
		w.mu.Unlock()
	}()
}

// relay tells the sockets of their errors until the daemon's end.
func (w *watch) relay(sup *supervisor, p *pipe, six bool) {
	buf := frames.Get().(*[]byte)
	defer frames.Put(buf)
	for {
		n, err := p.file.Read(*buf)
		if err != nil {
			return
		}
		b := (*buf)[:n]
		if n < icmpFrameLen || b[0] != frameData {
			continue
		}
		q, ok := parseICMPError(six, b[icmpFrameLen:])
		const header = 8
		if !ok || q.proto != unix.IPPROTO_UDP || len(q.data) < header {
			continue
		}
		from := frameAddr(b[1]>>4, b[24:40])
		source, to := binary.BigEndian.Uint16(q.data), netip.AddrPortFrom(q.to, binary.BigEndian.Uint16(q.data[2:]))
		if q.errno == unix.EMSGSIZE && q.info > 0 {
			sup.paths.learn(q.to, int(q.info))
		}
		for _, s := range sup.table.all() {
			if u, ok := s.kind.(*udp); ok {
				u.errorArrived(from, source, to, q)
			}
		}
	}
}

// errorArrived is __udp4_lib_err's part for sockets with IP_RECVERR, and for a packet that was too big.
func (u *udp) errorArrived(from netip.Addr, source uint16, to netip.AddrPort, q quoted) {
	u.mu.Lock()
	whole := u.whole.four
	if q.to.Is6() {
		whole = u.whole.six
	}
	queues, connected := u.queues() || u.watches(), u.remote.IsValid()
	tooBig := whole && q.errno == unix.EMSGSIZE && (queues || connected)
	ours := (u.watches() || tooBig) && u.flow != 0 && u.local.Port() == source && (!u.remote.IsValid() || samePeer(u.remote, to))
	u.mu.Unlock()
	if !ours {
		return
	}
	if queues {
		u.queue(queuedError{errno: q.errno, typ: q.typ, code: q.code, info: q.info, from: from, to: to, data: q.data[8:]})
	}
	u.fail(q.errno)
}
