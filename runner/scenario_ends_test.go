package runner

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func scenarioManySockets(s *script) {
	for i := range 30_000 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			s.say("socket %d: %v", i, err)
			return
		}
		unix.Close(fd)
	}
	for i := range 50 {
		lis, at := s.listener(unix.SOCK_NONBLOCK)
		for j := range 4 {
			fd := s.dial(at)
			if j == 3 { // is never accepted
				unix.Close(lis)
			} else if j > 0 {
				awaitEvent(lis, unix.POLLIN)
				a, _, err := unix.Accept(lis)
				must(err)
				unix.Close(a)
			}
			unix.Close(fd)
		}
		fd := s.socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK)
		_ = unix.Connect(fd, address(s.args[0]))
		if i%2 > 0 {
			awaitEvent(fd, unix.POLLOUT)
		}
		unix.Close(fd)
	}
	sup := fmt.Sprintf("/proc/%d", os.Getppid())
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) { // a sweep comes every 50 ms
		fds, err := os.ReadDir(sup + "/fd")
		must(err)
		if len(fds) <= 20 || time.Now().After(end) {
			s.say("%d", len(fds))
			return
		}
	}
}

func awaitEvent(fd int, events int16) {
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 5000)
	must(err)
}

func scenarioParallel(s *script) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := 0
	for i := range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for j := range 20 {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
				if err == nil {
					err = unix.Connect(fd, address(s.args[0]))
				}
				text := fmt.Sprintf("%d/%d", i, j)
				b := make([]byte, 64)
				n := 0
				if err == nil {
					if _, err = unix.Write(fd, []byte(text)); err == nil {
						n, err = unix.Read(fd, b)
					}
				}
				if err != nil || string(b[:n]) != text {
					mu.Lock()
					failed++
					fmt.Fprintf(os.Stderr, "%s: %q, %v\n", text, b[:n], err)
					mu.Unlock()
				}
				unix.Close(fd)
			}
		}()
	}
	wg.Wait()
	s.say("%d failed", failed)
}

// scenarioPassing passes a connected socket over a unix socket.
func scenarioPassing(s *script) {
	c := s.dial(s.args[0])
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(err)
	must(unix.Sendmsg(pair[0], []byte{1}, unix.UnixRights(c), nil, 0))
	unix.Close(c)
	oob := make([]byte, 64)
	_, n, _, _, err := unix.Recvmsg(pair[1], make([]byte, 1), oob, 0)
	must(err)
	cm, err := unix.ParseSocketControlMessage(oob[:n])
	must(err)
	fds, err := unix.ParseUnixRights(&cm[0])
	must(err)
	sa, err := unix.Getpeername(fds[0])
	s.addr("getpeername", sa, err, s.args[0])
	s.write("write", fds[0], "passed on")
	s.read("read", fds[0])
	d, err := unix.Dup(fds[0])
	must(err)
	unix.Close(fds[0])
	s.write("write", d, "duplicate")
	s.read("read", d)
	sa, err = unix.Getsockname(d)
	s.addr("getsockname", sa, err)
}

// scenarioInherited hands a connected socket to a child across exec.
func scenarioInherited(s *script) {
	if len(s.args) == 1 {
		c := s.dial(s.args[0])
		cmd := exec.Command("/proc/self/exe", s.args[0], "child")
		cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(c), "c")}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		must(cmd.Run())
		s.write("parent writes", c, "parent")
		s.read("parent reads", c)
		return
	}
	sa, err := unix.Getpeername(3)
	s.addr("getpeername", sa, err, s.args[0])
	s.write("write", 3, "child")
	s.read("read", 3)
	s.option("nodelay", 3, unix.IPPROTO_TCP, unix.TCP_NODELAY)
}

// scenarioEndings closes in ways that the peer reports.
func scenarioEndings(s *script) {
	read := func(fd int, n int) {
		b := make([]byte, n)
		for len(b) > 0 {
			n, err := unix.Read(fd, b)
			must(err)
			b = b[n:]
		}
	}
	end := func(name string, f func(fd int)) {
		fd := s.dial(s.args[0])
		s.write(name, fd, name)
		read(fd, len("go\n"))
		f(fd)
		unix.Close(fd)
		// The peer says on the second connection how the first ended.
		fd = s.dial(s.args[1])
		s.read(name, fd)
		unix.Close(fd)
	}
	end("close", func(int) {})
	end("linger", func(fd int) {
		must(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	})
	end("unread", func(fd int) {
		_, err := unix.Write(fd, []byte("send"))
		must(err)
		s.poll("unread", fd, unix.POLLIN, 5000)
	})
}

func scenarioMessages(s *script) {
	c := s.dial(s.args[0])
	s.write("write", c, "0123456789")
	s.poll("echo", c, unix.POLLIN, 5000)
	b := make([]byte, 4)
	n, from, err := unix.Recvfrom(c, b, unix.MSG_PEEK)
	s.say("peek: %q %v %v", b[:n], from, err)
	n, from, err = unix.Recvfrom(c, b, 0)
	s.say("recvfrom: %q %v %v", b[:n], from, err)
	n, _, errno := syscall3(unix.SYS_RECVFROM, c, nil, 2, unix.MSG_TRUNC)
	s.say("truncate: %d %v", n, errno)
	n, _, flags, from, err := unix.Recvmsg(c, b, nil, 0)
	s.say("recvmsg: %q %v %v %v", b[:n], from, flags, err)
	_, _, err = unix.Recvfrom(c, b, unix.MSG_DONTWAIT)
	s.told("dontwait", err)
	_, _, err = unix.Recvfrom(c, b, unix.MSG_OOB)
	s.told("urgent", err)
	_, _, err = unix.Recvfrom(c, b, unix.MSG_ERRQUEUE)
	s.told("error queue", err)
	s.told("sendto with an address", unix.Sendto(c, []byte("to"), 0, address("203.0.113.9:9")))
	s.told("sendmsg with an address", unix.Sendmsg(c, []byte("to"), nil, address("203.0.113.9:9"), 0))
	b = make([]byte, 4)
	n, _, err = unix.Recvfrom(c, b, unix.MSG_WAITALL)
	s.say("waitall: %q %v", b[:n], err)
}

func syscall3(nr uintptr, fd int, p unsafe.Pointer, n, flags int) (int, uintptr, syscall.Errno) {
	var b [64]byte
	if p == nil {
		p = unsafe.Pointer(&b)
	}
	r, r2, errno := syscall.Syscall6(nr, uintptr(fd), uintptr(p), uintptr(n), uintptr(flags), 0, 0)
	return int(r), r2, errno
}

// scenarioInterrupted sends itself signals while it waits in accept. Go restarts calls.
func scenarioInterrupted(s *script) {
	lis, at := s.listener(0)
	tid := make(chan int)
	got := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		tid <- unix.Gettid()
		_, _, err := unix.Accept(lis)
		got <- err
	}()
	id := <-tid
	for range 50 {
		must(unix.Tgkill(os.Getpid(), id, unix.SIGURG))
		time.Sleep(time.Millisecond)
	}
	c := s.dial(at)
	s.told("accept", <-got)
	unix.Close(c)
	for range 20 { // no other call of the past takes a connection
		c := s.dial(at)
		a, _, err := unix.Accept(lis)
		s.told("accept", err)
		unix.Close(a)
		unix.Close(c)
	}
}

// scenarioPrefork accepts in two processes that share a listener.
func scenarioPrefork(s *script) {
	if len(s.args) > 0 {
		for {
			a, _, err := unix.Accept(3)
			if err != nil {
				return
			}
			must(unix.SetNonblock(a, false))
			_, err = unix.Write(a, []byte("served"))
			must(err)
			unix.Close(a)
		}
	}
	lis, at := s.listener(0)
	var workers []*exec.Cmd
	for range 2 {
		cmd := exec.Command("/proc/self/exe", "worker")
		cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(lis), "lis")}
		cmd.Stderr = os.Stderr
		must(cmd.Start())
		workers = append(workers, cmd)
	}
	for range 40 {
		c := s.dial(at)
		s.read("read", c)
		unix.Close(c)
	}
	for _, w := range workers {
		must(w.Process.Kill())
		_ = w.Wait()
	}
}

func scenarioBound(s *script) {
	probe := s.socket(unix.AF_INET, unix.SOCK_STREAM)
	must(unix.Bind(probe, address("127.0.0.1:0")))
	sa, err := unix.Getsockname(probe)
	must(err)
	unix.Close(probe)
	from := fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
	fd := s.socket(unix.AF_INET, unix.SOCK_STREAM)
	s.told("bind", unix.Bind(fd, address(from)))
	s.told("connect", unix.Connect(fd, address(s.args[0])))
	sa, err = unix.Getsockname(fd)
	s.addr("getsockname", sa, err, from)
	s.write("write", fd, "from a port")
	s.read("read", fd)
	any := s.socket(unix.AF_INET, unix.SOCK_STREAM)
	s.told("bind", unix.Bind(any, address("0.0.0.0:0")))
	sa, err = unix.Getsockname(any)
	s.addr("getsockname", sa, err)
	s.told("connect", unix.Connect(any, address(s.args[0])))
	sa, err = unix.Getsockname(any)
	s.addr("getsockname", sa, err)
	a := netip.MustParseAddrPort(s.args[0])
	s.told("bind a taken port", unix.Bind(s.socket(unix.AF_INET, unix.SOCK_STREAM), address(a.String())))
}

func scenarioDisconnect(s *script) {
	fd := s.dial(s.args[0])
	s.write("write", fd, "one")
	s.read("read", fd)
	var a [16]byte // AF_UNSPEC
	s.told("disconnect", connectRaw(fd, unsafe.Pointer(&a), 16))
	sa, err := unix.Getpeername(fd)
	s.addr("getpeername", sa, err)
	s.told("connect", unix.Connect(fd, address(s.args[0])))
	s.write("write", fd, "two")
	s.read("read", fd)
}

// scenarioLongAccept says where it listens and serves one connection.
func scenarioLongAccept(s *script) {
	lis, at := s.listener(0)
	s.say("%s", at)
	a, _, err := unix.Accept(lis)
	must(err)
	s.read("read", a)
	_, err = unix.Write(a, []byte(strings.Repeat("bye", 1)))
	must(err)
}

// scenarioDaemonGone waits for a line of standard input at each step.
func scenarioDaemonGone(s *script) {
	step := func() {
		var b [1]byte
		for b[0] != '\n' {
			if _, err := unix.Read(0, b[:]); err != nil && err != unix.EINTR {
				panic(err)
			}
		}
	}
	lis, at := s.listener(0)
	c := s.dial(s.args[0])
	s.write("write", c, "one")
	s.read("read", c)
	servers, here := s.listener(0)
	busy, complete := s.dial(s.args[0]), s.dial(here)
	b, _, err := unix.Accept(servers)
	must(err)
	s.write("write", b, "all")
	must(unix.Shutdown(b, unix.SHUT_WR))
	s.poll("complete", complete, unix.POLLRDHUP, 5000)
	s.say("at %s", here)
	accepted, _, err := unix.Accept(servers)
	must(err)
	s.poll("queued", servers, unix.POLLIN, 5000)
	read := make(chan error)
	go func() {
		_, err := unix.Read(busy, make([]byte, 1))
		read <- err
	}()
	s.say("first")
	step() // the daemon is gone
	s.told("waiting", <-read)
	s.poll("connected", c, unix.POLLIN|unix.POLLRDHUP, 5000)
	s.read("read", c)
	s.soError("then", c)
	for range 2 {
		s.read("complete", complete)
	}
	s.read("accepted", accepted)
	s.soError("accepted, then", accepted)
	a, _, err := unix.Accept(servers)
	must(err)
	s.read("queued", a)
	fd := s.socket(unix.AF_INET, unix.SOCK_STREAM)
	s.told("connect", unix.Connect(fd, address(s.args[0])))
	s.told("bind", unix.Bind(s.socket(unix.AF_INET, unix.SOCK_STREAM), address("127.0.0.1:0")))
	s.say("second")
	step() // there is another
	s.told("connect", unix.Connect(fd, address(s.args[0])))
	s.write("write", fd, "two")
	s.read("read", fd)
	for range 100 { // the listener comes back by itself
		if err := unix.Connect(fd, address(at)); err == nil {
			break
		}
		fd = s.socket(unix.AF_INET, unix.SOCK_STREAM)
		time.Sleep(50 * time.Millisecond)
	}
	_, _, err = unix.Accept(lis)
	s.told("accept", err)
}

// scenarioTimeouts is about SO_RCVTIMEO of accept.
func scenarioTimeouts(s *script) {
	lis, at := s.listener(0)
	must(unix.SetsockoptTimeval(lis, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000}))
	_, _, err := unix.Accept(lis)
	s.told("accept", err)
	c := s.dial(at)
	a, _, err := unix.Accept(lis)
	s.told("accept", err)
	must(unix.SetsockoptTimeval(a, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000}))
	s.read("read", a)
	unix.Close(c)
}

// scenarioChurn makes non-blocking connections by package net while sockets come and go, so that
// sweeps run beside them.
func scenarioChurn(s *script) {
	var wg sync.WaitGroup
	var failed atomic.Int32
	for range 8 {
		wg.Go(func() {
			for range 250 {
				c, err := net.Dial("tcp", s.args[0])
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					failed.Add(1)
					continue
				}
				b := []byte{7}
				if _, err = c.Write(b); err == nil {
					_, err = c.Read(b)
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					failed.Add(1)
				}
				must(c.(*net.TCPConn).SetLinger(0))
				c.Close()
			}
		})
	}
	for range 2000 {
		unix.Close(s.socket(unix.AF_INET, unix.SOCK_STREAM))
	}
	wg.Wait()
	s.say("%d failed", failed.Load())
}

// scenarioStorm makes its calls while signals arrive all the time. The kernel makes a call again that
// a signal interrupts, and nothing may happen twice by that.
func scenarioStorm(s *script) {
	runtime.LockOSThread()
	tid := unix.Gettid()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				must(unix.Tgkill(os.Getpid(), tid, unix.SIGURG))
				time.Sleep(50 * time.Microsecond)
			}
		}
	}()
	errs := make(map[string]int)
	note := func(what string, err error) {
		if err != nil {
			errs[what+": "+err.Error()]++
		}
	}
	for range 100 {
		l := s.socket(unix.AF_INET, unix.SOCK_STREAM)
		note("bind", unix.Bind(l, address("127.0.0.1:0")))
		note("listen", unix.Listen(l, 4))
		unix.Close(l)
		c := s.socket(unix.AF_INET, unix.SOCK_STREAM)
		note("connect", unix.Connect(c, address(s.args[0])))
		_, err := unix.Getpeername(c)
		note("getpeername", err)
		unix.Close(c)
	}
	u := s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	for i := range 100 {
		note("sendto", unix.Sendto(u, []byte{byte(i)}, 0, address(s.args[1])))
		var b [1]byte
		_, _, err := unix.Recvfrom(u, b[:], 0)
		note("recvfrom", err)
		if b[0] != byte(i) {
			errs["another datagram"]++
		}
	}
	close(stop)
	<-done
	s.say("%v", errs)
}

// scenarioEarlyEnds accepts what has ended before.
func scenarioEarlyEnds(s *script) {
	lis, at := s.listener(0)
	for _, words := range []string{"", "last words"} {
		c := s.dial(at)
		s.write("write", c, words)
		s.poll("queued", lis, unix.POLLIN, 5000)
		must(unix.SetsockoptLinger(c, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
		unix.Close(c)
		time.Sleep(1200 * time.Millisecond) // longer than the daemon keeps its end of it
		a, sa, err := unix.Accept(lis)
		s.addr("accept", sa, err)
		for range 3 {
			s.read("read", a)
		}
		unix.Close(a)
	}
	c := s.dial(at)
	must(unix.Shutdown(c, unix.SHUT_WR))
	s.poll("queued", lis, unix.POLLIN, 5000)
	a, _, err := unix.Accept(lis)
	must(err)
	s.read("half-closed", a)
	s.write("half-closed", a, "still")
	s.read("half-closed", c)
}
