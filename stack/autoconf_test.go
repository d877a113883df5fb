package stack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/ustack/ustack/link"
)

// A station is what is at the other end of a wire: it reads and writes frames.
type station struct {
	t    *testing.T
	dev  link.Device
	mac  tcpip.LinkAddress
	seen chan []byte
	done chan struct{}
}

var (
	peerMAC   = tcpip.LinkAddress("\x02\x00\x00\x00\x00\xaa")
	stackMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	routerIP  = netip.MustParseAddr("fe80::aa")
	linkLocal = netip.MustParseAddr("fe80::ff:fe00:1") // of stackMAC
	generated = netip.MustParseAddr("2001:db8:1::ff:fe00:1")
	prefix1   = netip.MustParsePrefix("2001:db8:1::/64")
	nameIP    = netip.MustParseAddr("2001:db8::53")
)

// newStation returns a peer, and a stack of cfg that is linked to it.
func newStation(t *testing.T, cfg Config, pipe link.PipeConfig) (*station, *Stack) {
	pipe.Names = [2]string{"tap0", "tap1"}
	wireA, wireB := link.Pipe(pipe)
	p := &station{t: t, dev: wireB, mac: peerMAC, seen: make(chan []byte, 4096), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		frames := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
		for {
			if _, err := wireB.Queues()[0].Read(frames); err != nil {
				return
			}
			p.seen <- slices.Clone(frames[0].Buf[:frames[0].N])
		}
	}()
	t.Cleanup(func() { p.dev.Close(); <-p.done })
	cfg.Device, cfg.HardwareAddr = wireA, stackMAC
	return p, newStack(t, cfg)
}

func (p *station) send(dst tcpip.LinkAddress, proto tcpip.NetworkProtocolNumber, payload []byte) {
	p.t.Helper()
	b := make([]byte, header.EthernetMinimumSize, header.EthernetMinimumSize+len(payload))
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: p.mac, DstAddr: dst, Type: proto})
	if _, err := p.dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{append(b, payload...)}}}); err != nil {
		p.t.Errorf("send: %v", err)
	}
}

// await returns the first frame that match likes.
func (p *station) await(what string, match func(frame []byte) bool) []byte {
	p.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case f := <-p.seen:
			if match(f) {
				return f
			}
		case <-timeout:
			p.t.Fatalf("no %s came", what)
		}
	}
}

// arp sends an ARP packet of this station, which claims sender.
func (p *station) arp(op header.ARPOp, sender, target netip.Addr) {
	h := header.ARP(make([]byte, header.ARPSize))
	h.SetIPv4OverEthernet()
	h.SetOp(op)
	copy(h.HardwareAddressSender(), p.mac)
	copy(h.ProtocolAddressSender(), sender.AsSlice())
	copy(h.ProtocolAddressTarget(), target.AsSlice())
	p.send(header.EthernetBroadcastAddress, header.ARPProtocolNumber, h)
}

// isARP matches ARP requests for target by sender.
func isARP(sender, target netip.Addr) func([]byte) bool {
	return func(f []byte) bool {
		if header.Ethernet(f).Type() != header.ARPProtocolNumber {
			return false
		}
		h := header.ARP(f[header.EthernetMinimumSize:])
		return h.IsValid() && h.Op() == header.ARPRequest &&
			netip.AddrFrom4([4]byte(h.ProtocolAddressSender())) == sender &&
			netip.AddrFrom4([4]byte(h.ProtocolAddressTarget())) == target
	}
}

// isNDP matches ICMPv6 messages of a type; for solicitations, of a target.
func isNDP(kind header.ICMPv6Type, target netip.Addr) func([]byte) bool {
	return func(f []byte) bool {
		if header.Ethernet(f).Type() != header.IPv6ProtocolNumber {
			return false
		}
		ip := header.IPv6(f[header.EthernetMinimumSize:])
		if !ip.IsValid(len(ip)) || ip.NextHeader() != uint8(header.ICMPv6ProtocolNumber) {
			return false
		}
		icmp := header.ICMPv6(ip.Payload())
		return icmp.Type() == kind && (!target.IsValid() ||
			fromAddress(header.NDPNeighborSolicit(icmp.MessageBody()).TargetAddress()) == target)
	}
}

// icmp6 sends an ICMPv6 message of which body follows the checksum.
func (p *station) icmp6(src, dst netip.Addr, kind header.ICMPv6Type, body []byte) {
	b := make([]byte, header.IPv6MinimumSize+header.ICMPv6HeaderSize+len(body))
	ip := header.IPv6(b)
	ip.Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(b) - header.IPv6MinimumSize), TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit: header.NDPHopLimit, SrcAddr: toAddress(src), DstAddr: toAddress(dst),
	})
	icmp := header.ICMPv6(ip.Payload())
	icmp.SetType(kind)
	copy(icmp.MessageBody(), body)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: toAddress(src), Dst: toAddress(dst)}))
	p.send(header.EthernetAddressFromMulticastIPv6Address(toAddress(dst)), header.IPv6ProtocolNumber, b)
}

var allNodes = netip.MustParseAddr("ff02::1")

// advertise claims an IPv6 address.
func (p *station) advertise(target netip.Addr) {
	opts := header.NDPOptionsSerializer{header.NDPTargetLinkLayerAddressOption(p.mac)}
	body := make([]byte, header.NDPNAMinimumSize+opts.Length())
	na := header.NDPNeighborAdvert(body)
	na.SetTargetAddress(toAddress(target))
	na.SetOverrideFlag(true)
	na.Options().Serialize(opts)
	p.icmp6(target, allNodes, header.ICMPv6NeighborAdvert, body)
}

// An ra is a router advertisement; lifetimes are in seconds.
type ra struct {
	router           uint16
	valid, preferred uint32 // of prefix1; valid 0 sends no prefix
	dns              uint32 // of nameIP and lab.example; 0 sends none
	zeroDNS          bool   // sends it with lifetime 0
}

func (p *station) ra(r ra) {
	body := make([]byte, header.NDPRAMinimumSize)
	body[0] = 64
	body[2], body[3] = byte(r.router>>8), byte(r.router)
	be := func(v uint32) []byte { return []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)} }
	if r.valid > 0 {
		opt := slices.Concat([]byte{3, 4, 64, 0xc0}, be(r.valid), be(r.preferred), make([]byte, 4), prefix1.Addr().AsSlice())
		body = append(body, opt...)
	}
	if r.dns > 0 || r.zeroDNS {
		body = append(body, slices.Concat([]byte{25, 3, 0, 0}, be(r.dns), nameIP.AsSlice())...)
		name := []byte("\x03lab\x07example\x00\x00\x00\x00") // padded to 16 bytes
		body = append(body, slices.Concat([]byte{31, 3, 0, 0}, be(r.dns), name)...)
	}
	p.icmp6(routerIP, allNodes, header.ICMPv6RouterAdvert, body)
}

// eventually waits for a state that no event announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func hasState(s *Stack, ip netip.Addr, state string) func() bool {
	return func() bool { a, ok := addrOf(s, ip.String()); return ok && a.State == state }
}

func warned(s *Stack, words ...string) func() bool {
	return func() bool {
		return slices.ContainsFunc(s.Warnings(), func(w string) bool {
			for _, word := range words {
				if !strings.Contains(w, word) {
					return false
				}
			}
			return true
		})
	}
}

// A static address is checked and announced, while it is in use already.
func TestStaticIPv4Announced(t *testing.T) {
	t.Parallel() // it waits
	p, s := newStation(t, Config{Addrs: prefixes("10.0.0.4/24")}, link.PipeConfig{})
	ip := netip.MustParseAddr("10.0.0.4")
	if !hasState(s, ip, AddrAssigned)() {
		t.Errorf("addresses %+v", s.Addrs())
	}
	for range probeCount {
		p.await("ARP probe", isARP(netip.IPv4Unspecified(), ip))
	}
	p.await("announcement", isARP(ip, ip))
	if w := s.Warnings(); len(w) > 0 {
		t.Errorf("warnings %q", w)
	}
}

func TestDuplicateIPv4(t *testing.T) {
	ip, other := netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("10.0.0.9")
	for name, claim := range map[string]func(*station){
		"answer to the probe": func(p *station) {
			p.await("ARP probe", isARP(netip.IPv4Unspecified(), ip))
			p.arp(header.ARPReply, ip, netip.IPv4Unspecified())
		},
		"gratuitous": func(p *station) { p.arp(header.ARPRequest, ip, ip) },
		"request":    func(p *station) { p.arp(header.ARPRequest, ip, other) },
	} {
		t.Run(name, func(t *testing.T) {
			p, s := newStation(t, Config{Addrs: prefixes("10.0.0.4/24")}, link.PipeConfig{})
			claim(p)
			eventually(t, "a warning", warned(s, "10.0.0.4", "02:00:00:00:00:aa"))
			if !hasState(s, ip, AddrDuplicate)() {
				t.Errorf("addresses %+v", s.Addrs())
			}
			// Whoever repeats it, under whatever name, is not heard again.
			for i := range 200 {
				p.mac = tcpip.LinkAddress([]byte{2, 0, 0, 1, 0, byte(i)})
				p.arp(header.ARPRequest, ip, other)
			}
			p.arp(header.ARPRequest, other, ip) // answered after all of those
			p.await("ARP reply", func(f []byte) bool {
				return header.Ethernet(f).Type() == header.ARPProtocolNumber &&
					header.ARP(f[header.EthernetMinimumSize:]).Op() == header.ARPReply
			})
			if w := s.Warnings(); len(w) != 1 {
				t.Errorf("warnings %q", w)
			}
			if err := s.DelAddr(testContext(t), netip.MustParsePrefix("10.0.0.4/24")); err != nil || len(s.Warnings()) != 0 {
				t.Errorf("after the address was removed: %v, %q", err, s.Warnings())
			}
		})
	}
}

// A probe of another station, and claims of other addresses, are no conflict.
func TestNoDuplicate(t *testing.T) {
	t.Parallel() // it waits
	p, s := newStation(t, Config{Addrs: prefixes("10.0.0.4/24")}, link.PipeConfig{})
	p.arp(header.ARPRequest, netip.IPv4Unspecified(), netip.MustParseAddr("10.0.0.4"))
	p.arp(header.ARPRequest, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.0.0.4"))
	p.await("announcement", isARP(netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("10.0.0.4")))
	if w := s.Warnings(); len(w) > 0 {
		t.Errorf("warnings %q", w)
	}
}

// A static IPv6 address works at once; a neighbour that has it is reported.
func TestDuplicateIPv6(t *testing.T) {
	p, s := newStation(t, Config{Addrs: prefixes("2001:db8::4/64")}, link.PipeConfig{})
	ip := netip.MustParseAddr("2001:db8::4")
	if !hasState(s, ip, AddrAssigned)() || !hasState(s, linkLocal, AddrTentative)() {
		t.Errorf("addresses %+v", s.Addrs())
	}
	l, err := s.Listen("tcp", "[2001:db8::4]:80")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p.await("neighbour solicitation", isNDP(header.ICMPv6NeighborSolicit, ip))
	p.advertise(ip)
	eventually(t, "a warning", warned(s, "2001:db8::4", "02:00:00:00:00:aa"))
	if !hasState(s, ip, AddrDuplicate)() {
		t.Errorf("addresses %+v", s.Addrs())
	}
	if err := s.AddAddr(testContext(t), netip.MustParsePrefix("2001:db8::5/64")); err != nil {
		t.Fatal(err)
	}
	if !hasState(s, netip.MustParseAddr("2001:db8::5"), AddrAssigned)() {
		t.Errorf("added address: %+v", s.Addrs())
	}
}

// Without SLAAC there is a link-local address, and routers are not heard.
func TestNoSLAAC(t *testing.T) {
	t.Parallel() // it waits
	p, s := newStation(t, Config{}, link.PipeConfig{})
	p.ra(ra{router: 1800, valid: 3600, preferred: 1800, dns: 600})
	eventually(t, "the link-local address", hasState(s, linkLocal, AddrAssigned))
	if a, _ := addrOf(s, linkLocal.String()); a.Origin != OriginLinkLocal || !a.ValidUntil.IsZero() {
		t.Errorf("link-local address %+v", a)
	}
	if _, ok := addrOf(s, generated.String()); ok || len(s.Routes()) != 2 { // those of the loopback interface
		t.Errorf("addresses %+v, routes %+v", s.Addrs(), s.Routes())
	}
	if err := s.WaitSLAAC(testContext(t)); err == nil {
		t.Error("WaitSLAAC without SLAAC")
	}
}

func TestNoIPv6BelowItsMTU(t *testing.T) {
	t.Parallel() // it waits
	p, s := newStation(t, Config{Addrs: prefixes("10.0.0.4/24")}, link.PipeConfig{MTU: 1000})
	ip := netip.MustParseAddr("10.0.0.4")
	first := p.await("frame", func([]byte) bool { return true })
	for f := first; ; f = p.await("announcement", func([]byte) bool { return true }) {
		if header.Ethernet(f).Type() == header.IPv6ProtocolNumber {
			t.Errorf("IPv6 frame %x", f)
		}
		if isARP(ip, ip)(f) {
			break
		}
	}
	for _, a := range s.Addrs() {
		if a.Link != loName && a.Prefix.Addr().Is6() {
			t.Errorf("address %+v", a)
		}
	}
	if err := s.AddAddr(testContext(t), netip.MustParsePrefix("fd00::1/64")); err == nil {
		t.Error("an IPv6 address was added")
	}
	dev, _ := link.Pipe(link.PipeConfig{MTU: 1000})
	defer dev.Close()
	if _, err := New(Config{Device: dev, SLAAC: true}); err == nil {
		t.Error("SLAAC on an MTU of 1000")
	}
}

func TestSLAAC(t *testing.T) {
	t.Parallel() // it waits
	p, s := newStation(t, Config{SLAAC: true}, link.PipeConfig{})
	// The first is sent from ::, and one after the check of the link-local address
	// from that.
	p.await("router solicitation", isNDP(header.ICMPv6RouterSolicit, netip.Addr{}))
	p.await("another one", func(f []byte) bool {
		return isNDP(header.ICMPv6RouterSolicit, netip.Addr{})(f) &&
			fromAddress(header.IPv6(f[header.EthernetMinimumSize:]).SourceAddress()) == linkLocal
	})
	p.ra(ra{router: 1800, valid: 3600, preferred: 1800, dns: 600})
	eventually(t, "the tentative address", hasState(s, generated, AddrTentative))
	if err := s.WaitSLAAC(testContext(t)); err != nil {
		t.Fatal(err)
	}
	a, _ := addrOf(s, generated.String())
	if a.Origin != OriginSLAAC || a.State != AddrAssigned || a.Prefix.Bits() != 64 ||
		time.Until(a.ValidUntil).Round(time.Minute) != time.Hour {
		t.Errorf("address %+v", a)
	}
	byRouter := Route{Dst: netip.MustParsePrefix("::/0"), Gateway: routerIP, Link: "tap0", Origin: OriginRA}
	onLink := Route{Dst: prefix1, Link: "tap0", Origin: OriginRA}
	for _, r := range []Route{byRouter, onLink} {
		if !slices.Contains(s.Routes(), r) {
			t.Errorf("no route %+v in %+v", r, s.Routes())
		}
	}
	servers, search := s.DNS()
	if len(servers) != 1 || servers[0] != netip.AddrPortFrom(nameIP, 53) || !slices.Equal(search, []string{"lab.example"}) {
		t.Errorf("DNS %v %v", servers, search)
	}
	// A lookup goes to the advertised server, through the advertised router.
	ctx, cancel := context.WithCancel(context.Background())
	asked := make(chan struct{})
	go func() { defer close(asked); s.LookupNetIP(ctx, "ip6", "www.example.net") }()
	p.await("neighbour solicitation for the router", isNDP(header.ICMPv6NeighborSolicit, routerIP))
	p.advertise(routerIP)
	p.await("question", func(f []byte) bool {
		ip := header.IPv6(f[header.EthernetMinimumSize:])
		return header.Ethernet(f).Type() == header.IPv6ProtocolNumber && ip.NextHeader() == uint8(header.UDPProtocolNumber) &&
			fromAddress(ip.DestinationAddress()) == nameIP && fromAddress(ip.SourceAddress()) == generated
	})
	cancel()
	<-asked

	// The router leaves; its prefix is not preferred any more.
	p.ra(ra{router: 0, valid: 3600, preferred: 0, zeroDNS: true})
	eventually(t, "a deprecated address", hasState(s, generated, AddrDeprecated))
	eventually(t, "no default route", func() bool { return !slices.Contains(s.Routes(), byRouter) })
	eventually(t, "no name server", func() bool { servers, search := s.DNS(); return len(servers)+len(search) == 0 })
	if !slices.Contains(s.Routes(), onLink) {
		t.Errorf("the route on the link has gone: %+v", s.Routes())
	}
}

func TestSLAACLifetimes(t *testing.T) {
	t.Parallel() // it waits
	p, s := newStation(t, Config{SLAAC: true}, link.PipeConfig{})
	p.ra(ra{router: 2, valid: 2, preferred: 1, dns: 2})
	if err := s.WaitSLAAC(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if servers, _ := s.DNS(); len(servers) != 1 {
		t.Errorf("DNS %v", servers)
	}
	eventually(t, "all has expired", func() bool {
		_, has := addrOf(s, generated.String())
		servers, search := s.DNS()
		advertised := slices.ContainsFunc(s.Routes(), func(r Route) bool { return r.Origin == OriginRA })
		return !has && !advertised && len(servers)+len(search) == 0
	})
}

// A generated address that a neighbour has is not used, and that is reported.
func TestSLAACDuplicate(t *testing.T) {
	p, s := newStation(t, Config{SLAAC: true}, link.PipeConfig{})
	p.ra(ra{router: 1800, valid: 3600, preferred: 1800})
	p.await("neighbour solicitation", isNDP(header.ICMPv6NeighborSolicit, generated))
	p.advertise(generated)
	eventually(t, "a warning", warned(s, generated.String(), "02:00:00:00:00:aa"))
	if a, ok := addrOf(s, generated.String()); ok {
		t.Errorf("address %+v", a)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := s.WaitSLAAC(ctx); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "duplicate") {
		t.Errorf("WaitSLAAC: %v", err)
	}
}

// A static route and a static address outlive what routers say of the same.
func TestSLAACBesideStatic(t *testing.T) {
	gw := netip.MustParseAddr("fe80::1")
	p, s := newStation(t, Config{SLAAC: true, Addrs: prefixes("2001:db8:1::4/64"), Gateways: []netip.Addr{gw}}, link.PipeConfig{})
	p.ra(ra{router: 1800, valid: 3600, preferred: 1800})
	byRouter := Route{Dst: netip.MustParsePrefix("::/0"), Gateway: routerIP, Link: "tap0", Origin: OriginRA}
	eventually(t, "the advertised route", func() bool { return slices.Contains(s.Routes(), byRouter) })
	static := Route{Dst: byRouter.Dst, Gateway: gw, Link: "tap0", Origin: OriginStatic}
	if r := s.Routes(); slices.Index(r, static) > slices.Index(r, byRouter) {
		t.Errorf("routes %+v", r)
	}
	// Taken away and put back, it comes first again.
	if err := s.DelRoute(testContext(t), static); err != nil {
		t.Fatal(err)
	}
	if err := s.AddRoute(testContext(t), Route{Dst: static.Dst, Gateway: gw}); err != nil {
		t.Fatal(err)
	}
	if r := s.Routes(); !slices.Contains(r, static) || slices.Index(r, static) > slices.Index(r, byRouter) {
		t.Errorf("routes %+v", r)
	}
	// Without the address the network is still on the link, for routers say so.
	if err := s.DelAddr(testContext(t), netip.MustParsePrefix("2001:db8:1::4/64")); err != nil {
		t.Fatal(err)
	}
	onLink := Route{Dst: prefix1, Link: "tap0", Origin: OriginRA}
	eventually(t, "the route on the link", func() bool { return slices.Contains(s.Routes(), onLink) })
}

// FuzzRouterAdvert holds that whatever a router sends after the fixed part of its
// advertisement changes no more than the limits say, and stops nothing.
func FuzzRouterAdvert(f *testing.F) {
	wireA, wireB := link.Pipe(link.PipeConfig{})
	s := newStack(f, Config{Device: wireA, HardwareAddr: stackMAC, SLAAC: true})
	f.Cleanup(func() { wireB.Close() })
	prefix := append([]byte{3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 7, 8, 0, 0, 0, 0}, prefix1.Addr().AsSlice()...)
	f.Add(prefix)
	f.Add(append([]byte{25, 3, 0, 0, 0, 0, 0, 60}, nameIP.AsSlice()...))
	f.Add([]byte("\x1f\x03\x00\x00\x00\x00\x00\x3c\x03lab\x07example\x00\x00\x00\x00"))
	f.Add([]byte{24, 1, 0, 0, 0, 0, 0, 60})
	f.Add([]byte{24, 3, 129, 8, 0, 0, 0, 60, 32, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{5, 1, 0, 0, 0, 0, 0, 1, 1, 0})
	f.Fuzz(func(t *testing.T, options []byte) {
		if len(options) > 1400 {
			return
		}
		p := &station{t: t, dev: wireB, mac: peerMAC}
		p.icmp6(routerIP, allNodes, header.ICMPv6RouterAdvert, append([]byte{64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, options...))
		servers, search := s.DNS()
		if len(s.Addrs()) > 20 || len(s.Routes()) > 30 || len(servers) > maxRAServers || len(search) > maxRADomains {
			t.Errorf("addresses %v, routes %v, DNS %v %v", s.Addrs(), s.Routes(), servers, search)
		}
		select {
		case <-s.Done():
			t.Error(s.Err())
		default:
		}
	})
}
