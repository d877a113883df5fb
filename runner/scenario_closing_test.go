package runner

import "golang.org/x/sys/unix"

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
