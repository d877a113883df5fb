package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func receive(fd, size, flags int) (string, string) {
	buf := make([]byte, size)
	n, from, err := unix.Recvfrom(fd, buf, flags)
	if err == nil && n == 0 {
		return `""`, text(from, nil)
	}
	return outcome(buf, n, err), text(from, nil)
}

func datagrams(w *world) {
	fd := udp()
	w.say("sendto", sendto(fd, "hello", w, portEcho))
	w.say("local", local(fd))
	w.say("readable", settle(fd, unix.POLLIN))
	got, from := receive(fd, 100, 0)
	w.say("answer", got, from)
	w.say("no destination", write(fd, "x"))
	w.say("nothing there", recv(fd, 10, unix.MSG_DONTWAIT))
	check(sendto(fd, "0123456789", w, portEcho))
	poll(fd, unix.POLLIN, long)
	got, from = receive(fd, 4, unix.MSG_PEEK)
	w.say("MSG_PEEK", got, from)
	got, from = receive(fd, 4, unix.MSG_PEEK|unix.MSG_TRUNC)
	w.say("MSG_PEEK and MSG_TRUNC", got, from)
	w.say("waiting bytes", must(unix.IoctlGetInt(fd, unix.TIOCINQ)))
	n, _, rflags, _, err := unix.Recvmsg(fd, make([]byte, 4), nil, 0)
	w.say("cut", n, rflags&unix.MSG_TRUNC != 0, err)
	w.say("the rest is gone", recv(fd, 10, unix.MSG_DONTWAIT))
	w.say("empty", sendto(fd, "", w, portEcho))
	poll(fd, unix.POLLIN, long)
	got, from = receive(fd, 10, 0)
	w.say("empty answer", got, from)
	for _, size := range []int{1472, 1473, 9000, 60000, 65507} {
		check(sendto(fd, strings.Repeat("x", size), w, portEcho))
		poll(fd, unix.POLLIN, long)
		n, _, err := unix.Recvfrom(fd, make([]byte, 70000), 0)
		w.say(fmt.Sprint(size, " bytes"), n, err)
	}
	w.say("65508 bytes", sendto(fd, strings.Repeat("x", 65508), w, portEcho))
	w.say("70000 bytes", sendto(fd, strings.Repeat("x", 70000), w, portEcho))
	check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000}))
	w.say("SO_RCVTIMEO", recv(fd, 10, 0))
	w.say("shut", unix.Shutdown(fd, unix.SHUT_RDWR))
	unix.Close(fd)

	fd = udp()
	w.say("connect", unix.Connect(fd, addr(w.peer4, portEcho)))
	w.say("connected, local", local(fd))
	w.say("connected, remote", remote(fd))
	w.say("connected, poll", poll(fd, anything, 0))
	w.say("connected, write", write(fd, "hello"))
	poll(fd, unix.POLLIN, long)
	got, from = receive(fd, 100, 0)
	w.say("connected, answer", got, from)
	w.say("connected, sendto the same", sendto(fd, "same", w, portEcho), read(fd, 100))
	w.say("connected, read of an empty one", write(fd, ""), read(fd, 100))
	w.say("connect elsewhere", unix.Connect(fd, addr(w.peer4, portCommand)))
	w.say("connected elsewhere", remote(fd))
	sa := unix.RawSockaddrInet4{Family: unix.AF_UNSPEC}
	w.say("disconnect", raw(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), 16))
	w.say("disconnected, remote", remote(fd))
	w.say("disconnected, write", write(fd, "x"))
	w.say("disconnected, sendto", sendto(fd, "again", w, portEcho))
	poll(fd, unix.POLLIN, long)
	got, from = receive(fd, 100, 0)
	w.say("disconnected, answer", got, from)
	w.say("connected, shut writing", unix.Connect(fd, addr(w.peer4, portEcho)), unix.Shutdown(fd, unix.SHUT_WR))
	w.say("shut, write", write(fd, "x"))
	unix.Close(fd)

	// A server: bound, answers whoever comes, from the address they asked.
	fd = bound(udp(), any4, 7150)
	w.say("server, local", local(fd))
	w.say("server: asked", w.ask("udp4 7150 question"))
	check(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
	buf, oob := make([]byte, 100), make([]byte, 100)
	n, _, _, sender, err := unix.Recvmsg(fd, buf, oob, 0)
	w.say("server: got", buf[:max(n, 0)], text(sender, err))
	w.say("server: answers", unix.Sendto(fd, []byte("answer"), 0, sender))
	w.say("server: answered", w.ask("udp answer"))
	w.ask("udp4 7150 second")
	n, oobn, _, sender, err := unix.Recvmsg(fd, buf, oob, 0)
	w.say("server: got second", buf[:max(n, 0)], text(sender, err), "to", pktinfo(oob[:max(oobn, 0)]))
	// A stranger's is not for a connected one.
	w.say("server: connects elsewhere", unix.Connect(fd, addr(w.peer4, portEcho)))
	w.ask("udp4 7150 stranger")
	w.say("server: a stranger's", poll(fd, unix.POLLIN, soon))
	unix.Close(fd)

	// Several by one call.
	fd = udp()
	check(unix.Connect(fd, addr(w.peer4, portEcho)))
	n, err = sendmmsg(fd, "one", "two", "three")
	w.say("sendmmsg", n, err)
	for range 3 {
		w.say("of several", recv(fd, 100, 0))
	}
	check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	write(fd, "four")
	write(fd, "five")
	w.say("recvmmsg", recvmmsg(fd, 2))
	unix.Close(fd)

	fd = udp6()
	w.say("IPv6", unix.Sendto(fd, []byte("six"), 0, addr(w.peer6, portEcho)))
	got, from = receive(fd, 100, 0)
	w.say("IPv6 answer", got, from)
	w.say("IPV6_2292HOPLIMIT", setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_2292HOPLIMIT, 1), unix.Sendto(fd, []byte("hops"), 0, addr(w.peer6, portEcho)))
	oob = make([]byte, 100)
	n, oobn, _, _, err = unix.Recvmsg(fd, make([]byte, 9), oob, 0)
	msgs, merr := unix.ParseSocketControlMessage(oob[:max(oobn, 0)])
	w.say("IPv6 hops", n, err, merr, len(msgs))
	for _, m := range msgs {
		w.say("IPv6 message", m.Header.Level, m.Header.Type, m.Data)
	}
	unix.Close(fd)
}

// pktinfo is the destination in an IP_PKTINFO message.
func pktinfo(oob []byte) string {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return errName(err)
	}
	for _, m := range msgs {
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12 {
			return netip.AddrFrom4([4]byte(m.Data[8:12])).String()
		}
	}
	return "nobody knows"
}

// An mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   uint32
}

func sendmmsg(fd int, what ...string) (int, error) {
	msgs := make([]mmsghdr, len(what))
	for i, s := range what {
		b := []byte(s)
		iov := &unix.Iovec{Base: &b[0]}
		iov.SetLen(len(b))
		msgs[i].hdr.Iov = iov
		msgs[i].hdr.SetIovlen(1)
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), 0, 0, 0)
	return int(n), errnoErr(errno)
}

func recvmmsg(fd, count int) string {
	msgs := make([]mmsghdr, count)
	bufs := make([][100]byte, count)
	for i := range msgs {
		iov := &unix.Iovec{Base: &bufs[i][0]}
		iov.SetLen(100)
		msgs[i].hdr.Iov = iov
		msgs[i].hdr.SetIovlen(1)
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(count), 0, 0, 0)
	if errno != 0 {
		return errName(errno)
	}
	var got []string
	for i := range n {
		got = append(got, string(bufs[i][:msgs[i].n]))
	}
	return strings.Join(got, " ")
}

func datagramErrors(w *world) {
	fd := udp()
	check(unix.Connect(fd, addr(w.peer4, portNobody)))
	w.say("nobody: write", write(fd, "x"))
	w.say("nobody: events", settle(fd, unix.POLLIN))
	w.say("nobody: read", recv(fd, 10, unix.MSG_DONTWAIT))
	w.say("nobody: read again", recv(fd, 10, unix.MSG_DONTWAIT))
	write(fd, "x")
	settle(fd, unix.POLLIN)
	w.say("nobody: error", soError(fd))
	write(fd, "x")
	settle(fd, unix.POLLIN)
	w.say("nobody: second write", write(fd, "x"))
	unix.Close(fd)

	// A reader that waits.
	fd = udp()
	check(unix.Connect(fd, addr(w.peer4, portNobody)))
	write(fd, "x")
	w.say("nobody: a read that waits", recv(fd, 10, 0))
	unix.Close(fd)
	fd = udp6()
	check(unix.Connect(fd, addr(w.peer6, portNobody)))
	write(fd, "x")
	w.say("nobody, IPv6", recv(fd, 10, 0))
	unix.Close(fd)
	// Without connect nobody is told.
	fd = udp()
	check(sendto(fd, "x", w, portNobody))
	w.say("nobody, not connected", poll(fd, anything&^unix.POLLOUT, soon))
	unix.Close(fd)

	fd = udp()
	w.say("port 0", unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: w.peer4.As4()}))
	w.say("wrong family", unix.Sendto(fd, []byte("x"), 0, addr(w.peer6, portEcho)))
	w.say("broadcast", unix.Sendto(fd, []byte("x"), 0, addr(netip.MustParseAddr("255.255.255.255"), 7)))
	w.say("SO_BROADCAST", setInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
	w.say("broadcast allowed", unix.Sendto(fd, []byte("x"), 0, addr(netip.MustParseAddr("10.0.0.255"), 7999)))
	unix.Close(fd)

	a, b := bound(udp(), w.own4, 7160), udp()
	w.say("in use", unix.Bind(b, addr(w.own4, 7160)))
	w.say("in use by one", unix.Bind(b, addr(any4, 7160)))
	w.say("not ours", unix.Bind(b, addr(w.peer4, 7161)))
	w.say("another", unix.Bind(b, addr(w.own4, 7161)))
	w.say("twice", unix.Bind(b, addr(w.own4, 7162)))
	closeAll(a, b)
	a, b = udp(), udp()
	check(setInt(a, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	check(setInt(b, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	w.say("reuse", unix.Bind(a, addr(any4, 7163)), unix.Bind(b, addr(any4, 7163)))
	closeAll(a, b)
	w.say("listen", unix.Listen(udp(), 1))
}

func pings(w *world) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	w.say("ping socket", err)
	if err == nil {
		check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
		echo := []byte{8, 0, 0, 0, 0, 0, 0, 1, 'h', 'i'}
		w.say("echo", unix.Sendto(fd, echo, 0, addr(w.peer4, 0)))
		buf := make([]byte, 100)
		n, from, err := unix.Recvfrom(fd, buf, 0)
		w.say("reply", n, err, text(from, nil))
		if n == len(echo) {
			w.say("reply is", buf[0], buf[1], binary.BigEndian.Uint16(buf[6:]), buf[8:n])
		}
		w.say("no echo request", unix.Sendto(fd, []byte{3, 0, 0, 0, 0, 0, 0, 1}, 0, addr(w.peer4, 0)))
		w.say("too short", unix.Sendto(fd, []byte{8, 0}, 0, addr(w.peer4, 0)))
		w.say("connect", unix.Connect(fd, addr(w.peer4, 0)), write(fd, string(echo)))
		w.say("connected reply", len(recv(fd, 100, 0)) > 2)
		unix.Close(fd)
	}
	fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	w.say("IPv6 ping socket", err)
	if err == nil {
		check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
		w.say("IPv6 echo", unix.Sendto(fd, []byte{128, 0, 0, 0, 0, 0, 0, 2, 'h', 'i'}, 0, addr(w.peer6, 0)))
		buf := make([]byte, 100)
		n, from, err := unix.Recvfrom(fd, buf, 0)
		w.say("IPv6 reply", n, err, text(from, nil), buf[0], binary.BigEndian.Uint16(buf[6:]))
		unix.Close(fd)
	}
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	w.say("raw ICMP socket", err)
	if err == nil {
		check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
		echo := []byte{8, 0, 0, 0, 0x12, 0x34, 0, 3, 'h', 'i'}
		binary.BigEndian.PutUint16(echo[2:], checksum(echo))
		w.say("raw echo", unix.Sendto(fd, echo, 0, addr(w.peer4, 0)))
		buf := make([]byte, 100)
		n, from, err := unix.Recvfrom(fd, buf, 0)
		// With its IP header.
		w.say("raw reply", n, err, text(from, nil), buf[0], buf[9], buf[20:22], binary.BigEndian.Uint16(buf[24:]))
		unix.Close(fd)
	}
}

// checksum is RFC 1071's, of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
