package main

import (
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// details are what servers and clients rely on beside the plain calls.
func details(w *world) {
	messages(w)
	partialReads(w)
	queues(w)
	pipes(w)
	waits(w)
	sharedPorts(w)
	selfConnect(w)
	notForSockets(w)
}

// messages are sendmsg and recvmsg with several buffers, and many messages a call.
func messages(w *world) {
	fd := w.dial(portEcho)
	defer unix.Close(fd)
	n, err := unix.SendmsgBuffers(fd, [][]byte{[]byte("one "), nil, []byte("two "), []byte("three")}, nil, nil, unix.MSG_NOSIGNAL)
	w.say("sendmsg of four", n, err)
	a, b := make([]byte, 6), make([]byte, 100)
	n, _, flags, _, err := unix.RecvmsgBuffers(fd, [][]byte{a, b}, nil, unix.MSG_PEEK)
	w.say("recvmsg, peek", n > 0, flags, err)
	n, _, flags, _, err = unix.RecvmsgBuffers(fd, [][]byte{a, b[:7]}, nil, unix.MSG_WAITALL)
	w.say("recvmsg of two", n, a, b[:7], flags, err)
	n, _, flags, _, err = unix.Recvmsg(fd, b, nil, unix.MSG_DONTWAIT)
	w.say("recvmsg of nothing", n, flags, err)
	oob := make([]byte, 64)
	write(fd, "x")
	n, oobn, flags, _, err := unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	w.say("recvmsg with room for control", n, oobn, flags&^unix.MSG_CMSG_CLOEXEC, err)
	w.say("sendmsg with rights", errOf(unix.SendmsgN(fd, []byte("x"), unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)))
	w.say("send, MSG_MORE", errOf(unix.SendmsgN(fd, []byte("more"), nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)))
	w.say("send, the rest", write(fd, "!"))
	time.Sleep(soon)
	w.say("came", recv(fd, 100, unix.MSG_DONTWAIT))
	w.say("MSG_EOR", errOf(unix.SendmsgN(fd, []byte("e"), nil, nil, unix.MSG_EOR|unix.MSG_NOSIGNAL)), read(fd, 10))
}

func errOf(_ int, err error) error { return err }

// partialReads end before they have all.
func partialReads(w *world) {
	fd := w.dial(portHello)
	w.say("MSG_WAITALL to the end", recv(fd, 100, unix.MSG_WAITALL))
	w.say("and behind it", recv(fd, 100, unix.MSG_WAITALL))
	w.say("peek at the end", recv(fd, 1, unix.MSG_PEEK))
	unix.Close(fd)
	fd = w.dial(portEcho)
	check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200000}))
	write(fd, "half")
	w.say("MSG_WAITALL for a time", recv(fd, 100, unix.MSG_WAITALL))
	write(fd, "0123456789")
	poll(fd, unix.POLLIN, long)
	w.say("MSG_TRUNC", trunc(fd, 4), recv(fd, 100, unix.MSG_DONTWAIT))
	write(fd, "peek me")
	poll(fd, unix.POLLIN, long)
	w.say("MSG_PEEK|MSG_TRUNC", recv(fd, 4, unix.MSG_PEEK), recv(fd, 100, 0))
	check(setInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 6))
	write(fd, "abc")
	w.say("SO_RCVLOWAT, read", read(fd, 100))
	check(setInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1))
	check(unix.Shutdown(fd, unix.SHUT_RD))
	w.say("SHUT_RD twice", unix.Shutdown(fd, unix.SHUT_RD), unix.Shutdown(fd, 3))
	unix.Close(fd)
	fd = w.dial(portWitness)
	check(unix.Shutdown(fd, unix.SHUT_RD))
	write(fd, "hello")
	w.ask("heard")
	w.ask("answer") // which nobody reads
	time.Sleep(soon)
	check(unix.Shutdown(fd, unix.SHUT_WR))
	w.say("SHUT_RD, then the end", w.ask("ended"))
	unix.Close(fd)
}

// trunc throws n bytes away by MSG_TRUNC.
func trunc(fd, n int) string {
	got, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), 0, uintptr(n), unix.MSG_TRUNC, 0, 0)
	return fmt.Sprint(int(got), " ", errName(errnoErr(errno)))
}

// queues are what waits in either direction.
func queues(w *world) {
	fd := w.dial(portEcho)
	inq := func() int { return must(unix.IoctlGetInt(fd, unix.SIOCINQ)) }
	outq := func() int { return must(unix.IoctlGetInt(fd, unix.SIOCOUTQ)) }
	w.say("queues", inq(), outq())
	write(fd, strings.Repeat("x", 5000))
	for range 1000 {
		if inq() == 5000 && outq() == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.say("queues, answered", inq(), outq())
	read(fd, 1000)
	w.say("queues, read", inq(), outq())
	mark, err := unix.IoctlGetInt(fd, unix.SIOCATMARK)
	w.say("urgent mark", mark, err)
	unix.Close(fd)

	fd = w.dial(portIdle)
	check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: 200000}))
	total := 0
	for {
		n, err := unix.Write(fd, make([]byte, 1<<20))
		if err != nil {
			w.say("SO_SNDTIMEO", err)
			break
		}
		total += n
	}
	w.say("full: events", poll(fd, anything, 0))
	w.say("full: send", errOf(unix.SendmsgN(fd, []byte("x"), nil, nil, unix.MSG_DONTWAIT)))
	w.say("full: waits", outq() > 0)
	w.ask("go")
	check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{}))
	check(unix.Shutdown(fd, unix.SHUT_WR))
	w.say("all arrived", read(fd, 100) == fmt.Sprintf("%q", fmt.Sprintf("%d\n", total)))
	unix.Close(fd)
}

// pipes are splice out of a socket and between two, tee, and sendfile from a socket.
func pipes(w *world) {
	a, b := w.dial(portEcho), w.dial(portEcho)
	var p [2]int
	check(unix.Pipe2(p[:], unix.O_CLOEXEC))
	write(a, "by a pipe")
	poll(a, unix.POLLIN, long)
	n, err := unix.Splice(a, nil, p[1], nil, 100, unix.SPLICE_F_MOVE)
	w.say("splice from", n, err)
	n, err = unix.Splice(p[0], nil, b, nil, 100, unix.SPLICE_F_MOVE)
	w.say("splice to", n, err)
	w.say("spliced", read(b, 100))
	_, err = unix.Splice(a, nil, b, nil, 100, 0)
	w.say("splice without a pipe", err)
	check(unix.SetNonblock(a, true))
	n, err = unix.Splice(a, nil, p[1], nil, 100, unix.SPLICE_F_NONBLOCK)
	w.say("splice of nothing", n, err)
	check(unix.SetNonblock(a, false))
	off := int64(0)
	_, err = unix.Splice(a, &off, p[1], nil, 100, 0)
	w.say("splice at an offset", err)
	f := must(os.CreateTemp("", "sockprobe"))
	defer os.Remove(f.Name())
	must(f.WriteString("0123456789"))
	off = 3
	m, err := unix.Sendfile(a, int(f.Fd()), &off, 4)
	w.say("sendfile at an offset", m, off, err, read(a, 100))
	check(unix.Shutdown(a, unix.SHUT_WR))
	poll(a, unix.POLLRDHUP, long)
	n, err = unix.Splice(a, nil, p[1], nil, 100, 0)
	w.say("splice of the end", n, err)
	_, err = unix.Sendfile(a, int(f.Fd()), &off, 4)
	w.say("sendfile after shutdown", err)
	closeAll(a, b, p[0], p[1])
	f.Close()
}

// waits are the rarer modes of epoll, select, and poll without events.
func waits(w *world) {
	ep := must(unix.EpollCreate1(unix.EPOLL_CLOEXEC))
	next := func(timeout time.Duration) string {
		events := make([]unix.EpollEvent, 8)
		for {
			n, err := unix.EpollWait(ep, events, int(timeout.Milliseconds()))
			switch {
			case err == unix.EINTR:
				continue
			case err != nil:
				return errName(err)
			case n == 0:
				return "nothing"
			}
			return fmt.Sprint(n, " ", eventNames(events[0].Events))
		}
	}
	fd := w.dial(portEcho)
	ctl := func(op int, events uint32) error {
		return unix.EpollCtl(ep, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
	}
	w.say("one shot", ctl(unix.EPOLL_CTL_ADD, unix.EPOLLIN|unix.EPOLLONESHOT))
	write(fd, "x")
	w.say("one shot: first", next(long))
	w.say("one shot: second", next(soon))
	w.say("one shot: again", ctl(unix.EPOLL_CTL_MOD, unix.EPOLLIN|unix.EPOLLONESHOT), next(long))
	w.say("added twice", ctl(unix.EPOLL_CTL_ADD, unix.EPOLLIN))
	w.say("deleted", ctl(unix.EPOLL_CTL_DEL, 0), next(soon))
	w.say("modified then", ctl(unix.EPOLL_CTL_MOD, unix.EPOLLIN))
	read(fd, 10)
	w.say("exclusive", ctl(unix.EPOLL_CTL_ADD, unix.EPOLLIN|unix.EPOLLEXCLUSIVE), next(soon))
	write(fd, "x")
	w.say("exclusive: answered", next(long))
	w.say("exclusive: modified", ctl(unix.EPOLL_CTL_MOD, unix.EPOLLIN))
	read(fd, 10)
	var set, except unix.FdSet
	set.Set(fd)
	except.Set(fd)
	n, err := unix.Select(fd+1, &set, nil, &except, &unix.Timeval{Usec: 1000})
	w.say("select", n, err)
	set.Set(fd)
	n, err = unix.Select(fd+1, nil, &set, nil, &unix.Timeval{Sec: 5})
	w.say("select for writing", n, err, set.IsSet(fd))
	unix.Close(fd)
	w.say("closed", next(soon))

	// Two epolls wait exclusively for one listener: one connection comes to one of them at least.
	l := bound(tcp(unix.SOCK_NONBLOCK), any4, 7190)
	check(unix.Listen(l, 5))
	check(unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, l, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLEXCLUSIVE, Fd: int32(l)}))
	w.say("listener", next(0), poll(l, unix.POLLIN, 0))
	w.ask("dial4 7190 hello")
	w.say("somebody", next(long), poll(l, unix.POLLIN, long))
	dup := must(unix.Dup(l))
	unix.Close(l)
	c, _, err := unix.Accept4(dup, unix.SOCK_CLOEXEC)
	w.say("accept by the duplicate", err, read(c, 10))
	_, _, err = unix.Accept4(dup, 1)
	w.say("accept4 with a flag that is none", err)
	closeAll(c, dup, ep)
}

// sharedPorts has two listeners by SO_REUSEPORT, and a connection that outlives its listener.
func sharedPorts(w *world) {
	listener := func() int {
		l := tcp(unix.SOCK_NONBLOCK)
		check(setInt(l, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		check(unix.Bind(l, addr(any4, 7191)))
		check(unix.Listen(l, 50))
		return l
	}
	a, b := listener(), listener()
	said := make(chan string)
	go func() {
		ok := 0
		for range 20 {
			if w.ask("dial4 7191 sum") == "ok" {
				ok++
			}
		}
		said <- fmt.Sprint(ok)
	}()
	var cs []int
	for deadline := time.Now().Add(long); len(cs) < 20 && time.Now().Before(deadline); {
		p := []unix.PollFd{{Fd: int32(a), Events: unix.POLLIN}, {Fd: int32(b), Events: unix.POLLIN}}
		unix.Poll(p, 1000)
		for _, l := range []int{a, b} {
			if c, _, err := unix.Accept(l); err == nil {
				cs = append(cs, c)
			}
		}
	}
	w.say("shared: accepted", len(cs), <-said)
	unix.Close(a)
	w.say("shared: one is closed", w.ask("dial4 7191 sum"), poll(b, unix.POLLIN, long))
	unix.Close(b)
	w.say("a connection of theirs", write(cs[0], "still here"), unix.Shutdown(cs[0], unix.SHUT_WR), read(cs[0], 10))
	closeAll(cs...)
}

// selfConnect is a socket that connects to its own address: a simultaneous open with itself.
func selfConnect(w *world) {
	fd := bound(tcp(), w.own4, 7192)
	w.say("to itself", unix.Connect(fd, addr(w.own4, 7192)))
	w.say("to itself: addresses", local(fd), remote(fd))
	w.say("to itself: data", write(fd, "echo"), poll(fd, unix.POLLIN, soon), recv(fd, 10, unix.MSG_DONTWAIT))
	unix.Close(fd)
}

// notForSockets are calls that files have.
func notForSockets(w *world) {
	fd := w.dial(portEcho)
	_, err := unix.Pread(fd, make([]byte, 1), 0)
	w.say("pread", err)
	w.say("fsync", unix.Fsync(fd))
	w.say("ftruncate", unix.Ftruncate(fd, 0))
	var nothing [1]byte
	w.say("mmap", raw3(unix.SYS_MMAP, 0, 4096, unix.PROT_READ, unix.MAP_SHARED, fd))
	w.say("getdents", raw(unix.SYS_GETDENTS64, uintptr(fd), uintptr(unsafe.Pointer(&nothing)), 1))
	// Of include/uapi/asm-generic/ioctls.h.
	const fionbio, fioasync = 0x5421, 0x5452
	w.say("FIONBIO", unix.IoctlSetPointerInt(fd, fionbio, 1), read(fd, 1))
	w.say("FIOASYNC", unix.IoctlSetPointerInt(fd, fioasync, 0))
	w.say("TIOCGWINSZ", errOfWinsize(unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)))
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	w.say("accepts", v, err)
	unix.Close(fd)
	w.say("closed", errOf(unix.Read(fd, nothing[:])))
}

func errOfWinsize(_ *unix.Winsize, err error) error { return err }

func raw3(trap, a, b, c, d uintptr, fd int) error {
	if _, _, errno := unix.Syscall6(trap, a, b, c, d, uintptr(fd), 0); errno != 0 {
		return errno
	}
	return nil
}
