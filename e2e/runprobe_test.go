package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// What sockets do on the stack is what they do on the kernel, but for what
// probeDiffers lists.
func TestRunProbe(t *testing.T) {
	t.Parallel()
	probe := goProgram(t, sockprobe)
	kernel := newSide(t, "kernel")
	sides := []*side{kernel, newSide(t, "ustack")}
	for _, s := range sides {
		newProbePeer(t, s)
		// Not icmp_ratelimit: 0 there takes away at each error what ip_error has saved up for its five in a
		// row, and the next unreachable route is silent for a second.
		s.host.Sysctl(t, "net.ipv4.icmp_ratemask", "0")
		s.host.Sysctl(t, "net.ipv6.icmp.ratelimit", "0")
		s.hostSh(t, "ip route add blackhole 198.51.100.66; ip route add unreachable 198.51.100.67; ip route add prohibit 198.51.100.68;"+
			"ip route add unreachable 2001:db8:9::67; ip route add prohibit 2001:db8:9::68")
	}
	for _, section := range strings.Split(strings.TrimSpace(kernel.hostSh(t, probe+" sections")), "\n") {
		t.Run(section, func(t *testing.T) {
			if section == "unreachable" {
				t.Parallel() // It takes long and needs no peer; the others share one.
			}
			var saw [2]string
			var wg sync.WaitGroup
			for i, s := range sides {
				wg.Go(func() { saw[i] = s.probe(t, probe, section) })
			}
			wg.Wait()
			compare(t, section, saw[0], saw[1])
		})
	}
}

// probe runs one section and returns what it saw.
func (s *side) probe(t *testing.T, program, section string) string {
	t.Helper()
	r := s.run(t, "timeout", "30", program, "probe", section, host4, host6, stack4, stack6)
	if r.code != 0 {
		t.Errorf("%s: exit code %d, after %s\n%s", s.name, r.code, lastLine(r.stdout), r.stderr)
	}
	return r.stdout
}

// A difference that is meant: observations of one section whose names match say something
// else on the stack.
type difference struct{ section, what, why string }

var probeDiffers = []difference{
	{"fresh sockets", `(tcp6?|udp6?) (read|write|shutdown)`, "a fresh socket is a unix socket, which words these errors"},
	{"connect", `refused, read`, "the unix socket's words"},
	{"connect without waiting", `refused, asked by (read|write)`, "a unix socket has no pending error but ECONNRESET: SO_ERROR and connect have the real one"},
	{"connect without waiting", `refused: connect again|refused: then writable`, "the next connect begins at once"},
	{"listen", `read|write|shut: events`, "the unix socket's words"},
	{"listen", `after`, "a listener that is closed is found closed when somebody comes"},
	{"half-close", `shut writing again|remote`, "the unix socket's words"},
	{"reset", `closed: write after its reset`, "the peer's reset after its orderly end is not passed on"},
	{"unreachable", `IPv6, a router says prohibited(, without waiting)?|nobody answers|broadcast`, "not passed on by the stack: the connect goes on for its time"},
	{"reset", `write first|read then|remote`, "a unix socket tells of the reset by read, not by write"},
	{"epoll", `edge: again`, "an edge more than needed"},
	{"details", `mmap`, "TCP's receiving without a copy; a unix socket has none"},
	{"udp", `shut`, "the unix socket's words"},
	{"options", `unknown level|IPV6_V6ONLY of IPv4|UDP TCP_NODELAY|IPV6_RECVPKTINFO|SO_BINDTODEVICE none|TCP_MAXSEG, connected|TCP_CONGESTION then`, "not emulated"},
	{"loopback", `127\.0\.0\.2: accept`, "the stack sends from the address that is asked for"},
}

// compare fails the test for every observation that differs without a reason.
func compare(t *testing.T, section, kernel, stack string) {
	t.Helper()
	want, order := observations(kernel)
	got, _ := observations(stack)
	for _, what := range order {
		switch {
		case want[what] == got[what] || means(section, what):
		case got[what] == "":
			t.Errorf("%s = %s on the kernel; the stack says nothing of it", what, want[what])
			return // the rest is the same
		default:
			t.Errorf("%s = %s on the kernel, %s on the stack", what, want[what], got[what])
		}
	}
}

// observations are the values by their names, and the names in order; a name that comes
// again has a number.
func observations(text string) (values map[string]string, order []string) {
	values = map[string]string{}
	for line := range strings.Lines(text) {
		what, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
		name := what
		for n := 2; values[name] != ""; n++ {
			name = fmt.Sprintf("%s (%d)", what, n)
		}
		values[name] = value
		order = append(order, name)
	}
	return values, order
}

func means(section, what string) bool {
	for _, d := range probeDiffers {
		if d.section == section && regexp.MustCompile(`\A(`+d.what+`)\z`).MatchString(what) {
			return true
		}
	}
	return false
}

// A probePeer is the kernel's end of sockprobe's connections. Ports and commands are
// those of sockprobe's world.go.
type probePeer struct {
	s *side
	t testing.TB

	ended chan string        // how connections of portWitness have ended
	heard chan *net.TCPConn  // those that have heard something
	idle  chan chan struct{} // closed to let portIdle go on
	udp   net.PacketConn
}

func newProbePeer(t testing.TB, s *side) {
	t.Helper()
	p := &probePeer{s: s, t: t, ended: make(chan string, 16), heard: make(chan *net.TCPConn, 16), idle: make(chan chan struct{}, 16)}
	for port, act := range map[int]func(*net.TCPConn){
		7000: p.command, 7001: reset, 7002: func(c *net.TCPConn) { c.Close() }, 7003: hello,
		7004: sum, 7005: deaf, 7006: p.witness, 7007: p.waits,
	} {
		serve(t, listenIn(t, s.host, "tcp4", fmt.Sprintf("%s:%d", host4, port)), func(c net.Conn) { act(c.(*net.TCPConn)) })
	}
	s.host.Do(t, func() {
		var err error
		if p.udp, err = net.ListenPacket("udp4", host4+":7008"); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { p.udp.Close() })
}

func reset(c *net.TCPConn) {
	c.Read(make([]byte, 100))
	c.SetLinger(0)
	c.Close()
}

func hello(c *net.TCPConn) {
	defer c.Close()
	io.WriteString(c, "hello")
	c.CloseWrite()
	io.Copy(io.Discard, c)
}

func sum(c *net.TCPConn) {
	defer c.Close()
	n, _ := io.Copy(io.Discard, c)
	fmt.Fprintln(c, n)
}

// deaf closes while data is in its receive buffer, which is a reset.
func deaf(c *net.TCPConn) {
	rc, err := c.SyscallConn()
	if err != nil {
		return
	}
	rc.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
		return err != syscall.EAGAIN
	})
	c.Close()
}

func (p *probePeer) witness(c *net.TCPConn) {
	defer c.Close()
	total := 0
	buf := make([]byte, 1<<16)
	for {
		n, err := c.Read(buf)
		if total == 0 && n > 0 {
			p.heard <- c
		}
		total += n
		switch {
		case errors.Is(err, io.EOF):
			p.ended <- fmt.Sprintf("end after %d", total)
		case errors.Is(err, syscall.ECONNRESET):
			p.ended <- "reset"
		case err != nil:
			p.ended <- err.Error()
		default:
			continue
		}
		return
	}
}

func (p *probePeer) waits(c *net.TCPConn) {
	c.SetReadBuffer(64 << 10)
	gone := make(chan struct{})
	p.idle <- gone
	<-gone
	sum(c)
}

func dialMode(p *probePeer, mode string) func(*net.TCPConn) {
	return map[string]func(*net.TCPConn){
		"hello": hello, "sum": sum, "witness": p.witness,
		"reset": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	}[mode]
}

// command obeys lines.
func (p *probePeer) command(c *net.TCPConn) {
	defer c.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	lines := bufio.NewScanner(c)
	var last *net.TCPConn
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		answer := "ok"
		switch words[0] {
		case "dial4", "dial6":
			ip := stack4
			if words[0] == "dial6" {
				ip = stack6
			}
			conn, err := dialIn(p.t, p.s.host, "tcp", net.JoinHostPort(ip, words[1]))
			var errno syscall.Errno
			if errors.As(err, &errno) {
				answer = "errno " + strconv.Itoa(int(errno))
			} else if err != nil {
				answer = err.Error()
			} else {
				if words[2] == "say" {
					io.WriteString(conn, words[3])
					words[2] = "sum"
				}
				wg.Go(func() { dialMode(p, words[2])(conn.(*net.TCPConn)) })
			}
		case "ended":
			answer = in5s(p.ended, "nothing")
			for len(p.heard) > 0 {
				<-p.heard
			}
		case "heard":
			if last = in5s(p.heard, nil); last == nil {
				answer = "nothing"
			}
		case "answer":
			if last != nil {
				io.WriteString(last, "an answer")
			}
		case "go":
			close(in5s(p.idle, make(chan struct{})))
		case "udp4":
			to, _ := net.ResolveUDPAddr("udp4", stack4+":"+words[1])
			if _, err := p.udp.WriteTo([]byte(words[2]), to); err != nil {
				answer = err.Error()
			}
		case "udp":
			buf := make([]byte, 100)
			p.udp.SetReadDeadline(time.Now().Add(5 * time.Second))
			n, from, err := p.udp.ReadFrom(buf)
			answer = fmt.Sprintf("%q from %v %v", buf[:n], from, err)
		}
		fmt.Fprintln(c, answer)
	}
}

// in5s is what comes within 5 s, or a substitute.
func in5s[T any](c <-chan T, none T) T {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	select {
	case v := <-c:
		return v
	case <-ctx.Done():
		return none
	}
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
