package runner

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// scenarioClosing connects to listeners that were closed or shut down just before.
func scenarioClosing(s *script) {
	connect := func(what, at string) {
		fd := s.socket(unix.AF_INET, unix.SOCK_STREAM)
		s.told(what, unix.Connect(fd, address(at)))
		unix.Close(fd)
	}
	for range 20 {
		l, at := s.listener(0)
		connect("open", at)
		unix.Close(l)
		connect("closed", at)
	}
	probe, at := s.listener(0)
	unix.Close(probe)
	l := s.socket(unix.AF_INET, unix.SOCK_STREAM) // of a port that was asked for, which a shutdown leaves
	must(unix.Bind(l, address(at)))
	must(unix.Listen(l, 4))
	d, err := unix.Dup(l)
	must(err)
	unix.Close(l)
	connect("a duplicate is left", at)
	s.told("shutdown", unix.Shutdown(d, unix.SHUT_RDWR))
	connect("shut down", at)
	_, _, err = unix.Accept(d)
	s.told("accept", err)
	sa, err := unix.Getsockname(d)
	s.addr("getsockname", sa, err, at)
	s.told("listen again", unix.Listen(d, 4))
	connect("listening again", at)
	s.poll("listening again", d, unix.POLLIN, 5000)
	must(unix.SetNonblock(d, true))
	a, from, err := unix.Accept(d)
	s.addr("accept", from, err)
	unix.Close(a)
	unix.Close(d)
	connect("closed", at)
}

// scenarioHeirs closes listeners and listens again at once, where the first was.
func scenarioHeirs(s *script) {
	again := func(at string, backlog int) int {
		l := s.socket(unix.AF_INET, unix.SOCK_STREAM)
		must(unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		s.told("bind", unix.Bind(l, address(at)))
		if backlog > 0 {
			s.told("listen", unix.Listen(l, backlog))
		}
		return l
	}
	serve := func(l int, at string) {
		c := s.dial(at)
		a, _, err := unix.Accept(l)
		s.told("accept", err)
		s.write("write", a, "hello")
		s.read("read", c)
		unix.Close(c)
		unix.Close(a)
	}
	first, at := s.listener(0)
	unix.Close(first)
	l := again(at, 8)
	for i := range 20 {
		serve(l, at)
		left := s.dial(at) // nobody accepts it
		s.poll("left behind", l, unix.POLLIN, 5000)
		unix.Close(l)
		l = again(at, 8+i%5/4) // another backlog is another listener
		s.read("left behind", left)
		unix.Close(left)
	}
	serve(l, at)
	d, err := unix.Dup(l)
	must(err)
	unix.Close(l)
	other := s.socket(unix.AF_INET, unix.SOCK_STREAM)
	must(unix.SetsockoptInt(other, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	s.told("a duplicate is left", unix.Bind(other, address(at)))
	unix.Close(d)
	l = again(at, 0)
	s.told("bound only", unix.Connect(s.socket(unix.AF_INET, unix.SOCK_STREAM), address(at)))
	s.told("listen", unix.Listen(l, 8))
	serve(l, at)
	unix.Close(l)
	l = again(at, 0)
	unix.Close(l)
	s.told("closed", unix.Connect(s.socket(unix.AF_INET, unix.SOCK_STREAM), address(at)))
	l = again(at, 8)
	serve(l, at)
	unix.Close(l)
	l = again(at, 0)
	s.told("connect from there", unix.Connect(l, address(s.args[0])))
	sa, err := unix.Getsockname(l)
	s.addr("getsockname", sa, err, at)
}

// scenarioLeaderless goes on in another thread after the process' first has ended.
func scenarioLeaderless(s *script) {
	work := func() {
		c := s.dial(s.args[0])
		s.write("write", c, "without a leader")
		s.read("read", c)
		_, err := unix.Getpeername(c)
		s.told("getpeername", err)
		l, at := s.listener(0)
		d := s.dial(at)
		a, _, err := unix.Accept(l)
		s.told("accept", err)
		s.write("write", a, "x")
		s.read("read", d)
		os.Exit(0)
	}
	for { // the goroutine that has the first thread
		first := make(chan bool)
		go func() {
			runtime.LockOSThread()
			if first <- unix.Gettid() == os.Getpid(); unix.Gettid() != os.Getpid() {
				select {}
			}
			_, _, _ = syscall.Syscall(unix.SYS_EXIT, 0, 0, 0)
		}()
		if <-first {
			break
		}
	}
	leader := fmt.Sprintf("/proc/%d/fd/1", os.Getpid())
	for { // until it has no descriptors any more
		if _, err := os.Lstat(leader); err != nil {
			break
		}
		runtime.Gosched()
	}
	work()
}

// scenarioCredentials asks who the peer is, which TCP does not know.
func scenarioCredentials(s *script) {
	l, at := s.listener(0)
	fresh, c := s.socket(unix.AF_INET, unix.SOCK_STREAM), s.dial(at)
	a, _, err := unix.Accept(l)
	must(err)
	for _, fd := range []int{fresh, l, c, a} {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		must(err)
		s.say("peer %+v", *cred)
		_, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS)
		s.told("groups", err)
		ulp := [4]byte{'n', 'o', 'n', 'e'}
		_, _, errno := syscall.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_ULP, uintptr(unsafe.Pointer(&ulp)), 4, 0)
		s.say("TCP_ULP: %v", errno)
	}
}

// scenarioLingering closes connections that have SO_LINGER from their listener.
func scenarioLingering(s *script) {
	l, at := s.listener(0)
	for range 10 {
		must(unix.SetsockoptLinger(l, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
		c := s.dial(at)
		a, _, err := unix.Accept(l)
		must(err)
		linger, err := getLinger(a)
		s.told("getsockopt", err)
		s.say("%v", linger)
		unix.Close(a)
		s.read("no time", c)
		unix.Close(c)
		must(unix.SetsockoptLinger(l, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{}))
		c = s.dial(at)
		a, _, err = unix.Accept(l)
		must(err)
		unix.Close(a)
		s.read("off", c)
		unix.Close(c)
	}
}
