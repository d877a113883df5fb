package runner

import (
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// An optionKey is an option as setsockopt names it.
type optionKey struct{ level, name int }

// An optionRule is how an integer option is passed on to the stack.
type optionRule struct {
	wire     string // its name in control's protocol.md
	min, max int    // what Linux takes; others are EINVAL
	// initial is what getsockopt answers before it is set.
	initial int
	// as, if set, turns the program's value into what is kept and passed on.
	as func(v int) int
}

// commonRules are the integer options of every socket that are passed on to the stack.
var commonRules = map[optionKey]optionRule{
	{unix.SOL_SOCKET, unix.SO_REUSEADDR}: {wire: "so.reuseaddr", min: -maxInt32, max: maxInt32, as: asSwitch},
	{unix.SOL_SOCKET, unix.SO_REUSEPORT}: {wire: "so.reuseport", min: -maxInt32, max: maxInt32, as: asSwitch},

	{unix.IPPROTO_IP, unix.IP_TTL}:          {wire: "ip.ttl", min: -1, max: 255, initial: 64},
	{unix.IPPROTO_IP, unix.IP_TOS}:          {wire: "ip.tos", min: 0, max: 255},
	{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER}: {wire: "ip.mtu_discover", min: 0, max: 5, initial: 1, as: asDiscover},

	{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS}: {wire: "ipv6.unicast_hops", min: -1, max: 255, initial: 64},
	{unix.IPPROTO_IPV6, unix.IPV6_TCLASS}:       {wire: "ipv6.tclass", min: -1, max: 255, as: func(v int) int { return max(v, 0) }},
	{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}:       {wire: "ipv6.v6only", min: -maxInt32, max: maxInt32, as: asSwitch},
}

// ruleOf looks an option up in the rules of a kind of sockets and in the common ones.
func ruleOf(kind map[optionKey]optionRule, key optionKey) (optionRule, bool) {
	rule, ok := kind[key]
	if !ok {
		rule, ok = commonRules[key]
	}
	return rule, ok
}

// asDiscover leaves out the kinds of IP_MTU_DISCOVER that differ only in what they do with the
// kernel's routes: PROBE, INTERFACE and OMIT.
func asDiscover(v int) int {
	switch v {
	case unix.IP_PMTUDISC_PROBE:
		return unix.IP_PMTUDISC_DO
	case unix.IP_PMTUDISC_INTERFACE, unix.IP_PMTUDISC_OMIT:
		return unix.IP_PMTUDISC_DONT
	}
	return v
}

func asSwitch(v int) int {
	if v != 0 {
		return 1
	}
	return 0
}

const maxInt32 = 1<<31 - 1

// intValue decodes the value of an integer option. Like the kernel's it may be longer; options of
// level IPPROTO_IP may be a byte.
func intValue(level int, value []byte) (int, syscall.Errno) {
	switch {
	case len(value) >= 4:
		return int(int32(binary.NativeEndian.Uint32(value))), 0
	case level == unix.IPPROTO_IP && len(value) >= 1:
		return int(value[0]), 0
	}
	return 0, unix.EINVAL
}

// intBytes encodes the value of an integer option.
func intBytes(v int) []byte {
	return binary.NativeEndian.AppendUint32(nil, uint32(int32(v)))
}

// nature answers what is the same for every socket of the stack: SO_TYPE, SO_DOMAIN and
// SO_PROTOCOL.
func (s *socket) nature(level, name int) (int, bool) {
	if level != unix.SOL_SOCKET {
		return 0, false
	}
	switch name {
	case unix.SO_TYPE:
		return s.typ, true
	case unix.SO_DOMAIN:
		return s.domain, true
	case unix.SO_PROTOCOL:
		return s.proto, true
	}
	return 0, false
}

// bindToDevice is SO_BINDTODEVICE: the stack has one link besides its loopback, so that a name which is
// there changes nothing.
func (s *socket) bindToDevice(c *call, value []byte) verdict {
	name, _, _ := strings.Cut(string(value), "\x00")
	if name == "" {
		return ret(0)
	}
	return c.later(func() verdict {
		links, err := s.sup.daemon.client.Links(s.sup.ctx)
		if err != nil {
			return fail(errnoOf(err))
		}
		if slices.ContainsFunc(links, func(l control.Link) bool { return l.Name == name }) {
			return ret(0)
		}
		if _, err := net.InterfaceByName(name); err == nil { // of the program's own namespace
			return ret(0)
		}
		return fail(unix.ENODEV)
	})
}
