package control_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

// A rawSession speaks the flow protocol by hand.
type rawSession struct {
	t    *testing.T
	conn *net.UnixConn
	br   *bufio.Reader
}

func newRawSession(t *testing.T, c *control.Client) *rawSession {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.Path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	r := &rawSession{t, conn, bufio.NewReader(conn)}
	io.WriteString(conn, "POST /v1/flows HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: ustack-flow\r\n\r\n")
	res, err := http.ReadResponse(r.br, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", res, err)
	}
	return r
}

// send writes a line with descriptors.
func (r *rawSession) send(line string, fds ...int) {
	r.t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := r.conn.WriteMsgUnix([]byte(line), oob, nil); err != nil {
		r.t.Fatalf("send %.50q: %v", line, err)
	}
}

// reply reads messages up to one that is no "ended" event.
func (r *rawSession) reply() map[string]any {
	r.t.Helper()
	for {
		m := r.message()
		if m["event"] != "ended" {
			return m
		}
	}
}

func (r *rawSession) message() map[string]any {
	r.t.Helper()
	line, err := r.br.ReadString('\n')
	if err != nil {
		r.t.Fatalf("read: %v", err)
	}
	m := make(map[string]any)
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		r.t.Fatalf("%q: %v", line, err)
	}
	return m
}

// pair makes a socket pair; both ends are closed at the end of the test.
func pair(t *testing.T, typ int) (ours, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fds[0], fds[1]
}

func TestMalformedMessages(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	a, b := pair(t, unix.SOCK_STREAM)
	defer unix.Close(a)
	defer unix.Close(b)
	many := make([]int, 65)
	for i := range many {
		many[i] = b
	}
	for name, tc := range map[string]struct {
		line string
		fds  []int
	}{
		"no JSON":              {"dial me\n", nil},
		"no object":            {"[1]\n", nil},
		"empty line":           {"\n", nil},
		"no op":                {`{"id":1}` + "\n", nil},
		"wrong type":           {`{"id":"one","op":"dial"}` + "\n", nil},
		"two objects":          {`{"op":"x"} {"op":"y"}` + "\n", nil},
		"too long":             {`{"op":"` + strings.Repeat("x", 70000) + `"}` + "\n", nil},
		"descriptor missing":   {`{"id":1,"op":"attach","flow":1,"fd":true}` + "\n", nil},
		"descriptor uninvited": {`{"id":1,"op":"local","flow":1}` + "\n", []int{b}},
		"too many descriptors": {`{"id":1,`, many},
	} {
		r := newRawSession(t, c)
		r.send(tc.line, tc.fds...)
		m := r.reply()
		if m["event"] != "protocol" && name == "descriptor uninvited" {
			m = r.reply() // the message itself is answered before
		}
		if m["event"] != "protocol" || m["errno"] != "EPROTO" || m["error"] == "" {
			t.Errorf("%s: %v", name, m)
		}
		if _, err := r.br.ReadByte(); err == nil {
			t.Errorf("%s: the connection goes on", name)
		}
		r.conn.Close()
	}
}

func TestRefusedRequests(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	r := newRawSession(t, c)
	for line, want := range map[string]string{
		`{"op":"fly","id":1}`:                                                   "EOPNOTSUPP",
		`{"op":"local","flow":99,"id":1}`:                                       "EBADF",
		`{"op":"attach","flow":99,"id":1}`:                                      "EBADF",
		`{"op":"accept","flow":99,"id":1}`:                                      "EBADF",
		`{"op":"socket","network":"udp4","id":1}`:                               "EINVAL",
		`{"op":"socket","network":"tcp4","options":{"x":1},"id":1}`:             "ENOPROTOOPT",
		`{"op":"dial","network":"tcp","address":"nowhere","id":1}`:              "EINVAL",
		`{"op":"dial","network":"tcp9","address":"127.0.0.1:1","id":1}`:         "EINVAL",
		`{"op":"listen","network":"tcp","address":"192.0.2.1:1","id":1}`:        "EADDRNOTAVAIL",
		`{"op":"udp","network":"udp","local":"192.0.2.1:1","id":1}`:             "EADDRNOTAVAIL",
		`{"op":"udp","network":"tcp","id":1}`:                                   "EINVAL",
		`{"op":"icmp","network":"ip","id":1}`:                                   "EINVAL",
		`{"op":"icmp","network":"ip4","options":{"tcp.nodelay":1},"id":1}`:      "ENOPROTOOPT",
		`{"op":"resolve","id":1}`:                                               "EINVAL",
		`{"op":"resolve","network":"tcp","address":"x","id":1}`:                 "EINVAL",
		`{"op":"cancel","target":77,"id":1}`:                                    "ENOENT",
		`{"op":"dial","network":"tcp","address":"127.0.0.1:99999999","id":1}`:   "EINVAL",
		`{"op":"dial","flow":5,"network":"tcp","address":"127.0.0.1:1","id":1}`: "EBADF",
	} {
		r.send(line + "\n")
		if m := r.reply(); m["errno"] != want || m["id"] != 1.0 {
			t.Errorf("%s: %v, want %s", line, m, want)
		}
	}
	// Two messages in one write, and one in two.
	r.send(`{"id":1,"op":"fly"}` + "\n" + `{"id":2,"op":"fly"}` + "\n" + `{"id":3,`)
	r.send(`"op":"fly"}` + "\n")
	for id := 1.0; id <= 3; id++ {
		if m := r.reply(); m["id"] != id {
			t.Errorf("%v, want id %v", m, id)
		}
	}
}

func TestBadDescriptors(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	peer := kernelPeer(t, "tcp", echo)
	r := newRawSession(t, c)
	p := make([]int, 2)
	if err := unix.Pipe2(p, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	inet, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	lone, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	dgram, dgram2 := pair(t, unix.SOCK_DGRAM)
	seq, seq2 := pair(t, unix.SOCK_SEQPACKET)
	stream, stream2 := pair(t, unix.SOCK_STREAM)
	for _, fd := range []int{p[0], p[1], inet, lone, dgram, dgram2, seq, seq2, stream, stream2} {
		defer unix.Close(fd)
	}
	dial := fmt.Sprintf(`{"id":1,"op":"dial","network":"tcp","address":%q,"fd":true}`, peer)
	udp := `{"id":1,"op":"udp","network":"udp4","local":"127.0.0.1:0","fd":true}`
	connected := `{"id":1,"op":"udp","network":"udp4","address":"127.0.0.1:9","fd":true}`
	icmp := `{"id":1,"op":"icmp","network":"ip4","fd":true}`
	for _, tc := range []struct {
		name, line string
		fd         int
		want       string
	}{
		{"pipe", dial, p[0], "ENOTSOCK"},
		{"file", dial, int(file.Fd()), "ENOTSOCK"},
		{"TCP socket", dial, inet, "EINVAL"},
		{"not connected", dial, lone, "ENOTCONN"},
		{"datagram for TCP", dial, dgram, "EPROTOTYPE"},
		{"seqpacket for TCP", dial, seq, "EPROTOTYPE"},
		{"stream for UDP", udp, stream, "EPROTOTYPE"},
		{"pipe for UDP", udp, p[1], "ENOTSOCK"},
		{"seqpacket for raw UDP", connected, seq, "EPROTOTYPE"},
		{"stream for ICMP", icmp, stream, "EPROTOTYPE"},
		{"for resolve", `{"id":1,"op":"resolve","address":"127.0.0.1","fd":true}`, stream, "EINVAL"},
		{"for local", `{"id":1,"op":"local","flow":1,"fd":true}`, stream, "EINVAL"},
	} {
		r.send(tc.line+"\n", tc.fd)
		if m := r.reply(); m["errno"] != tc.want {
			t.Errorf("%s: %v, want %s", tc.name, m, tc.want)
		}
	}
}

// The steps of the runner: socket, bind, dial without data, drain, attach.
func TestAttachLater(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	peer := kernelPeer(t, "tcp", echo)
	s, err := c.OpenSession(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	call := func(r control.Request, fd int) control.Reply {
		t.Helper()
		rep, err := s.Call(testContext(t), r, fd)
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		return rep
	}
	flow := call(control.Request{Op: "socket", Network: "tcp4"}, -1).Flow
	bound := call(control.Request{Op: "bind", Flow: flow, Local: "127.0.0.1:0"}, -1)
	if _, err := s.Call(testContext(t), control.Request{Op: "remote", Flow: flow}, -1); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("remote before dial: %v", err)
	}
	call(control.Request{Op: "setopt", Flow: flow, Name: "tcp.nodelay", Value: 1}, -1)
	_, err = s.Call(testContext(t), control.Request{Op: "setopt", Flow: flow, Options: map[string]int{"a.none": 1, "ip.ttl": 7}}, -1)
	if ttl := call(control.Request{Op: "getopt", Flow: flow, Name: "ip.ttl"}, -1).Value; !errors.Is(err, syscall.ENOPROTOOPT) || ttl != 7 {
		t.Errorf("several options: %v, TTL %d", err, ttl)
	}
	rep := call(control.Request{Op: "dial", Flow: flow, Address: peer}, -1)
	if rep.Flow != flow || rep.Local != bound.Local || rep.Remote != peer {
		t.Errorf("dial: %+v, bound to %s", rep, bound.Local)
	}
	if _, err := s.Call(testContext(t), control.Request{Op: "dial", Flow: flow, Address: peer}, -1); !errors.Is(err, syscall.EISCONN) {
		t.Errorf("second dial: %v", err)
	}
	ours, theirs := pair(t, unix.SOCK_STREAM)
	f := os.NewFile(uintptr(ours), "ours")
	defer f.Close()
	io.WriteString(f, "written before attach")
	call(control.Request{Op: "attach", Flow: flow}, theirs)
	again, theirs := pair(t, unix.SOCK_STREAM)
	defer unix.Close(again)
	if _, err := s.Call(testContext(t), control.Request{Op: "attach", Flow: flow}, theirs); !errors.Is(err, syscall.EALREADY) {
		t.Errorf("second attach: %v", err)
	}
	ended, why := rep.Ended()
	call(control.Request{Op: "shutdown", Flow: flow, How: "write"}, -1)
	if b, err := io.ReadAll(f); string(b) != "written before attach" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	<-ended
	if err := why(); err != nil {
		t.Errorf("ended: %v", err)
	}
	// A dial that fails ends its socket flow.
	flow = call(control.Request{Op: "socket", Network: "tcp4"}, -1).Flow
	if _, err := s.Call(testContext(t), control.Request{Op: "dial", Flow: flow, Address: "127.0.0.1:1"}, -1); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v", err)
	}
	// Listen on a bound socket, accept without data, close.
	flow = call(control.Request{Op: "socket", Network: "tcp4"}, -1).Flow
	local := call(control.Request{Op: "bind", Flow: flow, Local: "127.0.0.1:0"}, -1).Local
	call(control.Request{Op: "listen", Flow: flow}, -1)
	k, err := net.Dial("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	in := call(control.Request{Op: "accept", Flow: flow}, -1)
	if in.Remote != k.LocalAddr().String() || in.Local != local {
		t.Errorf("accept: %+v", in)
	}
	call(control.Request{Op: "abort", Flow: in.Flow}, -1)
	if _, err := k.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer read %v", err)
	}
}

// A held flow gives its client time to make the reset visible on a plain unix socket.
func TestHold(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	reset := make(chan struct{})
	peer := kernelPeer(t, "tcp", func(c *net.TCPConn) {
		<-reset
		c.SetLinger(0)
	})
	s, err := c.OpenSession(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ours, theirs := pair(t, unix.SOCK_STREAM)
	f := os.NewFile(uintptr(ours), "ours")
	defer f.Close()
	rep, err := s.Call(testContext(t), control.Request{Op: "dial", Network: "tcp", Address: peer, Hold: true}, theirs)
	if err != nil {
		t.Fatal(err)
	}
	ended, why := rep.Ended()
	close(reset)
	<-ended
	if !errors.Is(why(), syscall.ECONNRESET) {
		t.Fatalf("ended: %v", why())
	}
	if _, err := f.Write([]byte("x")); err != nil {
		t.Fatalf("the descriptor was not held: %v", err)
	}
	s.Post(control.Request{Op: "close", Flow: rep.Flow})
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
}

func TestFlowLimit(t *testing.T) {
	_, c := startServerConfig(t, control.ServerConfig{Backend: &controltest.Backend{}, MaxFlows: 2})
	s, err := c.OpenSession(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 3 {
		_, err := s.Call(testContext(t), control.Request{Op: "socket", Network: "tcp4"}, -1)
		if i < 2 && err != nil || i == 2 && !errors.Is(err, syscall.EMFILE) {
			t.Errorf("socket %d: %v", i, err)
		}
	}
	s.Post(control.Request{Op: "close", Flow: 1})
	if _, err := s.Call(testContext(t), control.Request{Op: "socket", Network: "tcp4"}, -1); err != nil {
		t.Errorf("socket after close: %v", err)
	}
}

// A client that reads no replies loses its connection and nothing else.
func TestUnreadReplies(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	r := newRawSession(t, c)
	block := strings.Repeat(`{"id":1,"op":"`+strings.Repeat("x", 60)+`"}`+"\n", 500)
	var err error
	for err == nil {
		_, err = io.WriteString(r.conn, block)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v", err)
	}
	if _, err := c.Status(context.Background()); err != nil {
		t.Error(err)
	}
}
