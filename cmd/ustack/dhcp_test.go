package main

import (
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"

	"github.com/ustack/ustack/internal/netlab"
)

// serveDHCP answers every client on tap0 with the same address.
func serveDHCP(t *testing.T, ns *netlab.NS) {
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
		reply, err := dhcpv4.NewReplyFromRequest(m,
			dhcpv4.WithMessageType(kind), dhcpv4.WithServerIP(server), dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 77)),
			dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(server), dhcpv4.WithDNS(server),
			dhcpv4.WithLeaseTime(3600), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)))
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
	serveDHCP(t, ns)
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
