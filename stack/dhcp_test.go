package stack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/rfc1035label"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"

	"github.com/ustack/ustack/link"
)

// quick are timings for tests; the lease's own times are whole seconds on the wire.
var quick = dhcpTiming{
	first: 50 * time.Millisecond, most: 200 * time.Millisecond,
	restart: 20 * time.Millisecond, mostRestart: 100 * time.Millisecond,
	probes: 2, gap: 20 * time.Millisecond,
}

// A dhcpServer is a second stack that answers as RFC 2131 section 4.3 says, as
// far as the tests need it.
type dhcpServer struct {
	t    *testing.T
	s    *Stack
	conn net.PacketConn
	done chan struct{}
	seen chan seenDHCP // every message

	mu     sync.Mutex
	offer  []string                   // addresses in the order in which they are offered; the last one stays
	opts   []dhcpv4.Option            // beside the server's identifier
	answer func(*seenDHCP) bool       // nil answers all
	nak    bool                       // refuse every DHCPREQUEST
	mangle func(reply *dhcpv4.DHCPv4) // a last change
}

type seenDHCP struct {
	*dhcpv4.DHCPv4
	from netip.AddrPort
	at   time.Time
}

var serverIP = netip.MustParseAddr("10.9.0.1")

// newDHCP returns a server on 10.9.0.1/24 and a stack without an address.
func newDHCP(t *testing.T, change ...func(*Config)) (*dhcpServer, *Stack) {
	wireA, wireB := link.Pipe(link.PipeConfig{Names: [2]string{"tap0", "tap1"}})
	d := &dhcpServer{
		t:     t,
		s:     newStack(t, Config{Device: wireB, Addrs: prefixes("10.9.0.1/24")}),
		done:  make(chan struct{}),
		seen:  make(chan seenDHCP, 1000),
		offer: []string{"10.9.0.50"},
		opts:  leaseOptions(time.Hour, 0, 0),
	}
	var err error
	if d.conn, err = d.s.ListenPacket("udp4", ":67"); err != nil {
		t.Fatal(err)
	}
	go d.serve()
	t.Cleanup(func() { d.conn.Close(); <-d.done })
	cfg := Config{Device: wireA}
	for _, f := range change {
		f(&cfg)
	}
	return d, newStack(t, cfg)
}

func leaseOptions(lease, t1, t2 time.Duration, more ...dhcpv4.Option) []dhcpv4.Option {
	opts := []dhcpv4.Option{
		dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)),
		dhcpv4.OptRouter(net.IPv4(10, 9, 0, 1)),
		dhcpv4.OptIPAddressLeaseTime(lease),
	}
	if t1 > 0 {
		opts = append(opts, dhcpv4.OptRenewTimeValue(t1), dhcpv4.OptRebindingTimeValue(t2))
	}
	return append(opts, more...)
}

func (d *dhcpServer) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *dhcpServer) serve() {
	defer close(d.done)
	buf := make([]byte, 2000)
	for {
		n, from, err := d.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			d.t.Errorf("message from the client: %v", err)
			continue
		}
		s := seenDHCP{m, from.(*net.UDPAddr).AddrPort(), time.Now()}
		d.seen <- s
		if reply := d.reply(&s); reply != nil {
			d.send(reply)
		}
	}
}

func (d *dhcpServer) reply(m *seenDHCP) *dhcpv4.DHCPv4 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.answer != nil && !d.answer(m) {
		return nil
	}
	r, err := dhcpv4.NewReplyFromRequest(m.DHCPv4, dhcpv4.WithOption(dhcpv4.OptServerIdentifier(serverIP.AsSlice())))
	if err != nil {
		d.t.Error(err)
		return nil
	}
	for _, o := range d.opts {
		r.UpdateOption(o)
	}
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		r.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeOffer))
		r.YourIPAddr = net.ParseIP(d.offer[0])
	case dhcpv4.MessageTypeRequest:
		r.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeAck))
		if r.YourIPAddr = m.RequestedIPAddress(); r.YourIPAddr == nil {
			r.YourIPAddr = m.ClientIPAddr
		}
		if d.nak {
			r.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeNak))
			r.UpdateOption(dhcpv4.OptMessage("not today"))
			r.YourIPAddr = nil
		}
	case dhcpv4.MessageTypeDecline:
		if len(d.offer) > 1 {
			d.offer = d.offer[1:]
		}
		return nil
	default:
		return nil
	}
	if d.mangle != nil {
		d.mangle(r)
	}
	return r
}

// send broadcasts, as servers do for a client that has asked for it or has no
// address (RFC 2131 section 4.1).
func (d *dhcpServer) send(m *dhcpv4.DHCPv4) {
	payload := m.ToBytes()
	b := make([]byte, 28+len(payload))
	from, to := toAddress(serverIP), header.IPv4Broadcast
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: 17, SrcAddr: from, DstAddr: to})
	ip.SetChecksum(^ip.CalculateChecksum())
	udp := header.UDP(b[20:])
	udp.Encode(&header.UDPFields{SrcPort: 67, DstPort: 68, Length: uint16(len(udp))})
	copy(udp.Payload(), payload)
	sum := header.PseudoHeaderChecksum(17, from, to, uint16(len(udp)))
	udp.SetChecksum(^udp.CalculateChecksum(checksum.Checksum(payload, sum)))
	d.s.ns.WritePacketToRemote(nicID, header.EthernetBroadcastAddress, ipv4.ProtocolNumber, buffer.MakeWithData(b))
}

// next returns the next message of a kind.
func (d *dhcpServer) next(kind dhcpv4.MessageType) seenDHCP {
	d.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case m := <-d.seen:
			if m.MessageType() == kind {
				return m
			}
		case <-timeout:
			d.t.Fatalf("no %v came", kind)
		}
	}
}

// start returns a client with its first lease, and what OnLease is told.
func startDHCP(t *testing.T, s *Stack) (*DHCPClient, chan Lease) {
	t.Helper()
	leases := make(chan Lease, 100)
	c, err := s.DHCP(testContext(t), DHCPConfig{Hostname: "box", OnLease: func(l Lease) { leases <- l }, timing: &quick})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, leases
}

func nextLease(t *testing.T, leases chan Lease) Lease {
	t.Helper()
	select {
	case l := <-leases:
		return l
	case <-time.After(10 * time.Second):
		t.Fatal("no lease")
		panic("unreachable")
	}
}

func addrOf(s *Stack, ip string) (Addr, bool) {
	for _, a := range s.Addrs() {
		if a.Prefix.Addr() == netip.MustParseAddr(ip) {
			return a, true
		}
	}
	return Addr{}, false
}

func TestDHCPLease(t *testing.T) {
	d, s := newDHCP(t, func(c *Config) { c.Addrs = prefixes("fd00::9/64") })
	_, far, _ := net.ParseCIDR("192.0.2.0/24")
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	d.opts = leaseOptions(time.Hour, 0, 0,
		dhcpv4.OptDNS(net.IPv4(10, 9, 0, 53), net.IPv4(127, 0, 0, 1), net.IPv4(10, 9, 0, 54)),
		dhcpv4.OptDomainName("example.net"),
		dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: []string{"lab.example.org"}}),
		dhcpv4.OptClasslessStaticRoute(
			&dhcpv4.Route{Dest: far, Router: net.IPv4(10, 9, 0, 2)},
			&dhcpv4.Route{Dest: all, Router: net.IPv4(10, 9, 0, 3)},
		),
		dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x05, 0x78}),
	)
	c, leases := startDHCP(t, s)
	l := nextLease(t, leases)
	if held, ok := c.Lease(); !ok || held.Addr != l.Addr {
		t.Errorf("Lease: %+v, %v", held, ok)
	}
	a, ok := addrOf(s, "10.9.0.50")
	if !ok || a.Prefix.Bits() != 24 || a.Origin != OriginDHCP || a.State != AddrAssigned ||
		time.Until(a.ValidUntil).Round(time.Minute) != time.Hour {
		t.Errorf("address %+v", a)
	}
	if got := l.Renew.Sub(l.Obtained); got != 30*time.Minute {
		t.Errorf("T1 is %v", got)
	}
	if got := l.Rebind.Sub(l.Obtained); got != 52*time.Minute+30*time.Second {
		t.Errorf("T2 is %v", got)
	}
	want := []Route{
		{Dst: netip.MustParsePrefix("192.0.2.0/24"), Gateway: netip.MustParseAddr("10.9.0.2"), Link: "tap0", Origin: OriginDHCP},
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.9.0.3"), Link: "tap0", Origin: OriginDHCP},
		{Dst: netip.MustParsePrefix("10.9.0.0/24"), Link: "tap0", Origin: OriginConnected},
	}
	for _, r := range want {
		if !slices.Contains(s.Routes(), r) {
			t.Errorf("no route %+v in %+v", r, s.Routes())
		}
	}
	servers, search := s.DNS()
	if want := []netip.AddrPort{netip.MustParseAddrPort("10.9.0.53:53"), netip.MustParseAddrPort("10.9.0.54:53")}; !slices.Equal(servers, want) {
		t.Errorf("DNS %v, want %v", servers, want)
	}
	if want := []string{"lab.example.org", "example.net"}; !slices.Equal(search, want) {
		t.Errorf("search %v, want %v", search, want)
	}
	if s.ep.MTU() != 1400 {
		t.Errorf("MTU %d, want 1400", s.ep.MTU())
	}
	discover := d.next(dhcpv4.MessageTypeDiscover)
	if !discover.IsBroadcast() || discover.HostName() != "box" {
		t.Errorf("discover: %s", discover.Summary())
	}
	if _, err := s.DHCP(testContext(t), DHCPConfig{}); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("a second client: %v", err)
	}
	// The address works.
	connect(t, d.s, s, "10.9.0.50")

	if err := c.Close(); err != nil {
		t.Error(err)
	}
	release := d.next(dhcpv4.MessageTypeRelease)
	if !release.ClientIPAddr.Equal(net.IPv4(10, 9, 0, 50)) || release.from.Addr() != netip.MustParseAddr("10.9.0.50") {
		t.Errorf("release from %v: %s", release.from, release.Summary())
	}
	if _, ok := addrOf(s, "10.9.0.50"); ok {
		t.Error("the address was not removed")
	}
	for _, r := range s.Routes() {
		if r.Origin == OriginDHCP {
			t.Errorf("route %+v was not removed", r)
		}
	}
	if servers, search := s.DNS(); len(servers)+len(search) > 0 {
		t.Errorf("DNS was not removed: %v %v", servers, search)
	}
	if s.ep.MTU() != 1500 {
		t.Errorf("MTU %d was not restored", s.ep.MTU())
	}
	if _, ok := addrOf(s, "fd00::9"); !ok {
		t.Error("the static address has gone")
	}
}

// A lost message is sent again; one client closes with its stack.
func TestDHCPRetransmission(t *testing.T) {
	t.Parallel() // it waits
	d, s := newDHCP(t)
	n := 0
	d.answer = func(*seenDHCP) bool { n++; return n%3 == 0 }
	startDHCP(t, s)
	s.Close()
	d.next(dhcpv4.MessageTypeRelease)
}

func TestDHCPRenew(t *testing.T) {
	t.Parallel() // it waits
	d, s := newDHCP(t)
	d.opts = leaseOptions(10*time.Second, time.Second, 8*time.Second, dhcpv4.OptDNS(net.IPv4(10, 9, 0, 53)))
	_, leases := startDHCP(t, s)
	first := nextLease(t, leases)
	d.next(dhcpv4.MessageTypeRequest)
	d.set(func() {
		d.opts = leaseOptions(20*time.Second, 10*time.Second, 18*time.Second, dhcpv4.OptDNS(net.IPv4(10, 9, 0, 99)), dhcpv4.OptRouter(net.IPv4(10, 9, 0, 7)))
	})
	second := nextLease(t, leases)
	request := d.next(dhcpv4.MessageTypeRequest)
	if request.from.Addr() != first.Addr.Addr() || !request.ClientIPAddr.Equal(first.Addr.Addr().AsSlice()) ||
		request.RequestedIPAddress() != nil || request.ServerIdentifier() != nil || request.IsBroadcast() {
		t.Errorf("renewal from %v (RFC 2131 table 5): %s", request.from, request.Summary())
	}
	if second.Addr != first.Addr || second.Expires.Sub(first.Expires) < 10*time.Second {
		t.Errorf("renewed %+v to %+v", first, second)
	}
	if servers, _ := s.DNS(); len(servers) != 1 || servers[0].Addr() != netip.MustParseAddr("10.9.0.99") {
		t.Errorf("DNS %v", servers)
	}
	var gateways []netip.Addr
	for _, r := range s.Routes() {
		if r.Origin == OriginDHCP {
			gateways = append(gateways, r.Gateway)
		}
	}
	if !slices.Equal(gateways, []netip.Addr{netip.MustParseAddr("10.9.0.7")}) {
		t.Errorf("gateways %v", gateways)
	}
}

// The server does not answer what is sent to it alone, so the client asks all.
func TestDHCPRebind(t *testing.T) {
	t.Parallel() // it waits
	d, s := newDHCP(t)
	d.opts = leaseOptions(8*time.Second, time.Second, 2*time.Second)
	var bound time.Time
	d.answer = func(m *seenDHCP) bool {
		return m.ClientIPAddr.IsUnspecified() || time.Since(bound) > 2*time.Second
	}
	_, leases := startDHCP(t, s)
	first := nextLease(t, leases)
	d.set(func() { bound = first.Obtained })
	second := nextLease(t, leases)
	if second.Addr != first.Addr || second.Obtained.Before(first.Rebind) {
		t.Errorf("leases %+v, %+v", first, second)
	}
}

// A refused renewal ends the lease, and another one is had.
func TestDHCPNak(t *testing.T) {
	t.Parallel() // it waits
	d, s := newDHCP(t)
	d.opts = leaseOptions(10*time.Second, time.Second, 8*time.Second)
	_, leases := startDHCP(t, s)
	nextLease(t, leases)
	d.set(func() {
		d.offer = []string{"10.9.0.60"}
		d.answer = func(m *seenDHCP) bool { d.nak = !m.ClientIPAddr.IsUnspecified(); return true }
	})
	if l := nextLease(t, leases); l.Addr != netip.MustParsePrefix("10.9.0.60/24") {
		t.Errorf("lease %+v", l)
	}
	if _, ok := addrOf(s, "10.9.0.50"); ok {
		t.Error("the refused address was kept")
	}
}

// Without a server the address goes when the lease ends, and comes back with it.
func TestDHCPExpiry(t *testing.T) {
	t.Parallel() // it waits
	d, s := newDHCP(t)
	d.opts = leaseOptions(3*time.Second, time.Second, 2*time.Second)
	c, leases := startDHCP(t, s)
	first := nextLease(t, leases)
	d.set(func() { d.answer = func(*seenDHCP) bool { return false } })
	for m := d.next(dhcpv4.MessageTypeDiscover); !m.at.After(first.Obtained); {
		m = d.next(dhcpv4.MessageTypeDiscover)
	}
	if _, ok := c.Lease(); ok || time.Now().Before(first.Expires) {
		t.Errorf("lease ended early, or is still held: %v", ok)
	}
	if _, ok := addrOf(s, "10.9.0.50"); ok {
		t.Error("the address was kept")
	}
	d.set(func() { d.answer = nil })
	if l := nextLease(t, leases); l.Addr != first.Addr {
		t.Errorf("lease %+v", l)
	}
}

func TestDHCPNoLease(t *testing.T) {
	t.Parallel() // it waits
	for name, tc := range map[string]struct {
		prepare func(*dhcpServer)
		want    string
	}{
		"silence": {func(d *dhcpServer) { d.answer = func(*seenDHCP) bool { return false } }, "no DHCP server answered on tap0 within 1s"},
		"nak":     {func(d *dhcpServer) { d.nak = true }, `10.9.0.1 refuses to lease 10.9.0.50: "not today"`},
		"no ack": {func(d *dhcpServer) {
			d.answer = func(m *seenDHCP) bool { return m.MessageType() == dhcpv4.MessageTypeDiscover }
		}, "did not acknowledge"},
		"nonsense": {func(d *dhcpServer) { d.offer = []string{"127.0.0.5"} }, "no use"},
	} {
		t.Run(name, func(t *testing.T) {
			d, s := newDHCP(t)
			tc.prepare(d)
			_, err := s.DHCP(testContext(t), DHCPConfig{Timeout: time.Second, timing: &quick})
			if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			for _, a := range s.Addrs() {
				if a.Origin == OriginDHCP {
					t.Errorf("address %+v", a)
				}
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		_, s := newDHCP(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := s.DHCP(ctx, DHCPConfig{}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		d, s := newDHCP(t)
		d.answer = func(*seenDHCP) bool { return false }
		go func() { <-d.seen; s.Close() }()
		if _, err := s.DHCP(testContext(t), DHCPConfig{timing: &quick}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("error %v", err)
		}
	})
}

// An offered address that somebody answers for is declined.
func TestDHCPConflict(t *testing.T) {
	d, s := newDHCP(t)
	if err := d.s.AddAddr(testContext(t), netip.MustParsePrefix("10.9.0.50/24")); err != nil {
		t.Fatal(err)
	}
	d.set(func() { d.offer = []string{"10.9.0.50", "10.9.0.51"} })
	_, leases := startDHCP(t, s)
	if l := nextLease(t, leases); l.Addr != netip.MustParsePrefix("10.9.0.51/24") {
		t.Errorf("lease %+v", l)
	}
	decline := d.next(dhcpv4.MessageTypeDecline)
	if !decline.RequestedIPAddress().Equal(net.IPv4(10, 9, 0, 50)) || !decline.ServerIdentifier().Equal(serverIP.AsSlice()) ||
		!decline.ClientIPAddr.IsUnspecified() {
		t.Errorf("decline: %s", decline.Summary())
	}
}

// What is configured comes before what a server says.
func TestDHCPBesideStatic(t *testing.T) {
	d, s := newDHCP(t, func(c *Config) {
		c.Addrs, c.Gateways = prefixes("10.7.0.2/24"), []netip.Addr{netip.MustParseAddr("10.7.0.1")}
	})
	d.opts = leaseOptions(time.Hour, 0, 0)
	c, _ := startDHCP(t, s)
	defaults := func() (list []netip.Addr) {
		for _, r := range s.Routes() {
			if r.Dst.Bits() == 0 {
				list = append(list, r.Gateway)
			}
		}
		return list
	}
	want := []netip.Addr{netip.MustParseAddr("10.7.0.1")}
	if got := defaults(); !slices.Equal(got, want) {
		t.Errorf("default routes through %v, want %v", got, want)
	}
	c.Close()
	if got := defaults(); !slices.Equal(got, want) {
		t.Errorf("after Close: default routes through %v, want %v", got, want)
	}
}

// A stack that ends in the middle of everything ends.
func TestCloseDuringAutoconf(t *testing.T) {
	t.Parallel() // it waits
	for i := range 8 {
		d, s := newDHCP(t, func(c *Config) { c.SLAAC, c.Addrs = true, prefixes("10.7.0.2/24", "fd00::2/64") })
		d.set(func() { d.opts = leaseOptions(8*time.Second, time.Second, 2*time.Second) })
		var wg sync.WaitGroup
		wg.Go(func() { s.DHCP(context.Background(), DHCPConfig{timing: &quick}) })
		wg.Go(func() { s.WaitSLAAC(context.Background()) })
		wg.Go(func() {
			for n := range 50 {
				ip := netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(n + 3)})
				s.AddAddr(context.Background(), netip.PrefixFrom(ip, 64))
			}
		})
		time.Sleep(time.Duration(i) * 20 * time.Millisecond) // at different moments
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}
