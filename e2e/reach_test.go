package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// The round trip of the README: a name, a ping and a page, through either NAT, and
// over every driver.
func TestRoundTrip(t *testing.T) {
	type variant struct {
		name, spec string
		at         natAt
		args       []string
	}
	variants := []variant{
		{"router masquerades", "tap:tap0", natRouter, nil},
		{"uplink", "tap:tap0", natUplink, []string{"--uplink", "eth0"}},
	}
	for _, drv := range drivers() {
		variants = append(variants, variant{drv.name + ", uplink auto", drv.spec, natUplink, []string{"--uplink", "auto"}})
	}
	for _, nat := range variants {
		t.Run(nat.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, nat.at)
			before := hostState(t, l.host)
			d := up(t, l.host, static(nat.spec, nat.args...)...)
			for _, c := range [][]string{
				{"curl", web},
				{"curl", web, "80"},
				{"curl", "-sS", "http://" + web + "/"},
				{"curl", "-4", web},
				{"curl", "-6", web},
				{"curl", "http://[" + webIP6 + "]/"},
				{"curl", "-k", "https://" + web + "/"},
				{"curl", "-k", "--http1.1", "https://" + web + "/"},
				{"ustack", "curl", web},
			} {
				if out := d.ok(t, c[0], c[1:]...); out != pageText {
					t.Errorf("%v printed %q", c, out)
				}
			}
			for _, c := range [][]string{
				{"ping", "-c", "3", "-i", "0.1", web},
				{"ping", "-4", "-c", "3", "-i", "0.1", web},
				{"ping", "-6", "-c", "3", "-i", "0.1", web},
				{"ustack", "ping", "-c", "3", "-i", "0.1", webIP4},
			} {
				match(t, strings.Join(c, " "), d.ok(t, c[0], c[1:]...),
					`3 packets transmitted, 3 received, 0% packet loss.*^rtt min/avg/max/mdev = `)
			}
			if r := d.run(t, "curl", "-sS", "https://"+web+"/"); r.code != 60 {
				t.Errorf("a self-signed certificate: %v", r)
			}
			if r := d.run(t, "curl", "-sS", "http://nosuch.example/"); r.code != 6 {
				t.Errorf("a name that does not exist: %v", r)
			}
			if r := d.run(t, "curl", "-sS", "http://"+web+":81/"); r.code != 7 {
				t.Errorf("a closed port: %v", r)
			}
			d.terminate(t)
			if after := hostState(t, l.host); after != before {
				t.Errorf("the host was\n%s\nand is\n%s", before, after)
			}
		})
	}
}

// What the kernel sees of the stack: echo in every size, ARP, a closed port.
func TestKernelReachesStack(t *testing.T) {
	for _, drv := range drivers() {
		t.Run(drv.name, func(t *testing.T) {
			t.Parallel()
			host := netlab.New(t, "host")
			netlab.Peer(t, "ping")
			d := up(t, host, static(drv.spec)...)
			for _, addr := range []string{stack4, stack6} {
				for _, size := range []string{"56", "0", "1472", "4000", "60000"} {
					kernelPing(t, host, addr, "-s", size)
				}
			}
			out := host.Run(t, "arping", "-c", "3", "-w", "10", "-I", "tap0", stack4)
			mac := show[[]control.Link](t, d, "link")
			match(t, "arping", strings.ToLower(out), `reply from `+stack4+` \[`+stackMAC(t, mac)+`\]`)
			r := runIn(t, host, nil, netlab.Peer(t, "curl"), "-sS", "--max-time", "10", "http://"+stack4+"/")
			if r.code != 7 { // refused, not timed out
				t.Errorf("curl to a closed port: %v", r)
			}
			d.terminate(t)
		})
	}
}

// stackMAC picks the hardware address of the tap's side in the stack.
func stackMAC(t testing.TB, links []control.Link) string {
	t.Helper()
	for _, l := range links {
		if l.Kind == "tap" {
			return l.HardwareAddr
		}
	}
	t.Fatalf("no tap among %+v", links)
	return ""
}

// A server on the stack, written in Go against control, and a kernel client.
func TestKernelCurlFromStackServer(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	curl := netlab.Peer(t, "curl")
	d := up(t, host, static("tap:tap0")...)
	client := d.client(t)
	for _, listen := range []struct{ network, address, url string }{
		{"tcp", ":80", "http://" + stack4 + "/"},
		{"tcp4", stack4 + ":8080", "http://" + stack4 + ":8080/"},
		{"tcp6", "[" + stack6 + "]:8080", "http://[" + stack6 + "]:8080/"},
	} {
		l, err := client.Listen(context.Background(), listen.network, listen.address)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, "served from the stack to", netip.MustParseAddrPort(r.RemoteAddr).Addr().Unmap())
		})}
		done := make(chan struct{})
		go func() { defer close(done); srv.Serve(l) }()
		for range 5 {
			r := runIn(t, host, nil, curl, "-sS", "--max-time", "10", listen.url)
			if r.code != 0 || !strings.HasPrefix(r.stdout, "served from the stack to ") {
				t.Errorf("curl %s: %v", listen.url, r)
			}
		}
		srv.Close()
		<-done
		// The port is free again at once.
		if l, err = client.Listen(context.Background(), listen.network, listen.address); err != nil {
			t.Errorf("listen on %s again: %v", listen.address, err)
		} else {
			l.Close()
		}
	}
	d.terminate(t)
}

// netcat on the stack against the kernel's, in both directions.
func TestNetcat(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	nc := netlab.Peer(t, "nc.openbsd")
	d := up(t, host, static("tap:tap0")...)

	p := d.apps.Start(t, "sh", "-c", fmt.Sprintf("echo from the stack | exec %s/ustack --socket %s nc -l 7000", bin, d.sock))
	netlab.WaitFor(t, 10*time.Second, "nc -l to listen", func() bool {
		for _, s := range show[[]control.SocketInfo](t, d, "ss") {
			if s.State == "LISTEN" && strings.HasSuffix(s.Local, ":7000") {
				return true
			}
		}
		return false
	})
	r := runIn(t, host, nil, "sh", "-c", "echo from the kernel | "+nc+" -N -w 10 "+stack4+" 7000")
	if r.code != 0 || r.stdout != "from the stack\n" {
		t.Errorf("kernel nc: %v", r)
	}
	if code := p.Wait(t, 10*time.Second); code != 0 || p.Output() != "from the kernel\n" {
		t.Errorf("ustack nc -l: exit code %d, output %q", code, p.Output())
	}

	k := host.Start(t, "sh", "-c", "echo from the kernel | exec "+nc+" -N -l "+host4+" 7001")
	netlab.WaitFor(t, 10*time.Second, "kernel nc to listen", func() bool {
		return strings.Contains(host.Run(t, "ss", "-ltn"), ":7001")
	})
	r = runIn(t, d.apps, nil, "sh", "-c", fmt.Sprintf("echo from the stack | %s/ustack --socket %s nc %s 7001", bin, d.sock, host4))
	if r.code != 0 || r.stdout != "from the kernel\n" {
		t.Errorf("ustack nc: %v", r)
	}
	if code := k.Wait(t, 10*time.Second); code != 0 || k.Output() != "from the stack\n" {
		t.Errorf("kernel nc -l: exit code %d, output %q", code, k.Output())
	}
	d.terminate(t)
}

// ICMP errors as ping shows them.
func TestPingErrors(t *testing.T) {
	t.Parallel()
	l := newLab(t, natRouter)
	d := up(t, l.host, static("tap:tap0")...)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-c", "1", "-W", "5", "10.0.0.77"}, 1, `Destination Host Unreachable`},
		{[]string{"-c", "1", "-W", "5", "fd00:a::77"}, 1, `Address unreachable`},
		{[]string{"-c", "1", "-W", "5", "-t", "1", webIP4}, 1, `From ` + host4 + `.* Time to live exceeded`},
		{[]string{"-c", "1", "-W", "5", "-t", "2", webIP4}, 1, `From ` + router4 + `.* Time to live exceeded`},
		{[]string{"-c", "1", "-W", "5", "-t", "1", webIP6}, 1, `Time exceeded: Hop limit`},
		{[]string{"-q", "-c", "2", "-i", "0.1", webIP4}, 0, ` 2 received, 0% packet loss`},
		{[]string{"-c", "2", "-i", "0.1", "-s", "4000", webIP4}, 0, `4008 bytes from.* 2 received`},
		{[]string{"-c", "1", "nosuch.example"}, 2, ``},
		{[]string{"-s", "70000", webIP4}, 2, ``},
		{[]string{}, 2, ``},
	} {
		r := d.run(t, "ping", c.args...)
		if r.code != c.code {
			t.Errorf("ping %v: want exit code %d: %v", c.args, c.code, r)
		}
		match(t, "ping "+strings.Join(c.args, " "), r.stdout, c.want)
	}
}
