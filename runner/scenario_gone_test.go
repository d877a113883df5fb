package runner

import (
	"os"

	"golang.org/x/sys/unix"
)

// scenarioDatagramsGone uses UDP sockets before, while and after there is no daemon.
func scenarioDatagramsGone(s *script) {
	line := func() { _, _ = os.Stdin.Read(make([]byte, 1)) }
	to := s.args[0]
	c, u, server := s.socket(unix.AF_INET, unix.SOCK_DGRAM), s.socket(unix.AF_INET, unix.SOCK_DGRAM), s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	must(unix.Connect(c, address(to)))
	must(unix.Bind(server, address("127.0.0.1:0")))
	at, err := unix.Getsockname(server)
	must(err)
	s.write("write", c, "one")
	s.read("read", c)
	s.sendTo("sendto", u, "one", to)
	s.recvFrom("recvfrom", u, 40, 0, to)
	s.told("sendto the server", unix.Sendto(u, []byte("x"), 0, at))
	s.recvFrom("server", server, 40, 0)
	s.say("first")
	line()
	s.poll("connected", c, unix.POLLIN, 300)
	s.recvFrom("connected", c, 40, unix.MSG_DONTWAIT)
	s.recvFrom("server", server, 40, unix.MSG_DONTWAIT)
	s.sendTo("sendto", u, "lost", to)
	s.sendTo("server", server, "lost", to)
	s.sendTo("sendto the peer", c, "lost", to)
	_, err = unix.Write(c, []byte("lost"))
	s.told("write", err)
	s.poll("connected", c, 0, 5000)
	s.soError("write", c)
	sa, err := unix.Getpeername(c)
	s.addr("remote", sa, err, to)
	s.told("connect", unix.Connect(c, address(to)))
	received := make(chan bool)
	go func() {
		s.recvFrom("server", server, 40, 0)
		close(received)
	}()
	s.say("second")
	line()
	s.sendTo("sendto", u, "two", to)
	s.recvFrom("recvfrom", u, 40, 0, to)
	for p := []unix.PollFd{{Fd: int32(c), Events: unix.POLLIN}}; p[0].Revents&unix.POLLIN == 0; _, _ = unix.Poll(p, 100) {
		_, _ = unix.Write(c, []byte("two"))
		_, _ = unix.GetsockoptInt(c, unix.SOL_SOCKET, unix.SO_ERROR)
	}
	s.read("read", c)
	for open := true; open; {
		must(unix.Sendto(u, []byte("y"), 0, at))
		select {
		case <-received:
			open = false
		default:
		}
	}
	s.told("disconnect", unspecify(c))
	_, err = unix.Getpeername(c)
	s.told("remote", err)
}
