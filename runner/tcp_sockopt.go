package runner

import (
	"maps"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// tcpRules are the integer options of TCP sockets alone that are passed on to the stack; commonRules
// has the others.
var tcpRules = map[optionKey]optionRule{
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE}: {wire: "so.keepalive", min: -maxInt32, max: maxInt32, as: asSwitch},

	{unix.IPPROTO_TCP, unix.TCP_NODELAY}:      {wire: "tcp.nodelay", min: -maxInt32, max: maxInt32, as: asSwitch},
	{unix.IPPROTO_TCP, unix.TCP_CORK}:         {wire: "tcp.cork", min: -maxInt32, max: maxInt32, as: asSwitch},
	{unix.IPPROTO_TCP, unix.TCP_QUICKACK}:     {wire: "tcp.quickack", min: -maxInt32, max: maxInt32, initial: 1, as: asSwitch},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}:     {wire: "tcp.keepidle", min: 1, max: 32767, initial: 7200},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}:    {wire: "tcp.keepintvl", min: 1, max: 32767, initial: 75},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT}:      {wire: "tcp.keepcnt", min: 1, max: 127, initial: 9},
	{unix.IPPROTO_TCP, unix.TCP_SYNCNT}:       {wire: "tcp.syncnt", min: 1, max: 127, initial: 6},
	{unix.IPPROTO_TCP, unix.TCP_MAXSEG}:       {wire: "tcp.maxseg", min: 88, max: 32767, initial: 536},
	{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT}: {wire: "tcp.user_timeout", min: 0, max: maxInt32},
}

// keptOptions are options that make no difference on the stack, and are remembered as set.
var keptOptions = map[optionKey]int{
	{unix.SOL_SOCKET, unix.SO_OOBINLINE}:              0,
	{unix.SOL_SOCKET, unix.SO_DONTROUTE}:              0,
	{unix.SOL_SOCKET, unix.SO_BROADCAST}:              0,
	{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT}:         0,
	{unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP}:         0,
	{unix.IPPROTO_TCP, unix.TCP_LINGER2}:              60,
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN}:             0,
	{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT}:        0,
	{unix.IPPROTO_TCP, unix.TCP_THIN_LINEAR_TIMEOUTS}: 0,
	{unix.IPPROTO_TCP, unix.TCP_THIN_DUPACK}:          0,
	{unix.IPPROTO_TCP, unix.TCP_SAVE_SYN}:             0,
	{unix.IPPROTO_IP, unix.IP_FREEBIND}:               0,
	{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT}:   0,
	{unix.IPPROTO_IP, unix.IP_RECVERR}:                0,
	{unix.IPPROTO_IP, unix.IP_MULTICAST_TTL}:          1,
	{unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE}:       0,
	{unix.IPPROTO_IPV6, unix.IPV6_RECVERR}:            0,
	{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER}:       1,
	{unix.IPPROTO_IPV6, unix.IPV6_AUTOFLOWLABEL}:      1,
	{unix.IPPROTO_IP, unix.IP_PKTINFO}:                0,
	{unix.IPPROTO_IP, unix.IP_RECVTTL}:                0,
	{unix.IPPROTO_IP, unix.IP_RECVTOS}:                0,
	{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO}:        0,
	{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS}:         0,
	{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT}:       0,
	{unix.IPPROTO_IPV6, unix.IPV6_FREEBIND}:           0,
}

// keptPrefix begins the names of options that only the supervisor keeps.
const keptPrefix = "kept."

// keptName is what a kept option is called among the options of a socket.
func keptName(k optionKey) string {
	return keptPrefix + itoa(k.level) + "." + itoa(k.name)
}

// optionsFor are the options to send with a request about remote: those of the other family
// are left out, and those that only the supervisor keeps. mu is held.
func (t *tcp) optionsFor(remote netip.Addr) map[string]int {
	if len(t.options) == 0 {
		return nil
	}
	out := maps.Clone(t.options)
	for name := range out {
		switch {
		case strings.HasPrefix(name, keptPrefix),
			name == "ipv6.v6only" && remote.IsValid(),
			name[:3] == "ip." && remote.Is6(),
			name[:3] == "ipv" && (remote.Is4() || t.s.domain == unix.AF_INET):
			delete(out, name)
		}
	}
	return out
}

// optionTime is how long a changed option may wait for others of the same connection, so that they
// go to the daemon in one message.
const optionTime = time.Millisecond

// patient are the options that may wait for the sweeper, those of keep-alive: their effects come after
// seconds, and many connections are over by then.
var patient = map[string]bool{"so.keepalive": true, "tcp.keepidle": true, "tcp.keepintvl": true, "tcp.keepcnt": true}

// set notes an option and passes it on. mu is held.
func (t *tcp) set(wire string, v int) {
	old, known := t.options[wire]
	t.options[wire] = v
	if t.flow == 0 || known && old == v || !known && wire == "tcp.nodelay" && v == 1 { // as it is with the stack
		return
	}
	if t.unsent == nil {
		t.unsent = make(map[string]int)
	}
	t.unsent[wire] = v
	switch {
	case !patient[wire] && !t.flushing:
		t.flushing = true
		time.AfterFunc(optionTime, t.flushOptions)
	case patient[wire] && !t.listed:
		t.listed = true
		t.s.sup.laters.options(t)
	}
}

func (t *tcp) flushOptions() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sendOptions()
}

// sendOptions tells the daemon of options that were set on a connection. mu is held.
func (t *tcp) sendOptions() {
	if t.flow != 0 && len(t.unsent) > 0 {
		t.session.Post(control.Request{Op: "setopt", Flow: t.flow, Options: t.unsent})
	}
	t.unsent, t.flushing, t.listed = nil, false, false
}

func (t *tcp) setOption(c *call, level, name int, value []byte) verdict {
	key := optionKey{level, name}
	if rule, ok := ruleOf(tcpRules, key); ok {
		v, errno := intValue(level, value)
		switch {
		case errno != 0:
			return fail(errno)
		case level == unix.IPPROTO_IPV6 && t.s.domain != unix.AF_INET6:
			return fail(unix.ENOPROTOOPT)
		case v < rule.min || v > rule.max, rule.wire == "ip.ttl" && v == 0:
			return fail(unix.EINVAL)
		}
		if rule.as != nil {
			v = rule.as(v)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if rule.wire == "ipv6.v6only" && (t.wanted.IsValid() || t.state != tcpFresh) {
			return fail(unix.EINVAL)
		}
		t.set(rule.wire, v)
		return ret(0)
	}
	if _, ok := keptOptions[key]; ok {
		v, errno := intValue(level, value)
		if errno != 0 {
			return fail(errno)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.options[keptName(key)] = v
		return ret(0)
	}
	switch key {
	case optionKey{unix.SOL_SOCKET, unix.SO_LINGER}:
		return t.setLinger(c, value)
	case optionKey{unix.SOL_SOCKET, unix.SO_RCVBUF}, optionKey{unix.SOL_SOCKET, unix.SO_SNDBUF},
		optionKey{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE}, optionKey{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE}:
		return t.setBuffer(name, value)
	case optionKey{unix.IPPROTO_TCP, unix.TCP_CONGESTION}:
		return t.setCongestion(value)
	case optionKey{unix.IPPROTO_TCP, unix.TCP_ULP}:
		return fail(unix.ENOENT) // as where the kernel has no module for it
	case optionKey{unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT}, optionKey{unix.IPPROTO_TCP, unix.TCP_MD5SIG}:
		return fail(unix.EOPNOTSUPP)
	case optionKey{unix.SOL_SOCKET, unix.SO_BINDTODEVICE}:
		return t.s.bindToDevice(c, value)
	case optionKey{unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX}:
		return ret(0) // the stack has one link
	}
	return unknown
}

func (t *tcp) setLinger(c *call, value []byte) verdict {
	if len(value) < unix.SizeofLinger {
		return fail(unix.EINVAL)
	}
	on, _ := intValue(unix.SOL_SOCKET, value)
	seconds, _ := intValue(unix.SOL_SOCKET, value[4:])
	if on == 0 {
		seconds = -1
	} else if seconds < 0 {
		seconds = maxInt32
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old, known := t.options["so.linger"]
	t.options["so.linger"] = seconds
	if t.flow == 0 || known && old == seconds || !known && seconds < 0 {
		return ret(0)
	}
	// The next thing may be a close, of which the daemon hears another way: it has to know first.
	p := t.session.Begin(control.Request{Op: "setopt", Flow: t.flow, Name: "so.linger", Value: seconds}, -1)
	return c.later(func() verdict {
		_, _ = p.Wait(t.s.sup.ctx)
		return ret(0)
	})
}

// congestionNameMax is the length of the value of TCP_CONGESTION in bytes (TCP_CA_NAME_MAX), and
// congestionReno remembers which of the two it is.
const (
	congestionNameMax = 16
	congestionReno    = keptPrefix + "reno"
)

// setCongestion takes the names that every kernel has; the stack's is the same for all of its
// connections.
func (t *tcp) setCongestion(value []byte) verdict {
	name, _, _ := strings.Cut(string(value), "\x00")
	if name != "reno" && name != "cubic" {
		return fail(unix.ENOENT)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.options[congestionReno] = 0
	if name == "reno" {
		t.options[congestionReno] = 1
	}
	return ret(0)
}

// setBuffer sets the size of a buffer of the stack's. The unix socket keeps its own.
func (t *tcp) setBuffer(name int, value []byte) verdict {
	v, errno := intValue(unix.SOL_SOCKET, value)
	if errno != 0 {
		return fail(errno)
	}
	wire := "so.rcvbuf"
	if name == unix.SO_SNDBUF || name == unix.SO_SNDBUFFORCE {
		wire = "so.sndbuf"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(wire, min(max(v, 2304), 1<<29))
	return ret(0)
}

func (t *tcp) option(c *call, level, name int) verdict {
	if v, ok := t.s.nature(level, name); ok {
		return c.value(intBytes(v))
	}
	key := optionKey{level, name}
	t.mu.Lock()
	defer t.mu.Unlock()
	if rule, ok := ruleOf(tcpRules, key); ok {
		if level == unix.IPPROTO_IPV6 && t.s.domain != unix.AF_INET6 {
			return fail(unix.EOPNOTSUPP)
		}
		v, set := t.options[rule.wire]
		switch {
		case rule.wire == "tcp.maxseg" && t.state == tcpConnected:
			remote := t.remote.Addr()
			return t.answerPath(c, func(mtu int) int {
				if n := segment(remote, mtu); !set || n < v {
					return n
				}
				return v
			})
		case !set:
			v = rule.initial
		}
		return c.value(intBytes(v))
	}
	if v, ok := keptOptions[key]; ok {
		if set, ok := t.options[keptName(key)]; ok {
			v = set
		}
		return c.value(intBytes(v))
	}
	switch key {
	case optionKey{unix.SOL_SOCKET, unix.SO_ERROR}:
		return c.value(intBytes(int(t.takeError(c))))
	case optionKey{unix.SOL_SOCKET, unix.SO_LINGER}:
		v, set := t.options["so.linger"]
		if !set || v < 0 {
			return c.value(make([]byte, unix.SizeofLinger))
		}
		return c.value(append(intBytes(1), intBytes(v)...))
	case optionKey{unix.SOL_SOCKET, unix.SO_RCVBUF}:
		if v, ok := t.options["so.rcvbuf"]; ok {
			return c.value(intBytes(2 * v)) // as the kernel counts (socket(7))
		}
		return c.value(intBytes(131072))
	case optionKey{unix.SOL_SOCKET, unix.SO_SNDBUF}:
		if v, ok := t.options["so.sndbuf"]; ok {
			return c.value(intBytes(2 * v))
		}
		return c.value(intBytes(87040))
	case optionKey{unix.IPPROTO_TCP, unix.TCP_CONGESTION}:
		name := [congestionNameMax]byte{}
		copy(name[:], "cubic")
		if t.options[congestionReno] != 0 {
			name = [congestionNameMax]byte{'r', 'e', 'n', 'o'}
		}
		return c.value(name[:])
	case optionKey{unix.IPPROTO_TCP, unix.TCP_INFO}:
		return t.info(c)
	case optionKey{unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT}:
		return c.value(intBytes(0))
	case optionKey{unix.IPPROTO_IP, unix.IP_MTU}, optionKey{unix.IPPROTO_IPV6, unix.IPV6_MTU}:
		if t.state != tcpConnected {
			return fail(unix.ENOTCONN)
		}
		return t.answerPath(c, func(mtu int) int { return mtu })
	}
	return unknown
}

// takeError is SO_ERROR: what a connect or the stack has left, else what the unix socket
// met. mu is held.
func (t *tcp) takeError(c *call) syscall.Errno {
	if t.err != 0 {
		errno := t.err
		t.err = 0
		// The unix socket's own error tells of the same.
		_, _ = unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		return errno
	}
	if t.state == tcpConnecting || t.state == tcpFailed {
		return 0
	}
	v, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return 0
	}
	return syscall.Errno(v)
}
