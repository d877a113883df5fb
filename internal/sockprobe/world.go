package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Ports of the peer, which acts as its name says for each connection.
const (
	portCommand = 7000 // takes lines; see world.ask
	portReset   = 7001 // waits for data, then resets
	portClose   = 7002 // closes at once
	portHello   = 7003 // says hello, half-closes, waits for the end
	portSum     = 7004 // reads to the end, then says how much it was
	portDeaf    = 7005 // waits for data, closes without having read it
	portWitness = 7006 // reads to the end; "ended" asks how that was
	portIdle    = 7007 // neither reads nor writes, until "go"; then as portSum
	portEcho    = 7
	portNobody  = 9
)

// A world is where a section looks, and what it said last.
type world struct {
	peer4, peer6, own4, own6 netip.Addr
	last                     string
	cmd                      int // connection to portCommand
	answers                  *bufio.Reader
}

func newWorld(peer4, peer6, own4, own6 string) *world {
	return &world{
		peer4: netip.MustParseAddr(peer4), peer6: netip.MustParseAddr(peer6),
		own4: netip.MustParseAddr(own4), own6: netip.MustParseAddr(own6), cmd: -1,
	}
}

// say prints an observation.
func (w *world) say(what string, values ...any) {
	w.last = what
	var b strings.Builder
	b.WriteString(what + " =")
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			b.WriteString(" ok")
		case error:
			b.WriteString(" " + errName(v))
		case []byte:
			fmt.Fprintf(&b, " %q", v)
		default:
			fmt.Fprintf(&b, " %v", v)
		}
	}
	fmt.Println(b.String())
}

// errName is an error by the kernel's name for it.
func errName(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// ask has the peer do something: "dial4 PORT MODE" connects to us and acts as MODE
// says ("say TEXT" sends that), "ended" says how the connection to portWitness has ended, "go" lets portIdle
// read.
func (w *world) ask(what string) string {
	if w.cmd < 0 {
		w.cmd = w.dial(portCommand)
		w.answers = bufio.NewReader(reader(w.cmd))
	}
	must(unix.Write(w.cmd, []byte(what+"\n")))
	line, err := w.answers.ReadString('\n')
	if err != nil {
		panic(fmt.Sprintf("ask %q: %v", what, err))
	}
	return strings.TrimSpace(line)
}

type reader int

func (r reader) Read(b []byte) (int, error) {
	n, err := unix.Read(int(r), b)
	if err == nil && n == 0 {
		err = errors.New("the peer has hung up")
	}
	return max(n, 0), err
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// tcp, tcp6, udp and udp6 make sockets; more is or'ed to the type.
func tcp(more ...int) int  { return sock(unix.AF_INET, unix.SOCK_STREAM, more) }
func tcp6(more ...int) int { return sock(unix.AF_INET6, unix.SOCK_STREAM, more) }
func udp(more ...int) int  { return sock(unix.AF_INET, unix.SOCK_DGRAM, more) }
func udp6(more ...int) int { return sock(unix.AF_INET6, unix.SOCK_DGRAM, more) }

func sock(family, typ int, more []int) int {
	for _, m := range more {
		typ |= m
	}
	return must(unix.Socket(family, typ|unix.SOCK_CLOEXEC, 0))
}

func addr(ip netip.Addr, port int) unix.Sockaddr {
	if ip.Is4() {
		return &unix.SockaddrInet4{Addr: ip.As4(), Port: port}
	}
	return &unix.SockaddrInet6{Addr: ip.As16(), Port: port}
}

// text is an address; ports that the system chose are "port".
func text(sa unix.Sockaddr, err error) string {
	if err != nil {
		return errName(err)
	}
	var ip netip.Addr
	var port int
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		ip, port = netip.AddrFrom4(sa.Addr), sa.Port
	case *unix.SockaddrInet6:
		ip, port = netip.AddrFrom16(sa.Addr), sa.Port
		if sa.ZoneId != 0 {
			ip = ip.WithZone("zone")
		}
	case nil:
		return "none"
	default:
		return fmt.Sprintf("%T", sa)
	}
	if port >= 16000 { // the stack chooses from there, the kernel from 32768
		return fmt.Sprintf("%v port", ip)
	}
	return fmt.Sprintf("%v %d", ip, port)
}

func local(fd int) string  { return text(unix.Getsockname(fd)) }
func remote(fd int) string { return text(unix.Getpeername(fd)) }

// port is the port that a socket is bound to.
func port(fd int) int {
	switch sa := must(unix.Getsockname(fd)).(type) {
	case *unix.SockaddrInet4:
		return sa.Port
	case *unix.SockaddrInet6:
		return sa.Port
	}
	panic("not bound to an IP address")
}

// dial is a connected TCP socket to one of the peer's ports.
func (w *world) dial(port int) int {
	fd := tcp()
	check(unix.Connect(fd, addr(w.peer4, port)))
	return fd
}

// poll waits for events on a socket, at most timeout; nothing is "nothing".
func poll(fd int, events int16, timeout time.Duration) string {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	deadline := time.Now().Add(timeout)
	for {
		n, err := unix.Poll(p, int(max(0, time.Until(deadline).Milliseconds())))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return errName(err)
		case n == 0:
			return "nothing"
		}
		return eventNames(uint32(p[0].Revents))
	}
}

const (
	anything = unix.POLLIN | unix.POLLOUT | unix.POLLRDHUP | unix.POLLPRI
	soon     = 150 * time.Millisecond
	long     = 10 * time.Second
)

// settle waits until poll tells of want, and returns all it tells then. Where it tells of a hangup
// instead, the rest may come a moment later.
func settle(fd int, want int16) string {
	p := []unix.PollFd{{Fd: int32(fd), Events: want}}
	for deadline := time.Now().Add(long); time.Now().Before(deadline); {
		_, err := unix.Poll(p, int(time.Until(deadline).Milliseconds()))
		if err == nil && (p[0].Revents&unix.POLLHUP == 0 || p[0].Revents&want == want) {
			break
		}
	}
	return poll(fd, anything, 0)
}

func eventNames(e uint32) string {
	var names []string
	for _, x := range []struct {
		bit  uint32
		name string
	}{
		{unix.POLLIN, "IN"}, {unix.POLLPRI, "PRI"}, {unix.POLLOUT, "OUT"}, {unix.POLLERR, "ERR"},
		{unix.POLLHUP, "HUP"}, {unix.POLLRDHUP, "RDHUP"}, {unix.POLLNVAL, "NVAL"},
	} {
		if e&x.bit != 0 {
			names = append(names, x.name)
		}
	}
	return strings.Join(names, "|")
}

// soError takes the pending error.
func soError(fd int) error {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if v != 0 {
		return unix.Errno(v)
	}
	return nil
}

// read and write are one call each, and say what came of it. A call with a time limit is interrupted by the
// signals that Go's scheduler sends.
func read(fd, size int) string {
	buf := make([]byte, size)
	for {
		if n, err := unix.Read(fd, buf); err != unix.EINTR {
			return outcome(buf, n, err)
		}
	}
}

func recv(fd, size, flags int) string {
	buf := make([]byte, size)
	for {
		if n, _, err := unix.Recvfrom(fd, buf, flags); err != unix.EINTR {
			return outcome(buf, n, err)
		}
	}
}

func outcome(buf []byte, n int, err error) string {
	switch {
	case err != nil:
		return errName(err)
	case n == 0:
		return "end"
	case n > len(buf):
		return fmt.Sprintf("%q of %d", buf, n)
	}
	return fmt.Sprintf("%q", buf[:n])
}

func write(fd int, s string) string {
	n, err := unix.SendmsgN(fd, []byte(s), nil, nil, unix.MSG_NOSIGNAL)
	if err != nil {
		return errName(err)
	}
	return fmt.Sprint(n)
}

// readAll reads to the end, and says how long that was and what ended it.
func readAll(fd int) string {
	buf := make([]byte, 1<<16)
	total := 0
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Sprintf("%d, %s", total, errName(err))
		case n == 0:
			return fmt.Sprintf("%d, end", total)
		}
		total += max(n, 0)
	}
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func setInt(fd, level, opt, v int) error { return unix.SetsockoptInt(fd, level, opt, v) }

// bound is a socket bound to an address and a port of the system's choice or port.
func bound(fd int, ip netip.Addr, port int) int {
	check(unix.Bind(fd, addr(ip, port)))
	return fd
}

var (
	any4  = netip.IPv4Unspecified()
	any6  = netip.IPv6Unspecified()
	loop4 = netip.MustParseAddr("127.0.0.1")
	loop6 = netip.IPv6Loopback()
)

// raw makes a system call as it stands, for arguments that no wrapper lets through.
func raw(trap, a, b, c uintptr) error {
	if _, _, errno := unix.Syscall(trap, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

// child is what a section starts with an inherited socket, as descriptor 3.
func child(args []string) {
	const fd = 3
	switch strings.Join(args, " ") {
	case "talk":
		fmt.Println("child sees =", local(fd), remote(fd))
		fmt.Println("child writes =", write(fd, "from the child\n"))
		fmt.Println("child reads =", read(fd, 100))
	case "accept":
		c, sa, err := unix.Accept(fd)
		fmt.Println("child accepts =", text(sa, err))
		if err == nil {
			write(c, "accepted by the child\n")
			unix.Close(c)
		}
	case "write and exit":
		b := make([]byte, 200000)
		unix.Write(fd, b)
	case "receive":
		oob := make([]byte, 64)
		_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 1), oob, 0)
		check(err)
		// One cmsghdr with one descriptor.
		got := int(binary.NativeEndian.Uint32(oob[unix.CmsgLen(0):n]))
		fmt.Println("child got =", local(got), remote(got))
		fmt.Println("child writes =", write(got, "passed\n"))
		fmt.Println("child reads =", read(got, 100))
	default:
		os.Exit(2)
	}
}
