package main

import (
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"

	"github.com/ustack/ustack/internal/netlab"
)

// serveDHCP answers every client on tap0 with the same address. more is asked for each
// reply.
func serveDHCP(t *testing.T, ns *netlab.NS, more func() []dhcpv4.Modifier) {
	t.Helper()
	server := net.IPv4(192, 0, 2, 1)
	handler := func(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
		kind := dhcpv4.MessageTypeOffer
		switch m.MessageType() {
		case dhcpv4.MessageTypeDiscover:
		case dhcpv4.MessageTypeRequest:
			kind = dhcpv4.MessageTypeAck
		default:
			return
		}
		reply, err := dhcpv4.NewReplyFromRequest(m, append([]dhcpv4.Modifier{
			dhcpv4.WithMessageType(kind), dhcpv4.WithServerIP(server), dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 77)),
			dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(server), dhcpv4.WithDNS(server),
			dhcpv4.WithLeaseTime(3600), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)),
		}, more()...)...)
		if err != nil {
			t.Errorf("make a reply: %v", err)
			return
		}
		if _, err := conn.WriteTo(reply.ToBytes(), peer); err != nil {
			t.Errorf("reply: %v", err)
		}
	}
	var s *server4.Server
	ns.Do(t, func() {
		var err error
		if s, err = server4.NewServer("tap0", &net.UDPAddr{IP: net.IPv4zero, Port: 67}, handler); err != nil {
			t.Fatal(err)
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve() // until Close
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
}

func TestUpWithDHCP(t *testing.T) {
	t.Parallel()
	ns := netlab.New(t, "host")
	ns.Tap(t, "tap0", -1)
	ns.Addr(t, "tap0", "192.0.2.1/24")
	ns.Up(t, "tap0")
	serveDHCP(t, ns, func() []dhcpv4.Modifier { return nil })
	socket := filepath.Join(socketDir(t), "u.sock")
	p, ready := startUp(t, ns, "--socket", socket, "--dhcp")
	if !strings.Contains(ready, "ready on tap0: 192.0.2.77/24, ") {
		t.Errorf("ready line %q", ready)
	}
	stdout, _, _ := output(t, ns, "status", "--socket", socket)
	for _, want := range []string{"192.0.2.77/24, dhcp, assigned, valid ", "default via 192.0.2.1 dev tap0 proto dhcp", "192.0.2.1:53"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	p.Signal(t, syscall.SIGTERM)
	if code := p.Wait(t, 5*time.Second); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.Output())
	}
	if !ns.HasLink("tap0") {
		t.Error("the persistent tap is gone")
	}
}

// A warning about a DNS server goes with the server.
func TestWarningEndsWithTheServer(t *testing.T) {
	t.Parallel()
	ns := netlab.New(t, "host")
	ns.Tap(t, "tap0", -1)
	ns.Addr(t, "tap0", "192.0.2.1/24")
	ns.Up(t, "tap0")
	var other atomic.Bool
	serveDHCP(t, ns, func() []dhcpv4.Modifier {
		m := []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(time.Second))}
		if other.Load() {
			m = append(m, dhcpv4.WithDNS(net.IPv4(192, 0, 2, 2)))
		}
		return m
	})
	socket := filepath.Join(socketDir(t), "u.sock")
	p, _ := startUp(t, ns, "--socket", socket, "--dhcp")
	const text = "DNS server 192.0.2.1:53 does not answer"
	warned := func() bool {
		stdout, _, _ := output(t, ns, "status", "--socket", socket)
		return strings.Contains(stdout, text)
	}
	netlab.WaitFor(t, 20*time.Second, "the warning: nobody serves names here", warned)
	other.Store(true)
	netlab.WaitFor(t, 20*time.Second, "the warning to go", func() bool { return !warned() })
	if stdout, _, _ := output(t, ns, "status", "--socket", socket); !strings.Contains(stdout, "192.0.2.2:53") {
		t.Errorf("not the other server:\n%s", stdout)
	}
	if !strings.Contains(p.Output(), text) {
		t.Error("the log does not tell")
	}
}

// While a daemon waits for a lease or a router it answers: what it waits for, and that
// nothing can be reached yet.
func TestUpAnswersWhileItWaits(t *testing.T) {
	for flag, want := range map[string]string{"--dhcp": "a lease by DHCP", "--slaac": "a router's prefix", "--dhcp --slaac": "a lease by DHCP and a router's prefix"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			ns := netlab.New(t, "host")
			socket := filepath.Join(socketDir(t), "u.sock")
			p := ns.StartCmd(t, ustack(append([]string{"up", "--socket", socket, "--state-dir", t.TempDir()}, strings.Fields(flag)...)...))
			netlab.WaitFor(t, 5*time.Second, "the tap", func() bool { return ns.HasLink("tap0") })
			want := "not ready yet: waiting for " + want + ", at most 30s"
			stdout, stderr, code := output(t, ns, "status", "--socket", socket)
			if code != 0 || !strings.Contains(stdout, want) || strings.Contains(stdout, noAddress) {
				t.Errorf("status: code %d, no %q in\n%s%s", code, want, stdout, stderr)
			}
			if _, stderr, code := output(t, ns, "ping", "--socket", socket, "-c", "1", "192.0.2.1"); code == 0 || !strings.Contains(stderr, "nreachable") {
				t.Errorf("ping: code %d, %s", code, stderr)
			}
			p.Signal(t, syscall.SIGTERM)
			if code := p.Wait(t, 5*time.Second); code != 0 || strings.Contains(p.Output(), "ready on") {
				t.Errorf("exit code %d:\n%s", code, p.Output())
			}
		})
	}
}

// A daemon that waits for a lease or a router ends when it is told to, and says
// nothing on standard output.
func TestUpEndsWhileItWaits(t *testing.T) {
	for _, flag := range []string{"--dhcp", "--slaac"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			ns := netlab.New(t, "host")
			socket := filepath.Join(socketDir(t), "u.sock")
			p := ns.StartCmd(t, ustack("up", "--socket", socket, "--state-dir", t.TempDir(), flag))
			netlab.WaitFor(t, 5*time.Second, "the tap", func() bool { return ns.HasLink("tap0") })
			p.Signal(t, syscall.SIGTERM)
			if code := p.Wait(t, 5*time.Second); code != 0 || strings.Contains(p.Output(), "ready") {
				t.Errorf("exit code %d:\n%s", code, p.Output())
			}
			if ns.HasLink("tap0") {
				t.Error("tap0 is left")
			}
		})
	}
}
