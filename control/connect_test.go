package control_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

// dialUnix connects to the control socket.
func dialUnix(t *testing.T, c *control.Client) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.Path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

// readHead reads the head of an answer.
func readHead(t *testing.T, br *bufio.Reader) string {
	t.Helper()
	var head strings.Builder
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		b, err := br.ReadByte()
		if err != nil {
			t.Fatalf("after %q: %v", head.String(), err)
		}
		head.WriteByte(b)
	}
	return head.String()
}

// What is sent behind the request, and a half-close before the answer, reach the peer.
func TestConnectEarlyHalfClose(t *testing.T) {
	dialling, answer := make(chan struct{}), make(chan struct{})
	_, c := startServer(t, &controltest.Backend{BeforeDial: func(ctx context.Context, _, _ string) error {
		close(dialling)
		select {
		case <-answer:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
	peer := kernelPeer(t, "tcp", func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		c.Write(bytes.ToUpper(b))
	})
	conn := dialUnix(t, c)
	io.WriteString(conn, "CONNECT "+peer+" HTTP/1.1\r\nHost: "+peer+"\r\n\r\nbuffered, ")
	<-dialling
	big := strings.Repeat("x", 100000)
	io.WriteString(conn, "late and "+big)
	conn.CloseWrite()
	time.AfterFunc(50*time.Millisecond, func() { close(answer) }) // time to cancel wrongly
	br := bufio.NewReader(conn)
	if head := readHead(t, br); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
		t.Fatal(head)
	}
	if b, err := io.ReadAll(br); string(b) != "BUFFERED, LATE AND "+strings.ToUpper(big) || err != nil {
		t.Fatalf("%.60q (%d bytes), %v", b, len(b), err)
	}
}

// A client that closes, in contrast, cancels.
func TestConnectCloseCancels(t *testing.T) {
	dialling, cancelled := make(chan struct{}), make(chan struct{})
	_, c := startServer(t, &controltest.Backend{BeforeDial: func(ctx context.Context, _, _ string) error {
		close(dialling)
		<-ctx.Done()
		close(cancelled)
		return ctx.Err()
	}})
	conn := dialUnix(t, c)
	io.WriteString(conn, "CONNECT 192.0.2.1:1 HTTP/1.1\r\nHost: x\r\n\r\n")
	<-dialling
	conn.Close()
	select {
	case <-cancelled:
	case <-time.After(time.Second):
		t.Fatal("the dial goes on")
	}
}

func TestConnectHalfCloseByPeer(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	got := make(chan string, 1)
	peer := kernelPeer(t, "tcp", func(c *net.TCPConn) {
		io.WriteString(c, "bye")
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		got <- string(b)
	})
	conn := dialUnix(t, c)
	io.WriteString(conn, "CONNECT "+peer+" HTTP/1.1\r\nHost: x\r\n\r\n")
	br := bufio.NewReader(conn)
	readHead(t, br)
	if b, err := io.ReadAll(br); string(b) != "bye" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	io.WriteString(conn, "still here")
	conn.Close()
	if s := <-got; s != "still here" {
		t.Fatalf("the peer got %q", s)
	}
}

func TestConnectReset(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	peer := kernelPeer(t, "tcp", func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1000))
		c.SetLinger(0)
	})
	conn := dialUnix(t, c)
	io.WriteString(conn, "CONNECT "+peer+" HTTP/1.1\r\nHost: x\r\n\r\n")
	br := bufio.NewReader(conn)
	readHead(t, br)
	var err error
	for err == nil {
		_, err = conn.Write(make([]byte, 64<<10))
	}
	if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("write: %v", err)
	}
	if _, err := io.Copy(io.Discard, br); !errors.Is(err, syscall.ECONNRESET) && err != nil {
		t.Errorf("read: %v", err)
	}
}

func TestConnectErrors(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	for target, want := range map[string]string{
		"127.0.0.1:1":     "502 ECONNREFUSED",
		"nosuch.test:80":  "404 ",
		"timeout.test:80": "504 ",
		"127.0.0.1":       "400 EINVAL",
	} {
		conn := dialUnix(t, c)
		io.WriteString(conn, "CONNECT "+target+" HTTP/1.1\r\nHost: x\r\n\r\n")
		b, err := io.ReadAll(conn)
		status, errno, _ := strings.Cut(want, " ")
		if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 "+status) || errno != "" && !strings.Contains(string(b), `"errno":"`+errno+`"`) {
			t.Errorf("CONNECT %s: %s, %v; want %s", target, b, err, want)
		}
	}
}

func TestHTTP(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{Hosts: map[string][]netip.Addr{"one.test": {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}})
	conn := dialUnix(t, c) // all requests on one connection
	br := bufio.NewReader(conn)
	for _, tc := range []struct {
		method, target, body string
		status               int
		want                 string
	}{
		{"GET", "/v1/status", "", 200, `"version":"test"`},
		{"GET", "/v1/addrs", "", 200, `[]`},
		{"POST", "/v1/addrs", `{"prefix":"10.0.0.4/24"}`, 204, ""},
		{"POST", "/v1/addrs", `{"prefix":"10.0.0.4/24"}`, 409, `"errno":"EEXIST"`},
		{"POST", "/v1/addrs", `{"prefix":"10.0.0.4"}`, 400, `"errno":"EINVAL"`},
		{"POST", "/v1/addrs", `{"prefxi":"10.0.0.5/24"}`, 400, `prefxi`},
		{"POST", "/v1/addrs", `{}`, 400, `prefix`},
		{"POST", "/v1/addrs", `{"prefix":"10.0.0.5/24"} {}`, 400, `more than one`},
		{"DELETE", "/v1/addrs", `{"prefix":"10.0.0.9/24"}`, 409, `"errno":"EADDRNOTAVAIL"`},
		{"DELETE", "/v1/addrs", `{"prefix":"10.0.0.4/24"}`, 204, ""},
		{"POST", "/v1/routes", `{"dst":"0.0.0.0/0","gateway":"10.0.0.5"}`, 204, ""},
		{"GET", "/v1/routes", "", 200, `"gateway":"10.0.0.5"`},
		{"DELETE", "/v1/routes", `{"dst":"10.0.0.0/8"}`, 404, `"errno":"ESRCH"`},
		{"POST", "/v1/neighbours", `{"ip":"10.0.0.5","hardware_addr":"02:00:00:00:00:01"}`, 204, ""},
		{"DELETE", "/v1/neighbours", `{"ip":"10.0.0.5"}`, 204, ""},
		{"DELETE", "/v1/neighbours", `{}`, 400, `ip`},
		{"GET", "/v1/resolve?name=one.test&network=ip6", "", 200, `{"addrs":["2001:db8::1"]}`},
		{"GET", "/v1/resolve?name=one.test", "", 200, `192.0.2.1`},
		{"GET", "/v1/resolve?name=two.test", "", 404, `"not_found":true`},
		{"GET", "/v1/resolve", "", 400, `"errno":"EINVAL"`},
		{"GET", "/v1/links", "", 200, `"name":"lo"`},
		{"GET", "/v1/stats", "", 200, `ip.packets_received`},
		{"GET", "/v2/status", "", 404, `/v2/status`},
		{"POST", "/v1/status", `{}`, 405, `GET`},
	} {
		req, err := http.NewRequest(tc.method, "http://ustack"+tc.target, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Write(conn)
		res, err := http.ReadResponse(br, req)
		if err != nil {
			t.Fatalf("%s %s: %v", tc.method, tc.target, err)
		}
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != tc.status || !strings.Contains(string(b), tc.want) {
			t.Errorf("%s %s %s: %s %s, %v; want %d %s", tc.method, tc.target, tc.body, res.Status, b, err, tc.status, tc.want)
		}
		if len(b) > 0 && !json.Valid(b) {
			t.Errorf("%s %s: %q is not JSON", tc.method, tc.target, b)
		}
	}
}

func TestBadHTTP(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	for name, tc := range map[string][2]string{
		"garbage":        {"\x00\x01\x02\r\n\r\n", "400"},
		"long head":      {"GET /v1/status HTTP/1.1\r\nX: " + strings.Repeat("x", 70000) + "\r\n\r\n", "431"},
		"long body":      {"POST /v1/addrs HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + strings.Repeat(" ", 2000000), "413"},
		"no upgrade":     {"POST /v1/flows HTTP/1.1\r\nHost: x\r\n\r\n", "426"},
		"wrong upgrade":  {"POST /v1/flows HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", "426"},
		"GET for flows":  {"GET /v1/flows HTTP/1.1\r\nHost: x\r\nUpgrade: ustack-flow\r\n\r\n", "426"},
		"truncated head": {"GET /v1/sta", ""},
	} {
		conn := dialUnix(t, c)
		go func() { // what the server does not read fails
			io.WriteString(conn, tc[0])
			conn.CloseWrite()
		}()
		b, _ := io.ReadAll(conn)
		if tc[1] == "" && len(b) == 0 {
			continue
		}
		if !strings.HasPrefix(string(b), "HTTP/1.1 "+tc[1]+" ") && tc[1] != "" {
			t.Errorf("%s: %.200q, want %s", name, b, tc[1])
		}
	}
}
