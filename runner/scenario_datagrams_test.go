package runner

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// udpEcho is a server that sends everything back.
func udpEcho(t testing.TB, network string) string {
	t.Helper()
	host := map[string]string{"udp4": "127.0.0.1:0", "udp6": "[::1]:0"}[network]
	pc, err := net.ListenPacket(network, host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(b[:n], from)
		}
	}()
	return pc.LocalAddr().String()
}

// recvFrom prints one datagram and who sent it.
func (s *script) recvFrom(what string, fd, size, flags int, known ...string) {
	b := make([]byte, size)
	n, from, err := unix.Recvfrom(fd, b, flags)
	if err != nil {
		s.told(what, err)
		return
	}
	s.say("%s: %d %q", what, n, b[:min(n, size, 40)])
	s.addr(what+" from", from, nil, known...)
}

func (s *script) sendTo(what string, fd int, text, to string) {
	s.told(what, unix.Sendto(fd, []byte(text), 0, address(to)))
}

func unspecify(fd int) error {
	return connectRaw(fd, unsafe.Pointer(&unix.RawSockaddrInet4{Family: unix.AF_UNSPEC}), unix.SizeofSockaddrInet4)
}

func scenarioDatagrams(s *script) {
	for _, to := range s.args {
		fd := s.socket(family(to), unix.SOCK_DGRAM)
		s.poll("fresh", fd, unix.POLLIN|unix.POLLOUT, 0)
		s.sendTo("sendto", fd, "hello", to)
		s.poll("answered", fd, unix.POLLIN, 5000)
		sa, err := unix.Getsockname(fd)
		s.addr("local", sa, err)
		_, err = unix.Getpeername(fd)
		s.told("remote", err)
		s.recvFrom("peek", fd, 3, unix.MSG_PEEK, to)
		s.recvFrom("peek whole", fd, 3, unix.MSG_PEEK|unix.MSG_TRUNC, to)
		n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		s.say("queued %d %v", n, err)
		s.recvFrom("cut", fd, 4, 0, to)
		s.recvFrom("nothing", fd, 4, unix.MSG_DONTWAIT, to)
		s.sendTo("empty", fd, "", to)
		s.recvFrom("empty", fd, 4, 0, to)
		s.sendTo("long", fd, strings.Repeat("x", 65507), to)
		s.recvFrom("long", fd, 70000, 0, to)
		s.sendTo("too long", fd, strings.Repeat("x", 65528), to)
		must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000}))
		s.recvFrom("timeout", fd, 4, 0, to)
		s.sendTo("sendto", fd, "plain", to)
		s.read("plain read", fd)

		s.told("connect", unix.Connect(fd, address(to)))
		sa, err = unix.Getpeername(fd)
		s.addr("remote", sa, err, to)
		s.write("write", fd, "written")
		s.read("read", fd)
		s.write("write", fd, "again")
		s.recvFrom("recvfrom", fd, 40, 0, to)
		s.sendTo("sendto the peer", fd, "to the peer", to)
		s.recvFrom("recvfrom", fd, 40, 0, to)
		s.recvFrom("timeout", fd, 4, 0, to)
		s.write("empty", fd, "")
		s.read("empty", fd)
		s.told("connect again", unix.Connect(fd, address(to)))
		s.write("write", fd, "anew")
		s.read("read", fd)
		s.told("disconnect", unspecify(fd))
		_, err = unix.Getpeername(fd)
		s.told("remote", err)
		s.sendTo("sendto", fd, "unconnected", to)
		s.recvFrom("recvfrom", fd, 40, 0, to)
		unix.Close(fd)
	}
	fd := s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	s.told("port 0", unix.Sendto(fd, []byte("x"), 0, address("127.0.0.1:0")))
	s.told("another family", unix.Sendto(fd, []byte("x"), 0, address("[::1]:1")))
	s.told("broadcast", unix.Sendto(fd, []byte("x"), 0, address("255.255.255.255:9")))
	s.told("urgent", unix.Sendto(fd, []byte("x"), unix.MSG_OOB, address(s.args[0])))
	s.told("message without an address", func() error { _, err := unix.SendmsgN(fd, []byte("x"), nil, nil, 0); return err }())
	s.told("listen", unix.Listen(fd, 1))
	_, _, err := unix.Accept(fd)
	s.told("accept", err)
	s.told("urgent", unix.SetsockoptInt(fd, unix.IPPROTO_UDP, udpCork, 1))
	unix.Close(fd)
	if six := s.args[1]; six != "" {
		fd = s.socket(unix.AF_INET6, unix.SOCK_DGRAM)
		_, port, _ := net.SplitHostPort(s.args[0])
		mapped := "[::ffff:127.0.0.1]:" + port
		s.sendTo("mapped", fd, "mapped", mapped)
		s.recvFrom("mapped", fd, 40, 0, mapped)
		s.sendTo("six", fd, "six", six)
		s.recvFrom("six", fd, 40, 0, six)
	}
}

// A server that answers several, then connects to one: nothing of that one's gets lost.
func scenarioDatagramServer(s *script) {
	server := s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	must(unix.SetsockoptInt(server, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	at := address(s.args[0])
	s.told("bind", unix.Bind(server, at))
	s.told("bind again", unix.Bind(server, at))
	sa, err := unix.Getsockname(server)
	s.addr("local", sa, err, s.args[0])
	must(unix.SetsockoptInt(server, unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
	must(unix.SetsockoptInt(server, unix.IPPROTO_IP, unix.IP_RECVTTL, 1))

	second := s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	s.told("the same port", unix.Bind(second, at))
	must(unix.SetsockoptInt(second, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	shared := s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	must(unix.SetsockoptInt(shared, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	must(unix.Bind(shared, address("127.0.0.1:0")))
	sharedAt, err := unix.Getsockname(shared)
	must(err)
	s.told("shared port", unix.Bind(second, sharedAt))

	one, two := s.socket(unix.AF_INET, unix.SOCK_DGRAM), s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	must(unix.Sendto(one, []byte("first"), 0, at))
	s.poll("first", server, unix.POLLIN, 5000)
	b, oob := make([]byte, 100), make([]byte, 200)
	n, oobn, flags, from, err := unix.Recvmsg(server, b, oob, 0)
	must(err)
	s.say("got %q, flags %#x", b[:n], flags)
	s.addr("from", from, nil)
	s.control(oob[:oobn])
	must(unix.Sendto(server, []byte("answer"), 0, from))
	s.recvFrom("client", one, 100, 0)

	const many = 40
	for i := range many {
		must(unix.Sendto(one, fmt.Appendf(nil, "%02d", i), 0, at))
		if i == many/2 {
			s.told("connect", unix.Connect(server, from))
		}
	}
	must(unix.Sendto(two, []byte("stranger"), 0, at))
	must(unix.SetsockoptTimeval(server, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300000}))
	var got []string
	for {
		n, err := unix.Read(server, b)
		if err != nil {
			s.told("the end", err)
			break
		}
		if n == 2 {
			got = append(got, string(b[:n]))
		}
	}
	if !sort.StringsAreSorted(got) {
		s.say("out of order")
	}
	s.say("%d of %d", len(got), many)
	s.write("answer", server, "connected")
	s.recvFrom("client", one, 100, 0)
	s.told("disconnect", unspecify(server))
	sa, err = unix.Getsockname(server)
	s.addr("local", sa, err, s.args[0])
	must(unix.Sendto(two, []byte("no stranger"), 0, at))
	s.recvFrom("server", server, 100, 0)
}

// control prints the control messages of IP's.
func (s *script) control(oob []byte) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	must(err)
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO:
			s.say("IP_PKTINFO %v", m.Data[4:12])
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TTL:
			s.say("IP_TTL %d", binary.NativeEndian.Uint32(m.Data))
		default:
			s.say("control message %d %d", m.Header.Level, m.Header.Type)
		}
	}
}

func scenarioDatagramErrors(s *script) {
	nobody, echo := s.args[0], s.args[1]
	fd := s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	s.told("connect", unix.Connect(fd, address(nobody)))
	s.write("write", fd, "x")
	s.poll("refused", fd, unix.POLLIN, 5000)
	s.soError("refused", fd)
	s.soError("told", fd)
	s.poll("told", fd, unix.POLLIN, 0)
	s.write("write", fd, "x")
	s.poll("refused", fd, unix.POLLIN, 5000)
	s.recvFrom("refused", fd, 10, 0)
	s.recvFrom("told", fd, 10, unix.MSG_DONTWAIT)
	s.write("write", fd, "x")
	s.recvFrom("waits", fd, 10, 0)
	s.told("connect to somebody", unix.Connect(fd, address(echo)))
	s.write("write", fd, "works")
	s.read("read", fd)
	s.told("bind to another's", unix.Bind(s.socket(unix.AF_INET, unix.SOCK_DGRAM), address("192.0.2.1:1")))
	taken := s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	must(unix.Bind(taken, address("127.0.0.1:0")))
	at, err := unix.Getsockname(taken)
	must(err)
	other := s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	s.told("taken", unix.Bind(other, at))
	unix.Close(taken)
	s.told("free again", unix.Bind(other, at))
	s.told("GSO", unix.SetsockoptInt(other, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	_, err = unix.GetsockoptInt(other, unix.IPPROTO_TCP, unix.TCP_NODELAY)
	s.told("an option of TCP", err)
	_, err = unix.GetsockoptInt(other, unix.IPPROTO_IP, unix.IP_MTU)
	s.told("IP_MTU", err)
}

// Edge-triggered epoll sees each datagram, and several calls take several.
func scenarioDatagramEpoll(s *script) {
	echo := s.args[0]
	ep, err := unix.EpollCreate1(0)
	must(err)
	fd := s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	must(unix.SetNonblock(fd, true))
	must(unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)}))
	wait := func(what string) {
		events := make([]unix.EpollEvent, 4)
		for {
			n, err := unix.EpollWait(ep, events, 300)
			if err == unix.EINTR {
				continue
			}
			s.say("%s: %d events %v", what, n, err)
			return
		}
	}
	wait("nothing")
	for range 3 {
		must(unix.Sendto(fd, []byte("edge"), 0, address(echo)))
		wait("sendto")
		s.recvFrom("recvfrom", fd, 10, 0, echo)
		s.recvFrom("recvfrom", fd, 10, 0, echo)
	}
	must(unix.Connect(fd, address(echo)))
	for range 3 {
		s.write("write", fd, "connected")
		wait("write")
		s.read("read", fd)
		s.read("read", fd)
	}
	must(unix.SetNonblock(fd, false))
	s.say("sendmmsg %d", mmsg(unix.SYS_SENDMMSG, fd, 0, "one", "two", "three"))
	must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	s.say("recvmmsg %d", mmsg(unix.SYS_RECVMMSG, fd, 0, "1111", "2222", "3333"))
	must(unspecify(fd))
	for _, text := range []string{"a", "b", "c"} {
		must(unix.Sendto(fd, []byte(text), 0, address(echo)))
	}
	s.say("recvmmsg %d", mmsg(unix.SYS_RECVMMSG, fd, 0, "1111", "2222", "3333"))
	must(unix.Sendto(fd, []byte("d"), 0, address(echo)))
	s.say("recvmmsg, one %d", mmsg(unix.SYS_RECVMMSG, fd, unix.MSG_WAITFORONE, "1111", "2222"))
}

// mmsg makes one of the calls on several messages.
func mmsg(nr uintptr, fd, flags int, texts ...string) int {
	type header struct {
		unix.Msghdr
		n uint32
		_ uint32
	}
	list := make([]header, len(texts))
	for i, text := range texts {
		b := []byte(text)
		iov := &unix.Iovec{Base: &b[0]}
		iov.SetLen(len(b))
		list[i].Iov = iov
		list[i].SetIovlen(1)
	}
	n, _, errno := unix.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(&list[0])), uintptr(len(list)), uintptr(flags), 0, 0)
	if errno != 0 {
		return -int(errno)
	}
	for _, h := range list[:n] {
		if h.n == 0 {
			return -1
		}
	}
	return int(n)
}

// Two processes have one socket.
func scenarioDatagramShared(s *script) {
	echo := s.args[0]
	if len(s.args) > 1 {
		const fd = 3
		s.sendTo("child", fd, "from the child", echo)
		s.recvFrom("child", fd, 40, 0, echo)
		return
	}
	fd := s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	s.sendTo("parent", fd, "from the parent", echo)
	s.recvFrom("parent", fd, 40, 0, echo)
	cmd := exec.Command("/proc/self/exe", echo, "child")
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "socket")}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	must(cmd.Run())
	s.say("%s", out.String())
	s.sendTo("parent", fd, "after the child", echo)
	s.recvFrom("parent", fd, 40, 0, echo)
}

// Signals interrupt sends and receives: nothing is sent twice, nothing is lost, but where a
// signal and the answer meet in the kernel, which is rare.
func scenarioDatagramSignals(s *script) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1)
	server := s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	must(unix.Bind(server, address("127.0.0.1:0")))
	at, err := unix.Getsockname(server)
	must(err)
	must(unix.SetsockoptTimeval(server, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}))
	const many, rare = 300, 3
	tids, done, ahead := make(chan int, 2), make(chan struct{}), make(chan bool, 16)
	var sent atomic.Int64 // when the last one was, Unix nanoseconds
	go func() {
		runtime.LockOSThread()
		defer func() { sent.Store(time.Now().UnixNano()) }()
		tids <- unix.Gettid()
		for i := range many {
			// A new socket each time: the first datagram to somebody is the one that waits.
			ahead <- true // queues lose what they have no room for
			fd := s.socket(unix.AF_INET, unix.SOCK_DGRAM)
			for {
				err := unix.Sendto(fd, fmt.Appendf(nil, "%03d", i), 0, at)
				if err == nil {
					break
				}
				if err != unix.EINTR {
					panic(err)
				}
			}
			unix.Close(fd)
		}
	}()
	got := make(map[string]int)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		tids <- unix.Gettid()
		b := make([]byte, 10)
		for len(got) < many {
			n, _, err := unix.Recvfrom(server, b, 0)
			if err == unix.EINTR || err == unix.EAGAIN {
				if at := sent.Load(); at != 0 && time.Since(time.Unix(0, at)) > time.Second {
					return
				}
				continue
			}
			must(err)
			if got[string(b[:n])]++; got[string(b[:n])] == 1 {
				<-ahead
			}
		}
	}()
	one, two := <-tids, <-tids
	deadline := time.Now().Add(60 * time.Second)
	for {
		select {
		case <-done:
			twice := 0
			for _, n := range got {
				twice += n - 1
			}
			s.say("few lost: %v; few twice: %v", many-len(got) <= rare, twice <= rare)
			return
		case <-time.After(200 * time.Microsecond):
			if time.Now().After(deadline) {
				panic("it takes too long")
			}
			_ = unix.Tgkill(os.Getpid(), one, unix.SIGUSR1)
			_ = unix.Tgkill(os.Getpid(), two, unix.SIGUSR1)
		}
	}
}
