package main

import (
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func freshSockets(w *world) {
	for _, s := range []struct {
		name               string
		family, typ, proto int
	}{
		{"tcp", unix.AF_INET, unix.SOCK_STREAM, 0},
		{"tcp6", unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP},
		{"udp", unix.AF_INET, unix.SOCK_DGRAM, 0},
		{"udp6", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
	} {
		fd, err := unix.Socket(s.family, s.typ|unix.SOCK_NONBLOCK, s.proto)
		w.say(s.name+" socket", err)
		for _, o := range []struct {
			name string
			opt  int
		}{{"domain", unix.SO_DOMAIN}, {"type", unix.SO_TYPE}, {"protocol", unix.SO_PROTOCOL}, {"accepts", unix.SO_ACCEPTCONN}, {"error", unix.SO_ERROR}} {
			v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, o.opt)
			w.say(s.name+" "+o.name, v, err)
		}
		w.say(s.name+" local", local(fd))
		w.say(s.name+" remote", remote(fd))
		w.say(s.name+" poll", poll(fd, anything, 0))
		w.say(s.name+" read", read(fd, 1))
		w.say(s.name+" write", write(fd, "x"))
		w.say(s.name+" shutdown", unix.Shutdown(fd, unix.SHUT_WR))
		_, _, err = unix.Accept(fd)
		w.say(s.name+" accept", err)
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		w.say(s.name+" non-blocking", flags&unix.O_NONBLOCK != 0, err)
		cloexec, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		w.say(s.name+" close-on-exec", cloexec, err)
		var st unix.Stat_t
		check(unix.Fstat(fd, &st))
		w.say(s.name+" is a socket", st.Mode&unix.S_IFMT == unix.S_IFSOCK)
		link, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		w.say(s.name+" link", strings.HasPrefix(link, "socket:["))
		w.say(s.name+" lseek", seek(fd))
		w.say(s.name+" close", unix.Close(fd))
	}
	for _, s := range []struct {
		name               string
		family, typ, proto int
	}{
		{"stream of UDP", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_UDP},
		{"datagrams of TCP", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_TCP},
		{"seqpacket", unix.AF_INET, unix.SOCK_SEQPACKET, 0},
		{"protocol 253", unix.AF_INET, unix.SOCK_STREAM, 253},
		{"type 77", unix.AF_INET, 77, 0},
		{"unix stream", unix.AF_UNIX, unix.SOCK_STREAM, 0},
		{"netlink", unix.AF_NETLINK, unix.SOCK_RAW, 0},
	} {
		fd, err := unix.Socket(s.family, s.typ, s.proto)
		w.say(s.name, err)
		if err == nil {
			unix.Close(fd)
		}
	}
	_, err := unix.Getsockname(0)
	w.say("getsockname of no socket", err)
	w.say("connect of no socket", unix.Connect(0, addr(w.peer4, portEcho)))
	w.say("connect of no descriptor", unix.Connect(999, addr(w.peer4, portEcho)))
	w.say("bind of no descriptor", unix.Bind(999, addr(any4, 0)))
}

func seek(fd int) error {
	_, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	return err
}

func connects(w *world) {
	fd := tcp()
	w.say("connect", unix.Connect(fd, addr(w.peer4, portEcho)))
	w.say("local", local(fd))
	w.say("remote", remote(fd))
	w.say("poll", poll(fd, anything, 0))
	w.say("again", unix.Connect(fd, addr(w.peer4, portEcho)))
	w.say("bind", unix.Bind(fd, addr(any4, 0)))
	w.say("listen", unix.Listen(fd, 1))
	_, _, err := unix.Accept(fd)
	w.say("accept", err)
	w.say("write", write(fd, "hello"))
	w.say("read", read(fd, 100))
	w.say("close", unix.Close(fd))

	fd = tcp()
	w.say("refused", unix.Connect(fd, addr(w.peer4, portNobody)))
	w.say("refused, error", soError(fd))
	w.say("refused, remote", remote(fd))
	w.say("refused, read", recv(fd, 1, unix.MSG_DONTWAIT))
	w.say("refused, write", write(fd, "x"))
	w.say("refused, then accepted", unix.Connect(fd, addr(w.peer4, portEcho)))
	w.say("refused, then accepted, remote", remote(fd))
	w.say("write", write(fd, "hello"))
	w.say("read", read(fd, 100))
	unix.Close(fd)

	fd = bound(tcp(), w.own4, 0)
	before := port(fd)
	w.say("from a bound port", unix.Connect(fd, addr(w.peer4, portEcho)))
	w.say("from a bound port, the same", port(fd) == before, local(fd))
	unix.Close(fd)
	fd = bound(tcp(), any4, 0)
	w.say("bound, no address", local(fd))
	w.say("bound, no address, connected", unix.Connect(fd, addr(w.peer4, portEcho)))
	w.say("bound, no address, local", local(fd))
	unix.Close(fd)

	fd = tcp6()
	w.say("IPv6", unix.Connect(fd, addr(w.peer6, portEcho)))
	w.say("IPv6 local", local(fd))
	w.say("IPv6 remote", remote(fd))
	unix.Close(fd)
	fd = tcp6()
	w.say("IPv6 refused", unix.Connect(fd, addr(w.peer6, portNobody)))
	unix.Close(fd)

	fd = tcp()
	w.say("IPv6 address of an IPv4 socket", unix.Connect(fd, addr(w.peer6, portEcho)))
	sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: 0x700, Addr: w.peer4.As4()}
	w.say("short address", raw(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), 7))
	w.say("no address", raw(unix.SYS_CONNECT, uintptr(fd), 0, 16))
	w.say("bad address", raw(unix.SYS_CONNECT, uintptr(fd), 8, 16))
	sa.Family = unix.AF_UNSPEC
	w.say("to nowhere", raw(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), 16))
	w.say("after all that", unix.Connect(fd, addr(w.peer4, portEcho)))
	w.say("disconnect", raw(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), 16))
	w.say("disconnected, remote", remote(fd))
	w.say("disconnected, connect", unix.Connect(fd, addr(w.peer4, portEcho)))
	w.say("disconnected, write", write(fd, "anew"))
	w.say("disconnected, read", read(fd, 100))
	unix.Close(fd)

	// Descriptors that are closed at once leave their ports.
	for range 50 {
		fd := w.dial(portEcho)
		unix.Close(fd)
	}
	w.say("fifty more", nil)
}

func nonBlocking(w *world) {
	fd := tcp(unix.SOCK_NONBLOCK)
	w.say("connect", unix.Connect(fd, addr(w.peer4, portEcho)))
	w.say("writable", poll(fd, unix.POLLOUT, long))
	w.say("error", soError(fd))
	w.say("connect again", unix.Connect(fd, addr(w.peer4, portEcho)))
	w.say("and again", unix.Connect(fd, addr(w.peer4, portEcho)))
	w.say("local", local(fd))
	w.say("remote", remote(fd))
	w.say("nothing to read", read(fd, 10))
	w.say("write", write(fd, "hello"))
	w.say("readable", settle(fd, unix.POLLIN))
	w.say("read", read(fd, 10))
	unix.Close(fd)

	fd = tcp(unix.SOCK_NONBLOCK)
	w.say("refused: connect", unix.Connect(fd, addr(w.peer4, portNobody)))
	w.say("refused: events", settle(fd, unix.POLLOUT))
	w.say("refused: error", soError(fd))
	w.say("refused: error again", soError(fd))
	w.say("refused: events after", poll(fd, anything, 0))
	w.say("refused: remote", remote(fd))
	w.say("refused: connect again", unix.Connect(fd, addr(w.peer4, portEcho)))
	w.say("refused: then writable", poll(fd, unix.POLLOUT, long))
	w.say("refused: then error", soError(fd))
	unix.Close(fd)

	fd = tcp(unix.SOCK_NONBLOCK)
	unix.Connect(fd, addr(w.peer4, portNobody))
	settle(fd, unix.POLLOUT)
	w.say("refused, asked by connect", unix.Connect(fd, addr(w.peer4, portNobody)))
	unix.Close(fd)
	fd = tcp(unix.SOCK_NONBLOCK)
	unix.Connect(fd, addr(w.peer4, portNobody))
	settle(fd, unix.POLLOUT)
	w.say("refused, asked by read", read(fd, 1))
	w.say("refused, asked by read again", read(fd, 1))
	unix.Close(fd)
	fd = tcp(unix.SOCK_NONBLOCK)
	unix.Connect(fd, addr(w.peer4, portNobody))
	settle(fd, unix.POLLOUT)
	w.say("refused, asked by write", write(fd, "x"))
	unix.Close(fd)

	// Nobody answers: it stays as it is.
	hole := netip.MustParseAddr("198.51.100.66")
	fd = tcp(unix.SOCK_NONBLOCK)
	w.say("pending: connect", unix.Connect(fd, addr(hole, 80)))
	w.say("pending: connect again", unix.Connect(fd, addr(hole, 80)))
	w.say("pending: events", poll(fd, anything, soon))
	w.say("pending: error", soError(fd))
	w.say("pending: local", local(fd))
	w.say("pending: remote", remote(fd))
	w.say("pending: read", read(fd, 1))
	w.say("pending: write", write(fd, "x"))
	w.say("pending: close", unix.Close(fd))

	// A time limit for a connect that waits.
	fd = tcp()
	check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: 200000}))
	w.say("connect with SO_SNDTIMEO", unix.Connect(fd, addr(hole, 80)))
	unix.Close(fd)

	// FIONBIO after the socket is made.
	fd = tcp()
	check(unix.SetNonblock(fd, true))
	w.say("made non-blocking later", unix.Connect(fd, addr(w.peer4, portEcho)))
	poll(fd, unix.POLLOUT, long)
	check(unix.SetNonblock(fd, false))
	w.say("and blocking again", write(fd, "back"), read(fd, 10))
	unix.Close(fd)
}

func unreachable(w *world) {
	cases := []struct{ name, to string }{
		{"no neighbour", "10.0.0.99"},
		{"a router says unreachable", "198.51.100.67"},
		{"a router says prohibited", "198.51.100.68"},
		{"IPv6, no neighbour", "fd00:a::99"},
		{"IPv6, a router says unreachable", "2001:db8:9::67"},
		{"IPv6, a router says prohibited", "2001:db8:9::68"},
	}
	// All at once: each takes its time.
	got := make([][3]error, len(cases))
	var wg sync.WaitGroup
	for i, x := range cases {
		ip := netip.MustParseAddr(x.to)
		socket := tcp
		if ip.Is6() {
			socket = tcp6
		}
		wg.Go(func() {
			fd := limited(socket())
			got[i][0] = unix.Connect(fd, addr(ip, 80))
			unix.Close(fd)
		})
		wg.Go(func() {
			fd := socket(unix.SOCK_NONBLOCK)
			got[i][1] = unix.Connect(fd, addr(ip, 80))
			poll(fd, unix.POLLOUT, 5*time.Second)
			got[i][2] = soError(fd)
			unix.Close(fd)
		})
	}
	wg.Wait()
	for i, x := range cases {
		w.say(x.name, got[i][0])
		w.say(x.name+", without waiting", got[i][1], got[i][2])
	}
	fd := limited(tcp())
	check(setInt(fd, unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1))
	w.say("nobody answers", unix.Connect(fd, addr(netip.MustParseAddr("198.51.100.66"), 80)))
	unix.Close(fd)
	for _, x := range []struct{ name, to string }{
		{"broadcast", "255.255.255.255"}, {"multicast", "224.0.0.1"}, {"0.0.0.0, where nobody listens", "0.0.0.0"},
	} {
		fd := limited(tcp())
		w.say(x.name, unix.Connect(fd, addr(netip.MustParseAddr(x.to), portNobody)))
		unix.Close(fd)
	}
}

// limited is a socket whose calls end after a time: with EAGAIN or, for connect,
// EINPROGRESS.
func limited(fd int) int {
	check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5}))
	return fd
}

func halfCloses(w *world) {
	fd := w.dial(portSum)
	w.say("write", write(fd, strings.Repeat("x", 100000)))
	w.say("shut writing", unix.Shutdown(fd, unix.SHUT_WR))
	w.say("write after", write(fd, "y"))
	w.say("the answer", read(fd, 100))
	w.say("the end", read(fd, 100))
	w.say("events", poll(fd, anything, 0))
	w.say("shut writing again", unix.Shutdown(fd, unix.SHUT_WR))
	w.say("remote", remote(fd))
	unix.Close(fd)

	fd = w.dial(portHello)
	w.say("the peer half-closes: events", settle(fd, unix.POLLRDHUP))
	w.say("the peer half-closes: read", read(fd, 100))
	w.say("the peer half-closes: end", read(fd, 100))
	w.say("the peer half-closes: end again", read(fd, 100))
	w.say("the peer half-closes: write", write(fd, "still"))
	w.say("the peer half-closes: remote", remote(fd))
	w.say("the peer half-closes: then we do", unix.Shutdown(fd, unix.SHUT_WR))
	w.say("the peer half-closes: events of both", settle(fd, 0))
	unix.Close(fd)

	fd = w.dial(portEcho)
	w.say("shut reading", unix.Shutdown(fd, unix.SHUT_RD))
	w.say("shut reading: events", poll(fd, anything, 0))
	w.say("shut reading: read", read(fd, 10))
	w.say("shut reading: write", write(fd, "x"))
	unix.Close(fd)

	fd = w.dial(portEcho)
	w.say("shut both", unix.Shutdown(fd, unix.SHUT_RDWR))
	w.say("shut both: events", settle(fd, 0))
	w.say("shut both: read", read(fd, 10))
	w.say("shut both: write", write(fd, "x"))
	unix.Close(fd)

	// A reader that waits in another thread is woken.
	fd = w.dial(portIdle)
	woken := make(chan string)
	go func() { woken <- read(fd, 10) }()
	time.Sleep(soon)
	w.say("shut while a thread reads", unix.Shutdown(fd, unix.SHUT_RDWR))
	w.say("what it read", <-woken)
	unix.Close(fd)
	w.ask("go")
}

func resets(w *world) {
	fd := w.dial(portReset)
	write(fd, "x")
	w.say("events", settle(fd, unix.POLLHUP))
	w.say("error", soError(fd))
	w.say("error again", soError(fd))
	w.say("read after", read(fd, 10))
	w.say("write after", write(fd, "y"))
	w.say("remote", remote(fd))
	unix.Close(fd)

	fd = w.dial(portReset)
	write(fd, "x")
	w.say("read", read(fd, 10))
	w.say("read again", read(fd, 10))
	w.say("write", write(fd, "y"))
	unix.Close(fd)

	fd = w.dial(portReset)
	write(fd, "x")
	poll(fd, unix.POLLHUP, long)
	w.say("write first", write(fd, "y"))
	w.say("write second", write(fd, "y"))
	w.say("read then", read(fd, 10))
	unix.Close(fd)

	fd = w.dial(portDeaf)
	w.say("closed with data unread: write", write(fd, strings.Repeat("x", 1000)))
	w.say("closed with data unread: read", read(fd, 10))
	unix.Close(fd)

	fd = w.dial(portClose)
	w.say("closed: read", read(fd, 10))
	w.say("closed: write", write(fd, "x"))
	poll(fd, unix.POLLHUP, time.Second) // the reset comes at once
	w.say("closed: write after its reset", write(fd, "x"))
	unix.Close(fd)

	fd = w.dial(portWitness)
	write(fd, "hello")
	unix.Close(fd)
	w.say("we close", w.ask("ended"))
	fd = w.dial(portWitness)
	write(fd, "hello")
	w.ask("heard") // the rest is not to race with the data
	check(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	unix.Close(fd)
	w.say("we close with SO_LINGER 0", w.ask("ended"))
	fd = w.dial(portWitness)
	write(fd, "hello")
	w.ask("heard")
	w.ask("answer")
	poll(fd, unix.POLLIN, long)
	unix.Close(fd)
	w.say("we close with data unread", w.ask("ended"))
	fd = w.dial(portWitness)
	check(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 5}))
	write(fd, "hello")
	w.say("we close with SO_LINGER 5", unix.Close(fd))
	w.say("we close with SO_LINGER 5, the peer", w.ask("ended"))

	fd = w.dial(portWitness)
	c := self("write and exit", fd)
	unix.Close(fd)
	check(c.Wait())
	w.say("a child writes and exits", w.ask("ended"))
	fd = w.dial(portWitness)
	c = exec.Command("sleep", "60")
	c.ExtraFiles = []*os.File{os.NewFile(uintptr(must(unix.Dup(fd))), "socket")}
	check(c.Start())
	c.ExtraFiles[0].Close()
	write(fd, "hello")
	unix.Close(fd)
	c.Process.Kill()
	c.Wait()
	w.say("a child that shares it is killed", w.ask("ended"))
}

// self starts this program as a child with a socket as descriptor 3.
func self(what string, fd int) *exec.Cmd {
	c := exec.Command("/proc/self/exe", append([]string{"child"}, strings.Fields(what)...)...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	// A duplicate, which is the file's to close.
	f := os.NewFile(uintptr(must(unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0))), "socket")
	defer f.Close()
	c.ExtraFiles = []*os.File{f}
	check(c.Start())
	return c
}
