package runner

import (
	"maps"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// dgramRules are the integer options of datagram sockets alone that are passed on to the stack;
// commonRules has the others.
var dgramRules = map[optionKey]optionRule{
	{unix.SOL_SOCKET, unix.SO_BROADCAST}: {wire: "so.broadcast", min: -maxInt32, max: maxInt32, as: asSwitch},

	{unix.IPPROTO_IP, unix.IP_MULTICAST_TTL}:  {wire: "ip.multicast_ttl", min: -1, max: 255, initial: 1, as: asHops},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP}: {wire: "ip.multicast_loop", min: -maxInt32, max: maxInt32, initial: 1, as: asSwitch},

	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS}: {wire: "ip.multicast_ttl", min: -1, max: 255, initial: 1, as: asHops},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP}: {wire: "ip.multicast_loop", min: 0, max: 1, initial: 1},
}

func asHops(v int) int {
	if v == -1 {
		return 1
	}
	return v
}

// keptDatagram are options that the supervisor remembers: those that ask for control
// messages, and those that make no difference on the stack.
var keptDatagram = map[optionKey]int{
	{unix.SOL_SOCKET, unix.SO_OOBINLINE}:            0,
	{unix.SOL_SOCKET, unix.SO_DONTROUTE}:            0,
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE}:            0,
	{unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX}:        0,
	keyPktinfo:                                      0,
	keyTTL:                                          0,
	keyTOS:                                          0,
	{unix.IPPROTO_IP, unix.IP_RECVERR}:              0,
	{unix.IPPROTO_IP, unix.IP_RECVOPTS}:             0,
	{unix.IPPROTO_IP, unix.IP_RETOPTS}:              0,
	{unix.IPPROTO_IP, unix.IP_FREEBIND}:             0,
	{unix.IPPROTO_IP, unix.IP_MINTTL}:               0,
	{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT}: 0,
	{unix.IPPROTO_IP, unix.IP_MULTICAST_ALL}:        1,
	{unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE}:     0,
	keyPktinfo6:                                     0,
	keyHops:                                         0,
	keyHopsOld:                                      0,
	keyClass:                                        0,
	{unix.IPPROTO_IPV6, unix.IPV6_RECVERR}:          0,
	keyDiscover6:                                    1,
	keyDontFrag:                                     0,
	{unix.IPPROTO_IPV6, unix.IPV6_AUTOFLOWLABEL}:    1,
	{unix.IPPROTO_IPV6, unix.IPV6_FREEBIND}:         0,
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF}:     0,
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL}:    1,
	{unix.IPPROTO_UDP, udpCork}:                     0,
}

// Options of level IPPROTO_UDP (include/uapi/linux/udp.h).
const (
	udpCork    = 1
	udpSegment = 103
	udpGRO     = 104
)

// optionsFor are the options to send with a request about an address of remote's family.
func (d *dgram) optionsFor(remote netip.Addr) map[string]int {
	out := maps.Clone(d.options)
	for name := range out {
		switch {
		case name[0] == 'k',
			name == "ipv6.v6only" && remote.Is4(),
			name == "ip.tos" && remote.Is6() && d.s.domain == unix.AF_INET6,
			name[:3] == "ipv" && remote.Is4():
			delete(out, name)
		}
	}
	return out
}

// set notes an option and passes it on. mu is held.
func (d *dgram) set(wire string, v int) {
	if d.options == nil {
		d.options = make(map[string]int)
	}
	d.options[wire] = v
	if d.flow != 0 && wire[0] != 'k' {
		d.session.Post(control.Request{Op: "setopt", Flow: d.flow, Name: wire, Value: v})
	}
}

func (d *dgram) setOption(c *call, level, name int, value []byte) verdict {
	key := optionKey{level, name}
	if level == unix.IPPROTO_IPV6 && d.s.domain != unix.AF_INET6 {
		return fail(unix.ENOPROTOOPT)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if rule, ok := ruleOf(dgramRules, key); ok {
		v, errno := intValue(level, value)
		switch {
		case errno != 0:
			return fail(errno)
		case v < rule.min || v > rule.max, rule.wire == "ip.ttl" && v == 0:
			return fail(unix.EINVAL)
		case rule.wire == "ipv6.v6only" && (d.wanted.IsValid() || d.flow != 0):
			return fail(unix.EINVAL)
		}
		if rule.as != nil {
			v = rule.as(v)
		}
		d.set(rule.wire, v)
		return ret(0)
	}
	if _, ok := keptDatagram[key]; ok {
		v, errno := intValue(level, value)
		if errno != 0 {
			return fail(errno)
		}
		d.set(keptName(key), v)
		return ret(0)
	}
	switch key {
	case optionKey{unix.SOL_SOCKET, unix.SO_RCVBUF}, optionKey{unix.SOL_SOCKET, unix.SO_SNDBUF},
		optionKey{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE}, optionKey{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE}:
		v, errno := intValue(level, value)
		if errno != 0 {
			return fail(errno)
		}
		wire := "so.rcvbuf"
		if name == unix.SO_SNDBUF || name == unix.SO_SNDBUFFORCE {
			wire = "so.sndbuf"
		}
		d.set(wire, min(max(v, 2304), 1<<29))
		return ret(0)
	case optionKey{unix.SOL_SOCKET, unix.SO_TIMESTAMP}, optionKey{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS}:
		d.set("kept.stamp", 1)
		return native
	case optionKey{unix.SOL_SOCKET, unix.SO_LINGER}:
		return ret(0)
	case optionKey{unix.SOL_SOCKET, unix.SO_BINDTODEVICE}:
		// There is one link, which the program's namespace may have a picture of.
		if link := unix.ByteSliceToString(value); link != "" {
			if _, err := net.InterfaceByName(link); err != nil {
				return fail(unix.ENODEV)
			}
		}
		return ret(0)
	case optionKey{unix.IPPROTO_IPV6, unix.IPV6_MTU}: // how long fragments are to be
		switch v, errno := intValue(level, value); {
		case errno != 0:
			return fail(errno)
		case v != 0 && v < 1280: // RFC 8200 section 5
			return fail(unix.EINVAL)
		}
		return ret(0)
	case optionKey{unix.IPPROTO_IP, unix.IP_MULTICAST_IF}, optionKey{unix.IPPROTO_IP, unix.IP_OPTIONS}:
		if name == unix.IP_OPTIONS && len(value) > 0 {
			return unknown
		}
		return ret(0)
	case optionKey{unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP}, optionKey{unix.IPPROTO_IP, unix.IP_DROP_MEMBERSHIP}:
		return d.member(c, name == unix.IP_ADD_MEMBERSHIP, value)
	case optionKey{unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP}, optionKey{unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP}:
		if len(value) < 20 {
			return fail(unix.EINVAL)
		}
		return d.joinOrLeave(c, name == unix.IPV6_JOIN_GROUP, netip.AddrFrom16([16]byte(value)), netip.Addr{})
	case optionKey{unix.IPPROTO_IP, mcastJoinGroup}, optionKey{unix.IPPROTO_IP, mcastLeaveGroup},
		optionKey{unix.IPPROTO_IPV6, mcastJoinGroup}, optionKey{unix.IPPROTO_IPV6, mcastLeaveGroup}:
		if len(value) < 8+sizeIn6 {
			return fail(unix.EINVAL)
		}
		to, errno := parseSockaddr(value[8:8+sizeIn6], d.s.domain)
		if errno != 0 {
			return fail(errno)
		}
		return d.joinOrLeave(c, name == mcastJoinGroup, to.addr.Addr(), netip.Addr{})
	}
	return unknown
}

// Options of struct group_req (include/uapi/linux/in.h).
const (
	mcastJoinGroup  = 42
	mcastLeaveGroup = 45
)

// member is IP_ADD_MEMBERSHIP and IP_DROP_MEMBERSHIP with struct ip_mreq or ip_mreqn. mu is held.
func (d *dgram) member(c *call, join bool, value []byte) verdict {
	if len(value) < 8 {
		return fail(unix.EINVAL)
	}
	var local netip.Addr
	if a := netip.AddrFrom4([4]byte(value[4:])); !a.IsUnspecified() {
		local = a
	}
	return d.joinOrLeave(c, join, netip.AddrFrom4([4]byte(value)), local)
}

// option is getsockopt.
func (d *dgram) option(c *call, level, name int) verdict {
	if v, ok := d.s.nature(level, name); ok {
		return c.value(intBytes(v))
	}
	key := optionKey{level, name}
	switch {
	case level == unix.IPPROTO_IPV6 && d.s.domain != unix.AF_INET6:
		return fail(unix.ENOPROTOOPT)
	case level == unix.IPPROTO_TCP:
		return fail(unix.EOPNOTSUPP)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, ok := d.options[keptName(key)]; ok && key == keyDiscover {
		return c.value(intBytes(v))
	}
	if rule, ok := ruleOf(dgramRules, key); ok {
		v, set := d.options[rule.wire]
		if !set || rule.wire == "ip.ttl" && v == -1 || rule.wire == "ipv6.unicast_hops" && v == -1 {
			v = rule.initial
		}
		return c.value(intBytes(v))
	}
	if v, ok := keptDatagram[key]; ok {
		if set, ok := d.options[keptName(key)]; ok {
			v = set
		}
		return c.value(intBytes(v))
	}
	switch key {
	case optionKey{unix.SOL_SOCKET, unix.SO_ERROR}:
		errno := d.takeError(c.fd)
		return c.value(intBytes(int(errno)))
	case optionKey{unix.SOL_SOCKET, unix.SO_RCVBUF}, optionKey{unix.SOL_SOCKET, unix.SO_SNDBUF}:
		wire := "so.rcvbuf"
		if name == unix.SO_SNDBUF {
			wire = "so.sndbuf"
		}
		if v, ok := d.options[wire]; ok {
			return c.value(intBytes(2 * v)) // as the kernel counts (socket(7))
		}
		return c.value(intBytes(212992))
	case optionKey{unix.SOL_SOCKET, unix.SO_LINGER}:
		return c.value(make([]byte, unix.SizeofLinger))
	case optionKey{unix.SOL_SOCKET, unix.SO_BINDTODEVICE}:
		return c.value(nil)
	case optionKey{unix.IPPROTO_IP, unix.IP_MULTICAST_IF}:
		return c.value(make([]byte, 4))
	case optionKey{unix.IPPROTO_IP, unix.IP_OPTIONS}:
		return c.value(nil)
	case optionKey{unix.IPPROTO_IP, unix.IP_MTU}, optionKey{unix.IPPROTO_IPV6, unix.IPV6_MTU}:
		remote := d.remote.Addr()
		if !remote.IsValid() {
			return fail(unix.ENOTCONN)
		}
		if remote == d.local.Addr() {
			return c.value(intBytes(loopbackMTU))
		}
		later := c.detached()
		return c.later(func() verdict {
			mtu := pathMTU(d.s.sup.ctx, &d.s.sup.daemon.client, remote)
			return later.value(intBytes(d.s.sup.paths.mtu(remote, mtu)))
		})
	}
	return unknown
}

// joinOrLeave begins or ends a membership in a group, of sockets that can have one. mu is held.
func (d *dgram) joinOrLeave(c *call, join bool, group, local netip.Addr) verdict {
	if !group.IsMulticast() {
		return fail(unix.EINVAL)
	}
	if d.membership == nil {
		return unknown
	}
	return d.membership(c, join, group, local)
}

// request asks the daemon about the flow, from a goroutine.
func (d *dgram) request(r control.Request) (control.Reply, syscall.Errno) {
	d.mu.Lock()
	session, flow := d.session, d.flow
	d.mu.Unlock()
	if flow == 0 {
		return control.Reply{}, unix.ENETDOWN
	}
	r.Flow = flow
	rep, err := session.Call(d.s.sup.ctx, r, -1)
	return rep, errnoOf(err)
}
