package runner

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options that say what becomes of a datagram longer than the MTU.
var (
	keyDiscover  = optionKey{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER}
	keyDiscover6 = optionKey{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER}
	keyDontFrag  = optionKey{unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG}
)

const udpHeader = 8

// A whole says which datagrams must not be cut into fragments, the MTU of the link, in bytes, and the
// stack's addresses, whose datagrams do not go there.
type whole struct {
	four, six bool
	mtu       int
	own       []netip.Addr
}

// paths are MTUs of paths, in bytes, as routers have told them.
type paths struct {
	mu sync.Mutex
	to map[netip.Addr]path
}

type path struct {
	mtu  int
	told time.Time
}

const (
	// pathTime is how long a path's MTU holds (net.ipv4.route.mtu_expires), maxPaths how many are
	// remembered.
	pathTime = 10 * time.Minute
	maxPaths = 1024
	// minMTU4 is net.ipv4.route.min_pmtu, minMTU6 IPV6_MIN_MTU.
	minMTU4 = 552
	minMTU6 = 1280
)

// learn takes note of an ICMP error "packet too big".
func (p *paths) learn(to netip.Addr, mtu int) {
	least := minMTU4
	if to.Is6() {
		least = minMTU6
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to == nil || len(p.to) >= maxPaths {
		p.to = make(map[netip.Addr]path)
	}
	p.to[to] = path{max(mtu, least), time.Now()}
}

// mtu is that of the path, where the link's is at most this one.
func (p *paths) mtu(to netip.Addr, link int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.to[to.Unmap()]; ok && time.Since(known.told) < pathTime {
		return min(link, known.mtu)
	}
	return link
}

// setDiscover sets one of the options of how a path's MTU is found. Of those that forbid fragments PROBE
// and INTERFACE differ from DO in that they leave what routers tell alone.
func (u *udp) setDiscover(c *call, key optionKey, value []byte) verdict {
	v, errno := intValue(key.level, value)
	switch {
	case key.level == unix.IPPROTO_IPV6 && u.s.domain != unix.AF_INET6:
		return fail(unix.ENOPROTOOPT)
	case errno != 0:
		return fail(errno)
	case key == keyDontFrag:
		v = asSwitch(v)
	case v < unix.IP_PMTUDISC_DONT || v > unix.IP_PMTUDISC_OMIT:
		return fail(unix.EINVAL)
	}
	forbids := func(key optionKey) bool {
		v := u.options[keptName(key)]
		return v >= unix.IP_PMTUDISC_DO && v <= unix.IP_PMTUDISC_INTERFACE
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.options[keptName(key)] = v
	if key == keyDiscover {
		u.whole.four = forbids(key)
		u.set("ip.mtu_discover", discoverOf(u.whole.four, v == unix.IP_PMTUDISC_WANT))
	} else {
		u.whole.six = forbids(keyDiscover6) || u.options[keptName(keyDontFrag)] != 0
		u.set("ipv6.mtu_discover", discoverOf(u.whole.six, true))
	}
	if !u.whole.four && !u.whole.six {
		return ret(0)
	}
	return c.later(func() verdict {
		u.watch()
		client := &u.s.sup.daemon.client
		mtu := pathMTU(u.s.sup.ctx, client, netip.Addr{})
		addrs, _ := client.Addrs(u.s.sup.ctx)
		u.mu.Lock()
		defer u.mu.Unlock()
		u.whole.mtu, u.whole.own = mtu, nil
		for _, a := range addrs {
			u.whole.own = append(u.whole.own, a.Prefix.Addr())
		}
		return ret(0)
	})
}

// discoverOf is what the stack is told.
func discoverOf(whole, want bool) int {
	switch {
	case whole:
		return unix.IP_PMTUDISC_DO
	case want:
		return unix.IP_PMTUDISC_WANT
	}
	return unix.IP_PMTUDISC_DONT
}

// queues says whether the program reads errors from their queue. mu is held.
func (u *udp) queues() bool {
	if u.s.domain == unix.AF_INET6 {
		return u.options[keptName(optionKey{unix.IPPROTO_IPV6, unix.IPV6_RECVERR})] != 0
	}
	return u.options[keptName(optionKey{unix.IPPROTO_IP, unix.IP_RECVERR})] != 0
}

// tooLong says whether a datagram of n bytes would have to be cut that must not be. The program reads of it
// from the queue of errors, too, if it asked for that (ip_local_error). mu is held.
func (u *udp) tooLong(n int, to netip.AddrPort) bool {
	if !to.IsValid() {
		to = u.remote
	}
	a := to.Addr().Unmap()
	is, header, key := u.whole.four, ipv4Header+udpHeader, keyDiscover
	if a.Is6() {
		is, header, key = u.whole.six, ipv6Header+udpHeader, keyDiscover6
	}
	mtu := u.whole.mtu
	if v := u.options[keptName(key)]; v != unix.IP_PMTUDISC_PROBE && v != unix.IP_PMTUDISC_INTERFACE {
		mtu = u.s.sup.paths.mtu(a, mtu)
	}
	if !is || n <= mtu-header || a.IsLoopback() || slices.Contains(u.whole.own, a) {
		return false
	}
	if u.queues() && len(u.errors) < maxErrors {
		u.errors = append(u.errors, queuedError{errno: unix.EMSGSIZE, local: true, info: uint32(mtu), to: to})
		u.alarmSoon()
	}
	return true
}
