package main

import (
	"fmt"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func binds(w *world) {
	fd := tcp()
	w.say("bind", unix.Bind(fd, addr(w.own4, 7100)))
	w.say("local", local(fd))
	w.say("bind again", unix.Bind(fd, addr(w.own4, 7101)))
	other := tcp()
	w.say("in use", unix.Bind(other, addr(w.own4, 7100)))
	w.say("in use by one address", unix.Bind(other, addr(any4, 7100)))
	w.say("loopback is another", unix.Bind(other, addr(loop4, 7100)))
	unix.Close(other)
	unix.Close(fd)

	fd = tcp()
	w.say("not ours", unix.Bind(fd, addr(w.peer4, 7100)))
	w.say("IPv6 address", unix.Bind(fd, addr(w.own6, 7100)))
	sa := unix.RawSockaddrInet4{Family: unix.AF_INET}
	w.say("short address", raw(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa)), 4))
	w.say("bad address", raw(unix.SYS_BIND, uintptr(fd), 8, 16))
	sa.Family = 77
	w.say("unknown family", raw(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa)), 16))
	w.say("after that", unix.Bind(fd, addr(any4, 0)))
	w.say("after that, local", local(fd))
	unix.Close(fd)

	fd = tcp6()
	w.say("IPv6, not ours", unix.Bind(fd, addr(w.peer6, 7100)))
	w.say("IPv6", unix.Bind(fd, addr(w.own6, 7100)))
	w.say("IPv6 local", local(fd))
	unix.Close(fd)

	// With SO_REUSEADDR on both, two may have a port until one listens.
	a, b := tcp(), tcp()
	check(setInt(a, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	check(setInt(b, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	w.say("reuse, first", unix.Bind(a, addr(any4, 7102)))
	w.say("reuse, second", unix.Bind(b, addr(any4, 7102)))
	w.say("reuse, first listens", unix.Listen(a, 1))
	w.say("reuse, second listens", unix.Listen(b, 1))
	closeAll(a, b)
	a, b = tcp(), tcp()
	check(setInt(a, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	check(setInt(b, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	check(unix.Bind(a, addr(any4, 7102)))
	check(unix.Listen(a, 1))
	w.say("reuse, while one listens", unix.Bind(b, addr(any4, 7102)))
	closeAll(a, b)

	a, b = tcp(), tcp()
	check(setInt(a, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	check(setInt(b, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	w.say("reuse port, first", unix.Bind(a, addr(any4, 7103)), unix.Listen(a, 1))
	w.say("reuse port, second", unix.Bind(b, addr(any4, 7103)), unix.Listen(b, 1))
	closeAll(a, b)

	// A connection of the listener's in TIME-WAIT.
	l := bound(tcp(), w.own4, 7104)
	check(unix.Listen(l, 1))
	w.ask("dial4 7104 sum")
	c, _, err := unix.Accept(l)
	check(err)
	unix.Shutdown(c, unix.SHUT_WR)
	readAll(c)
	closeAll(c, l)
	l = tcp()
	w.say("TIME-WAIT", unix.Bind(l, addr(w.own4, 7104)))
	check(setInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	w.say("TIME-WAIT, reuse", unix.Bind(l, addr(w.own4, 7104)), unix.Listen(l, 1))
	unix.Close(l)

	// The port is free once the socket is closed, and not before.
	fd = bound(tcp(), w.own4, 7105)
	dup := must(unix.Dup(fd))
	unix.Close(fd)
	other = tcp()
	w.say("a duplicate holds it", unix.Bind(other, addr(w.own4, 7105)))
	unix.Close(dup)
	w.say("closed", unix.Bind(other, addr(w.own4, 7105)))
	unix.Close(other)
	w.say("UDP has ports of its own", unix.Bind(bound(udp(), w.own4, 7106), addr(any4, 7107)))
	fd = tcp()
	w.say("UDP's is free for TCP", unix.Bind(fd, addr(w.own4, 7106)))
	unix.Close(fd)
}

func listens(w *world) {
	l := tcp(unix.SOCK_NONBLOCK)
	w.say("listen, not bound", unix.Listen(l, 5))
	w.say("local", local(l))
	w.say("remote", remote(l))
	v, err := unix.GetsockoptInt(l, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	w.say("accepts", v, err)
	w.say("listen again", unix.Listen(l, 50))
	w.say("events", poll(l, anything, 0))
	_, _, err = unix.Accept(l)
	w.say("nobody is there", err)
	w.say("read", read(l, 1))
	w.say("write", write(l, "x"))
	w.say("connect", unix.Connect(l, addr(w.peer4, portEcho)))
	w.say("bind", unix.Bind(l, addr(any4, 7111)))

	w.ask(fmt.Sprintf("dial4 %d sum", port(l)))
	w.say("somebody: events", settle(l, unix.POLLIN))
	c, sa, err := unix.Accept4(l, 0)
	w.say("somebody", text(sa, err))
	flags, _ := unix.FcntlInt(uintptr(c), unix.F_GETFL, 0)
	w.say("somebody: non-blocking", flags&unix.O_NONBLOCK != 0)
	w.say("somebody: local", portless(local(c)))
	w.say("somebody: remote", remote(c))
	w.say("nobody more", poll(l, unix.POLLIN, soon))
	unix.Close(c)

	w.say("shut reading", unix.Shutdown(l, unix.SHUT_RD))
	_, _, err = unix.Accept(l)
	w.say("shut: accept", err)
	w.say("shut: events", poll(l, anything, 0))
	unix.Close(l)

	l = bound(tcp(), any4, 7112)
	check(unix.Listen(l, 5))
	w.say("before it is closed", w.ask("dial4 7112 hello"))
	unix.Close(l)
	w.say("after", w.ask("dial4 7112 hello"))

	// What waits in the queue of a listener that is closed is reset.
	l = bound(tcp(), any4, 7113)
	check(unix.Listen(l, 5))
	w.ask("dial4 7113 witness")
	poll(l, unix.POLLIN, long)
	unix.Close(l)
	w.say("closed with one in the queue", w.ask("ended"))

	// Another thread waits in accept.
	l = bound(tcp(), any4, 7114)
	check(unix.Listen(l, 5))
	woken := make(chan error)
	go func() { _, _, err := unix.Accept(l); woken <- err }()
	time.Sleep(soon)
	w.say("shut while a thread accepts", unix.Shutdown(l, unix.SHUT_RDWR))
	w.say("what it got", <-woken)
	unix.Close(l)
}

// listensAgain closes a listener and listens again at once, as servers do between two clients.
func listensAgain(w *world) {
	open := func(backlog int) int {
		l := tcp()
		check(setInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		check(unix.Bind(l, addr(any4, 7180)))
		check(unix.Listen(l, backlog))
		return l
	}
	l := open(5)
	came, got := 0, 0
	for i := range 30 {
		if w.ask("dial4 7180 hello") == "ok" {
			came++
		}
		c, _, err := unix.Accept(l)
		check(err)
		if i%3 == 0 { // another one that nobody accepts
			w.ask("dial4 7180 hello")
		}
		unix.Close(l)
		l = open(5 + i%10/9)
		if read(c, 10) == `"hello"` {
			got++
		}
		unix.Close(c)
	}
	w.say("clients", came, got)
	w.ask("dial4 7180 witness")
	poll(l, unix.POLLIN, long)
	unix.Close(l)
	l = open(5)
	w.say("what waited before", w.ask("ended"))
	unix.Close(l)
}

// portless is an address without the port that differs from run to run.
func portless(s string) string { return strings.Fields(s)[0] }

func accepts(w *world) {
	l := bound(tcp(), any4, 7120)
	check(unix.Listen(l, 10))
	w.ask("dial4 7120 hello")
	c, sa, err := unix.Accept4(l, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	w.say("accept", text(sa, err))
	flags, _ := unix.FcntlInt(uintptr(c), unix.F_GETFL, 0)
	cloexec, _ := unix.FcntlInt(uintptr(c), unix.F_GETFD, 0)
	w.say("flags", flags&unix.O_NONBLOCK != 0, cloexec)
	w.say("local", local(c))
	w.say("remote is who came", remote(c) == text(sa, nil))
	w.say("readable", settle(c, unix.POLLRDHUP))
	w.say("read", read(c, 100))
	unix.Close(c)

	w.ask("dial4 7120 hello")
	nfd, _, errno := unix.Syscall(unix.SYS_ACCEPT4, uintptr(l), 0, 0)
	w.say("without an address", errnoErr(errno))
	w.say("without an address, remote", remote(int(nfd)))
	unix.Close(int(nfd))

	w.ask("dial4 7120 hello")
	var rsa [64]byte
	size := uint32(5)
	for i := range rsa {
		rsa[i] = 0xaa
	}
	nfd, _, errno = unix.Syscall6(unix.SYS_ACCEPT4, uintptr(l), uintptr(unsafe.Pointer(&rsa)), uintptr(unsafe.Pointer(&size)), 0, 0, 0)
	w.say("with little room", errnoErr(errno), size, rsa[0], rsa[5])
	unix.Close(int(nfd))

	// It is gone before it is accepted.
	w.ask("dial4 7120 reset")
	time.Sleep(soon)
	c, sa, err = unix.Accept(l)
	w.say("gone already", text(sa, err))
	if err == nil {
		w.say("gone already: read", read(c, 10))
		unix.Close(c)
	}

	// Several, in order.
	for range 5 {
		w.ask("dial4 7120 hello")
	}
	for range 5 {
		c, _, err := unix.Accept(l)
		w.say("one of several", err, read(c, 10))
		unix.Close(c)
	}

	inOrder := true
	for i := range 40 {
		w.ask(fmt.Sprintf("dial4 7120 say %d", i))
		time.Sleep(5 * time.Millisecond) // netstack handles what comes at the same time on several threads
		if i%8 == 7 {
			for j := i - 7; j <= i; j++ {
				c, _, err := unix.Accept(l)
				check(err)
				inOrder = read(c, 10) == fmt.Sprintf("%q", fmt.Sprint(j)) && inOrder
				unix.Close(c)
			}
		}
	}
	w.say("in order", inOrder)

	// Options that a connection has from its listener.
	check(setInt(l, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	check(setInt(l, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1))
	w.ask("dial4 7120 hello")
	c, _, err = unix.Accept(l)
	check(err)
	nodelay, _ := unix.GetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY)
	keepalive, _ := unix.GetsockoptInt(c, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
	w.say("inherited", nodelay, keepalive)
	unix.Close(c)

	check(unix.SetsockoptTimeval(l, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000}))
	_, _, err = unix.Accept(l)
	w.say("with SO_RCVTIMEO", err)

	// SO_LINGER 0 and unread data of a connection that was accepted.
	w.ask("dial4 7120 witness")
	check(unix.SetsockoptTimeval(l, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))
	c, _, err = unix.Accept(l)
	check(err)
	check(unix.SetsockoptLinger(c, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	unix.Close(c)
	w.say("SO_LINGER 0", w.ask("ended"))
	w.ask("dial4 7120 witness")
	c, _, err = unix.Accept(l)
	check(err)
	write(c, "hello")
	w.ask("heard")
	unix.Close(c)
	w.say("closed", w.ask("ended"))
	unix.Close(l)
}

func errnoErr(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

func epolls(w *world) {
	ep := must(unix.EpollCreate1(unix.EPOLL_CLOEXEC))
	// next is what there is within a time, by the names of poll.
	next := func(timeout time.Duration) string {
		events := make([]unix.EpollEvent, 8)
		deadline := time.Now().Add(timeout)
		for {
			n, err := unix.EpollWait(ep, events, int(max(0, time.Until(deadline).Milliseconds())))
			switch {
			case err == unix.EINTR:
				continue
			case err != nil:
				return errName(err)
			case n == 0:
				return "nothing"
			case n == 1:
				return eventNames(events[0].Events)
			}
			return fmt.Sprint(n, " events")
		}
	}
	add := func(fd int, events uint32) {
		check(unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
	}
	const all = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP
	for _, mode := range []struct {
		name string
		bits uint32
	}{{"level", 0}, {"edge", unix.EPOLLET}} {
		say := func(what string, values ...any) { w.say(mode.name+": "+what, values...) }
		fd := tcp(unix.SOCK_NONBLOCK)
		add(fd, all|mode.bits)
		say("before connect", next(0))
		say("connect", unix.Connect(fd, addr(w.peer4, portEcho)))
		say("connected", settled(next, "OUT"))
		say("error", soError(fd))
		if mode.bits == 0 {
			say("again", next(0))
		} else {
			say("again", next(soon))
		}
		write(fd, "hello")
		say("answered", settled(next, "IN|OUT"))
		say("read", read(fd, 100))
		if mode.bits == 0 {
			say("read all", next(0))
		} else {
			say("read all", read(fd, 100))
		}
		write(fd, "anew")
		say("answered anew", settled(next, "IN|OUT"))
		say("read anew", read(fd, 100))
		check(unix.Shutdown(fd, unix.SHUT_WR))
		say("both ended", settled(next, "IN|OUT|HUP|RDHUP"))
		unix.Close(fd)
		say("closed", next(0))

		fd = tcp(unix.SOCK_NONBLOCK)
		add(fd, all|mode.bits)
		next(0)
		unix.Connect(fd, addr(w.peer4, portNobody))
		say("refused", settled(next, "IN|OUT|ERR|HUP|RDHUP"))
		say("refused, error", soError(fd))
		unix.Close(fd)

		fd = tcp(unix.SOCK_NONBLOCK)
		add(fd, all|mode.bits)
		next(0)
		unix.Connect(fd, addr(w.peer4, portHello))
		say("the peer's end", settled(next, "IN|OUT|RDHUP"))
		unix.Close(fd)

		fd = tcp(unix.SOCK_NONBLOCK)
		add(fd, all|mode.bits)
		next(0)
		unix.Connect(fd, addr(w.peer4, portReset))
		settled(next, "OUT")
		write(fd, "x")
		say("reset", settled(next, "IN|OUT|ERR|HUP|RDHUP"))
		unix.Close(fd)

		l := bound(tcp(unix.SOCK_NONBLOCK), any4, 7130)
		add(l, unix.EPOLLIN|mode.bits)
		say("before listen", next(0))
		check(unix.Listen(l, 5))
		say("listening", next(0))
		w.ask("dial4 7130 hello")
		say("somebody", settled(next, "IN"))
		c, _, err := unix.Accept(l)
		say("accept", err)
		say("accepted", next(soon))
		closeAll(c, l)
	}

	// Registered for reading only, and full.
	fd := w.dial(portIdle)
	check(unix.SetNonblock(fd, true))
	block := strings.Repeat("z", 65536)
	total := 0
	for {
		n, err := unix.Write(fd, []byte(block))
		if err == unix.EAGAIN {
			if poll(fd, unix.POLLOUT, soon) == "nothing" {
				break
			}
			continue
		}
		check(err)
		total += n
	}
	w.say("full", total > 100000)
	add(fd, unix.EPOLLOUT)
	w.say("full: events", next(0))
	w.ask("go")
	w.say("room again", settled(next, "OUT"))
	check(unix.Shutdown(fd, unix.SHUT_WR))
	check(unix.SetNonblock(fd, false))
	w.say("all arrived", read(fd, 100) == fmt.Sprintf("%q", fmt.Sprintf("%d\n", total)))
	unix.Close(fd)

	// A duplicate keeps its registration.
	fd = w.dial(portEcho)
	dup := must(unix.Dup(fd))
	add(dup, unix.EPOLLIN)
	write(fd, "x")
	w.say("by its duplicate", next(long))
	closeAll(fd, dup, ep)
}

// settled waits until the events are those that are awaited, since some come one after
// another, and returns what there is in the end.
func settled(next func(time.Duration) string, want string) string {
	deadline := time.Now().Add(3 * time.Second)
	var seen []string
	for time.Now().Before(deadline) {
		got := next(time.Until(deadline))
		if got == want {
			return got
		}
		if len(seen) == 0 || seen[len(seen)-1] != got {
			seen = append(seen, got)
		}
		time.Sleep(time.Millisecond)
	}
	return "never " + want + ", but " + strings.Join(seen, ", ")
}
