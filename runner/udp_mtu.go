package runner

import (
	"net/netip"
	"slices"

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

// setDiscover sets one of the options of how a path's MTU is found. Of those that forbid fragments PROBE
// and INTERFACE differ from DO in what they do with ICMP errors, which the stack leaves alone for UDP.
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

// tooLong says whether a datagram of n bytes would have to be cut that must not be. The program reads of it
// from the queue of errors, too, if it asked for that (ip_local_error). mu is held.
func (u *udp) tooLong(n int, to netip.AddrPort) bool {
	if !to.IsValid() {
		to = u.remote
	}
	a := to.Addr().Unmap()
	is, header := u.whole.four, ipv4Header+udpHeader
	recverr := optionKey{unix.IPPROTO_IP, unix.IP_RECVERR}
	if a.Is6() {
		is, header = u.whole.six, ipv6Header+udpHeader
	}
	if u.s.domain == unix.AF_INET6 {
		recverr = optionKey{unix.IPPROTO_IPV6, unix.IPV6_RECVERR}
	}
	if !is || n <= u.whole.mtu-header || a.IsLoopback() || slices.Contains(u.whole.own, a) {
		return false
	}
	if u.options[keptName(recverr)] != 0 && len(u.errors) < maxErrors {
		u.errors = append(u.errors, queuedError{errno: unix.EMSGSIZE, local: true, info: uint32(u.whole.mtu), to: to})
	}
	return true
}
