package main

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

func dualStack(w *world) {
	mapped := netip.AddrFrom16(w.peer4.As16())
	fd := tcp6()
	w.say("mapped", unix.Connect(fd, addr(mapped, portEcho)))
	w.say("mapped, local", local(fd))
	w.say("mapped, remote", remote(fd))
	w.say("mapped, data", write(fd, "hello"), read(fd, 10))
	unix.Close(fd)
	fd = tcp6()
	w.say("mapped, refused", unix.Connect(fd, addr(mapped, portNobody)))
	unix.Close(fd)
	fd = tcp6()
	check(setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	w.say("mapped, IPv6 only", unix.Connect(fd, addr(mapped, portEcho)))
	unix.Close(fd)
	fd = udp6()
	w.say("mapped UDP", unix.Sendto(fd, []byte("hello"), 0, addr(mapped, portEcho)))
	got, from := receive(fd, 100, 0)
	w.say("mapped UDP answer", got, from)
	unix.Close(fd)

	l := bound(tcp6(), any6, 7170)
	check(unix.Listen(l, 5))
	w.say("both: local", local(l))
	for _, family := range []string{"4", "6"} {
		w.ask("dial" + family + " 7170 hello")
		c, sa, err := unix.Accept(l)
		w.say("both: IPv"+family, text(sa, err), local(c), remote(c) == text(sa, err))
		unix.Close(c)
	}
	other := tcp()
	w.say("both: IPv4 beside it", unix.Bind(other, addr(any4, 7170)))
	closeAll(other, l)

	l = tcp6()
	check(setInt(l, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	check(unix.Bind(l, addr(any6, 7171)))
	check(unix.Listen(l, 5))
	w.say("IPv6 only: IPv4", w.ask("dial4 7171 hello"))
	w.say("IPv6 only: IPv6", w.ask("dial6 7171 hello"))
	other = tcp()
	w.say("IPv6 only: IPv4 beside it", unix.Bind(other, addr(any4, 7171)), unix.Listen(other, 5))
	w.say("IPv6 only: IPv4 then", w.ask("dial4 7171 hello"))
	c, sa, err := unix.Accept(other)
	w.say("IPv6 only: who came", text(sa, err))
	closeAll(c, other, l)

	l = bound(tcp6(), netip.AddrFrom16(w.own4.As16()), 7172)
	check(unix.Listen(l, 5))
	w.say("bound to a mapped one", local(l), w.ask("dial4 7172 hello"))
	unix.Close(l)
	l = bound(tcp(), any4, 7173)
	check(unix.Listen(l, 5))
	w.say("IPv4 listens, IPv6 comes", w.ask("dial6 7173 hello"))
	unix.Close(l)
	fd = tcp6()
	check(unix.Connect(fd, addr(w.peer6, portEcho)))
	w.say("V6ONLY when connected", setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	unix.Close(fd)
}

// An intOption is an option, and a value to set it to.
type intOption struct {
	name       string
	level, opt int
	v          int
}

// tryOption tells an option before and after it is set, and closes fd. Of sizes it tells only
// whether they are of the right order.
func (w *world) tryOption(fd int, o intOption) {
	before, berr := unix.GetsockoptInt(fd, o.level, o.opt)
	serr := setInt(fd, o.level, o.opt, o.v)
	after, aerr := unix.GetsockoptInt(fd, o.level, o.opt)
	if strings.HasSuffix(o.name, "BUF") {
		w.say(o.name, berr, before > 1000, serr, aerr, after >= o.v)
	} else {
		w.say(o.name, berr, before, serr, aerr, after)
	}
	unix.Close(fd)
}

func options(w *world) {
	// Set, and what is there then.
	for _, o := range []intOption{
		{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"SO_OOBINLINE", unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
		{"SO_BROADCAST", unix.SOL_SOCKET, unix.SO_BROADCAST, 1},
		{"SO_DONTROUTE", unix.SOL_SOCKET, unix.SO_DONTROUTE, 0},
		{"SO_PRIORITY", unix.SOL_SOCKET, unix.SO_PRIORITY, 3},
		{"SO_RCVLOWAT", unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1},
		{"SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, 65536},
		{"SO_SNDBUF", unix.SOL_SOCKET, unix.SO_SNDBUF, 65536},
		{"SO_TIMESTAMP", unix.SOL_SOCKET, unix.SO_TIMESTAMP, 1},
		{"SO_MARK", unix.SOL_SOCKET, unix.SO_MARK, 5},
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"TCP_CORK", unix.IPPROTO_TCP, unix.TCP_CORK, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 77},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 7},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 5},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 30000},
		{"TCP_SYNCNT", unix.IPPROTO_TCP, unix.TCP_SYNCNT, 4},
		{"TCP_LINGER2", unix.IPPROTO_TCP, unix.TCP_LINGER2, 20},
		{"TCP_DEFER_ACCEPT", unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 0},
		{"TCP_QUICKACK", unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1},
		{"TCP_MAXSEG", unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1000},
		{"IP_TOS", unix.IPPROTO_IP, unix.IP_TOS, 0x10},
		{"IP_TTL", unix.IPPROTO_IP, unix.IP_TTL, 33},
		{"IP_MTU_DISCOVER", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO},
		{"IP_RECVERR", unix.IPPROTO_IP, unix.IP_RECVERR, 1},
		{"IP_FREEBIND", unix.IPPROTO_IP, unix.IP_FREEBIND, 1},
		{"IP_BIND_ADDRESS_NO_PORT", unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1},
		{"unknown TCP option", unix.IPPROTO_TCP, 9999, 1},
		{"unknown socket option", unix.SOL_SOCKET, 9999, 1},
		{"unknown level", 9999, 1, 1},
		{"IPV6_V6ONLY of IPv4", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
	} {
		w.tryOption(tcp(), o)
	}
	for _, o := range []intOption{
		{"IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
		{"IPV6_UNICAST_HOPS", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 9},
		{"IPV6_TCLASS", unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 0x20},
		{"IPV6_RECVPKTINFO", unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
		{"TCP_NODELAY, IPv6", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	} {
		w.tryOption(tcp6(), o)
	}
	for _, o := range []intOption{
		{"UDP IP_PKTINFO", unix.IPPROTO_IP, unix.IP_PKTINFO, 1},
		{"UDP IP_RECVTTL", unix.IPPROTO_IP, unix.IP_RECVTTL, 1},
		{"UDP IP_MULTICAST_TTL", unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 4},
		{"UDP IP_MULTICAST_LOOP", unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0},
		{"UDP TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"UDP SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	} {
		w.tryOption(udp(), o)
	}

	fd := tcp()
	l, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER)
	w.say("SO_LINGER", l.Onoff, l.Linger, err)
	w.say("SO_LINGER set", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 6}))
	l, err = unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER)
	w.say("SO_LINGER then", l.Onoff, l.Linger, err)
	w.say("SO_RCVTIMEO", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3}))
	tv, err := unix.GetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO)
	w.say("SO_RCVTIMEO then", tv.Sec, err)
	w.say("SO_BINDTODEVICE lo", unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo"))
	w.say("SO_BINDTODEVICE none", unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "none0"))
	w.say("TCP_CONGESTION", unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno"))
	cc, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	w.say("TCP_CONGESTION then", strings.TrimRight(cc, "\x00"), err)
	unix.Close(fd)

	fd = tcp()
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	w.say("TCP_INFO", tcpState(info), err)
	check(unix.Connect(fd, addr(w.peer4, portEcho)))
	write(fd, strings.Repeat("x", 1000))
	readSome(fd, 1000)
	info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	w.say("TCP_INFO, connected", tcpState(info), err)
	if err == nil {
		w.say("TCP_INFO, figures", info.Rtt > 0, info.Snd_mss > 500, info.Rcv_mss > 0, info.Snd_cwnd > 0)
	}
	mss, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	w.say("TCP_MAXSEG, connected", mss, err)
	mtu, err := unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU)
	w.say("IP_MTU, connected", mtu, err)
	w.say("TCP_NODELAY, connected", setInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	w.say("SO_KEEPALIVE, connected", setInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1))
	w.say("still talks", write(fd, "yes"), read(fd, 10))
	unix.Close(fd)
}

func readSome(fd, size int) { sumOf(fd, size) }

func tcpState(info *unix.TCPInfo) string {
	if info == nil {
		return "none"
	}
	names := map[uint8]string{1: "ESTABLISHED", 2: "SYN_SENT", 7: "CLOSE", 8: "CLOSE_WAIT", 10: "LISTEN"}
	if n, ok := names[info.State]; ok {
		return n
	}
	return fmt.Sprint(info.State)
}

func loopback(w *world) {
	for _, x := range []struct {
		name   string
		listen func(...int) int
		on, to netip.Addr
	}{
		{"IPv4", tcp, loop4, loop4},
		{"IPv4, all addresses", tcp, any4, loop4},
		{"own address", tcp, any4, w.own4},
		{"own address, bound", tcp, w.own4, w.own4},
		{"0.0.0.0", tcp, any4, any4},
		{"127.0.0.2", tcp, any4, netip.MustParseAddr("127.0.0.2")},
		{"IPv6", tcp6, loop6, loop6},
		{"IPv6, all addresses", tcp6, any6, loop6},
		{"IPv6, own address", tcp6, any6, w.own6},
		{"IPv6, mapped", tcp6, any6, netip.MustParseAddr("::ffff:127.0.0.1")},
		{"IPv6 listens, IPv4 comes", tcp6, any6, loop4},
	} {
		l := x.listen()
		w.say(x.name+": bind", unix.Bind(l, addr(x.on, 0)), unix.Listen(l, 5))
		c := tcp()
		if x.to.Is6() {
			unix.Close(c)
			c = tcp6()
		}
		err := unix.Connect(c, addr(x.to, port(l)))
		w.say(x.name+": connect", err)
		if err != nil {
			closeAll(l, c)
			continue
		}
		s, sa, err := unix.Accept(l)
		w.say(x.name+": accept", text(sa, err), local(s), local(c), remote(c) == local(s))
		w.say(x.name+": data", write(c, "there"), read(s, 10), write(s, "back"), read(c, 10))
		unix.Close(c)
		w.say(x.name+": end", read(s, 10))
		closeAll(s, l)
	}
	fd := tcp()
	w.say("nobody", unix.Connect(fd, addr(loop4, portNobody)))
	unix.Close(fd)
	fd = tcp6()
	w.say("nobody, IPv6", unix.Connect(fd, addr(loop6, portNobody)))
	unix.Close(fd)

	a, b := bound(udp(), loop4, 0), udp()
	w.say("UDP", unix.Sendto(b, []byte("hello"), 0, addr(loop4, port(a))))
	got, from := receive(a, 10, 0)
	w.say("UDP got", got, from)
	unix.Close(b)
	b = udp()
	w.say("UDP nobody", unix.Connect(b, addr(loop4, portNobody)), write(b, "x"), recv(b, 1, 0))
	closeAll(a, b)

	// A socket that connects to itself by its own port is Linux's joke; a program that
	// listens and connects without waiting is not.
	l := bound(tcp(unix.SOCK_NONBLOCK), loop4, 0)
	check(unix.Listen(l, 50))
	var cs []int
	for range 20 {
		c := tcp(unix.SOCK_NONBLOCK)
		unix.Connect(c, addr(loop4, port(l)))
		cs = append(cs, c)
	}
	n := 0
	for range cs {
		poll(l, unix.POLLIN, long)
		s, _, err := unix.Accept(l)
		if err == nil {
			write(s, "x")
			cs = append(cs, s)
			n++
		}
	}
	w.say("twenty at once", n)
	for _, c := range cs[:20] {
		if p := poll(c, unix.POLLIN, long); !strings.Contains(p, "IN") || read(c, 1) != `"x"` {
			w.say("one of twenty", p)
		}
	}
	closeAll(cs...)
	unix.Close(l)
}
