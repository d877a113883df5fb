package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// The tap goes down and up again in the middle of a transfer, which then ends well.
func TestTapDownAndUp(t *testing.T) {
	for _, drv := range drivers() {
		t.Run(drv.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, natUplink)
			d := up(t, l.host, static(drv.spec, "--uplink", "eth0")...)
			const half = 1 << 20
			halfSent, goOn := make(chan struct{}), make(chan struct{})
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(2*half))
				io.WriteString(w, strings.Repeat("a", half))
				w.(http.Flusher).Flush()
				close(halfSent)
				<-goOn
				io.WriteString(w, strings.Repeat("b", half))
			})}
			ln := listenIn(t, l.internet, "tcp4", other4+":80")
			done := make(chan struct{})
			go func() { defer close(done); srv.Serve(ln) }()
			defer func() { srv.Close(); <-done }()

			var r result
			ended := make(chan struct{})
			go func() { defer close(ended); r = d.run(t, "curl", "-sS", "http://"+other4+"/") }()
			<-halfSent
			l.host.Down(t, "tap0")
			close(goOn)
			if p := d.run(t, "ping", "-c", "2", "-i", "0.2", "-W", "0.5", host4); p.code != 1 {
				t.Errorf("ping over a tap that is down: %v", p)
			}
			l.host.Up(t, "tap0")
			<-ended
			if r.code != 0 || r.stdout != strings.Repeat("a", half)+strings.Repeat("b", half) {
				t.Errorf("transfer over a tap that was down: %v", r)
			}
			var drops uint64
			for _, link := range show[[]control.Link](t, d, "link") {
				for _, n := range link.Drops {
					drops += n
				}
			}
			if drops == 0 {
				t.Error("frames for a tap that is down were not counted as dropped")
			}
			if out := d.ok(t, "curl", "-sS", "-4", web); out != pageText {
				t.Errorf("afterwards: %q", out)
			}
			d.terminate(t)
		})
	}
}

// A peer that ends a transfer early is an error, never a short success.
func TestPeerEndsEarly(t *testing.T) {
	for _, drv := range drivers() {
		t.Run(drv.name, func(t *testing.T) {
			t.Parallel()
			host := netlab.New(t, "host")
			d := up(t, host, static(drv.spec)...)
			peerEndsEarly(t, host, d)
			d.terminate(t)
		})
	}
}

func peerEndsEarly(t *testing.T, host *netlab.NS, d *daemon) {
	for _, c := range []struct {
		name, head string
		reset      bool
		codes      []int
	}{
		{"reset within a known length", "Content-Length: 10000000\r\n", true, []int{56, 18}},
		{"reset without a length", "Connection: close\r\n", true, []int{56}},
		{"reset within a chunk", "Transfer-Encoding: chunked\r\n", true, []int{56, 18}},
		{"end within a known length", "Content-Length: 10000000\r\n", false, []int{18}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ln := listenIn(t, host, "tcp4", host4+":0")
			served := make(chan error, 1)
			go func() { served <- serveHalf(ln, c.head, c.reset) }()
			got := filepath.Join(scratch(t), "got")
			r := d.run(t, "curl", "-sS", "-o", got, "http://"+ln.Addr().String()+"/")
			if !slices.Contains(c.codes, r.code) {
				t.Errorf("want exit code %v: %v", c.codes, r)
			}
			if r.stderr == "" {
				t.Error("no message")
			}
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

// serveHalf answers one request with the beginning of a body.
func serveHalf(ln net.Listener, head string, reset bool) error {
	c, err := ln.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
		return err
	}
	body := "ffffff\r\n" + strings.Repeat("x", 100_000)
	if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head+"\r\n"+body); err != nil {
		return err
	}
	if reset {
		return c.(*net.TCPConn).SetLinger(0)
	}
	return nil
}

// After SIGKILL the next daemon takes over the socket file and what was changed on
// the host, and its end leaves the host as it was before the first.
func TestKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t, natUplink)
	before := hostState(t, l.host)
	sock := filepath.Join(scratch(t), "ustack.sock")
	args := static("tap:tap0", "--uplink", "eth0")
	d := upAt(t, l.host, sock, args...)
	d.ok(t, "curl", "-sS", web)
	d.Kill(t)
	if _, err := os.Lstat(sock); err != nil {
		t.Fatalf("there should be a dead socket to take over: %v", err)
	}
	if r := d.run(t, "curl", "-sS", web); r.code == 0 || !strings.Contains(r.stderr, "ustack up") {
		t.Errorf("without a daemon: want what to do: %v", r)
	}
	d = upAt(t, l.host, sock, args...)
	if out := d.ok(t, "curl", "-sS", web); out != pageText {
		t.Errorf("after the restart: %q", out)
	}
	d.terminate(t)
	if after := hostState(t, l.host); after != before {
		t.Errorf("the host was\n%s\nand is\n%s", before, after)
	}
}

// The end comes within 5 s even with connections open, and they end with it.
func TestTerminateUnderTraffic(t *testing.T) {
	t.Parallel()
	l := newLab(t, natUplink)
	before := hostState(t, l.host)
	d := up(t, l.host, static("tap:tap0", "--uplink", "eth0")...)
	ln := listenIn(t, l.internet, "tcp4", other4+":80")
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := ln.Accept(); err == nil {
			accepted <- c
		}
	}()
	client := d.apps.Start(t, filepath.Join(bin, "curl"), "--socket", d.sock, "-sS", "http://"+other4+"/")
	c := <-accepted
	defer c.Close()
	d.terminate(t)
	if code := client.Wait(t, 5*time.Second); code == 0 {
		t.Errorf("curl ended well without an answer")
	}
	if after := hostState(t, l.host); after != before {
		t.Errorf("the host was\n%s\nand is\n%s", before, after)
	}
}

// What cannot be reached fails with the right code and in time.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	l := newLab(t, natRouter)
	for _, c := range []struct {
		name string
		args []string
		curl []string
		code int
	}{
		{"gateway that does not answer", []string{"--addr", "10.0.0.4/24", "--host-addr", "10.0.0.5/24", "--gateway", "10.0.0.77", "--dns", dns4}, []string{"http://" + webIP4 + "/"}, 7},
		{"dead DNS server", []string{"--addr", "10.0.0.4/24", "--host-addr", "10.0.0.5/24", "--dns", "10.0.0.5"}, []string{"http://" + web + "/"}, 6},
		{"silent DNS server", []string{"--addr", "10.0.0.4/24", "--host-addr", "10.0.0.5/24", "--dns", "10.0.0.77"}, []string{"--max-time", "60", "http://" + web + "/"}, 6},
		{"no route", []string{"--addr", "10.0.0.4/24", "--gateway", "10.0.0.5", "--dns", "10.0.0.5"}, []string{"-6", "http://[2001:db8::80]/"}, 7},
		{"connect timeout", []string{"--addr", "10.0.0.4/24", "--host-addr", "10.0.0.5/24", "--dns", dns4}, []string{"--connect-timeout", "1", "http://203.0.113.200/"}, 28},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := up(t, l.host, append([]string{"--link", "tap:tap0"}, c.args...)...)
			r := d.run(t, "curl", append([]string{"-sS"}, c.curl...)...)
			if r.code != c.code {
				t.Errorf("want exit code %d: %v", c.code, r)
			}
			match(t, "message", r.stderr, `^curl: \(`+fmt.Sprint(c.code)+`\) .`)
			d.terminate(t)
		})
	}
}
