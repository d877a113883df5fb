package stack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sort"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Limits on what routers can make us keep. netstack itself keeps at most ten
// routes, on-link prefixes and addresses each.
const (
	maxRAServers = 8
	maxRADomains = 8
)

// ndpState is what routers have advertised. netstack's callbacks, which may not
// call into the stack, write it; applyNDP carries it out.
type ndpState struct {
	kick    chan struct{}                    // something has changed; holds one
	changed chan struct{}                    // closed and replaced when a change was carried out
	heard   bool                             // a router has advertised something
	addrs   map[netip.Addr]ndpAddr           // link-local ones too
	routes  map[Route]struct{}               // default and more specific routes, and prefixes on the link
	servers map[netip.Addr]time.Time         // RDNSS (RFC 8106), until when
	domains map[string]time.Time             // DNSSL
	taken   map[netip.Addr]tcpip.LinkAddress // duplicates found, to be reported
}

type ndpAddr struct {
	prefix     netip.Prefix
	state      string
	validUntil time.Time
}

func newNDPState() ndpState {
	return ndpState{
		kick:    make(chan struct{}, 1),
		changed: make(chan struct{}),
		addrs:   make(map[netip.Addr]ndpAddr),
		routes:  make(map[Route]struct{}),
		servers: make(map[netip.Addr]time.Time),
		domains: make(map[string]time.Time),
		taken:   make(map[netip.Addr]tcpip.LinkAddress),
	}
}

// ipv6Options are those of all interfaces, so what is only for the link is set by
// configureNIC. An MTU below IPv6's least leaves the link without IPv6 (RFC 8200
// section 5): no address, no multicast reports.
func (a *autoconf) ipv6Options() ipv6.Options {
	return ipv6.Options{
		AutoGenLinkLocal: a.ipv6,
		MLD:              ipv6.MLDOptions{Enabled: a.ipv6},
		NDPDisp:          ndpDispatcher{a},
	}
}

// configureNIC prepares the link's interface, before it is enabled.
func (a *autoconf) configureNIC() error {
	ep, terr := a.s.ns.GetNetworkEndpoint(nicID, ipv6.ProtocolNumber)
	if terr != nil {
		return fmt.Errorf("configure IPv6 on %s: %w", a.s.name, errno(terr))
	}
	cfg := ipv6.NDPConfigurations{
		HandleRAs: ipv6.HandlingRAsDisabled, // and no solicitations of its own, see solicit
	}
	if a.slaac && a.ipv6 {
		cfg.HandleRAs = ipv6.HandlingRAsAlwaysEnabled
		cfg.DiscoverDefaultRouters = true
		cfg.DiscoverMoreSpecificRoutes = true
		cfg.DiscoverOnLinkPrefixes = true
		cfg.AutoGenGlobalAddresses = true
	}
	ep.(ipv6.NDPEndpoint).SetNDPConfigurations(cfg)
	ep.(gstack.DuplicateAddressDetector).SetDADConfigurations(dadConfig)
	return nil
}

// addAddr6 runs add, which adds a configured IPv6 address, so that the address is
// assigned at once: netstack decides by the interface's configuration whether a
// new address is tentative, so detection is off meanwhile. What is under way
// goes on; an address that a router advertisement makes in these microseconds
// would not be checked.
func (a *autoconf) addAddr6(add func() error) error {
	ep, terr := a.s.ns.GetNetworkEndpoint(nicID, ipv6.ProtocolNumber)
	if terr != nil {
		return errno(terr)
	}
	dad := ep.(gstack.DuplicateAddressDetector)
	a.dadWindow.Lock()
	defer a.dadWindow.Unlock()
	dad.SetDADConfigurations(gstack.DADConfigurations{})
	defer dad.SetDADConfigurations(dadConfig)
	return add()
}

// WaitSLAAC waits until the stack has a global IPv6 address from a router
// advertisement, checked for duplicates and ready to be used.
func (s *Stack) WaitSLAAC(ctx context.Context) error {
	if !s.auto.slaac {
		return errors.New("stack: wait for SLAAC: Config.SLAAC is off")
	}
	for {
		s.auto.mu.Lock()
		changed := s.auto.ndp.changed
		s.auto.mu.Unlock()
		for _, a := range s.Addrs() {
			if a.Origin == OriginSLAAC && (a.State == AddrAssigned || a.State == AddrDeprecated) {
				return nil
			}
		}
		select {
		case <-changed:
		case <-s.closed:
			return fmt.Errorf("stack: wait for SLAAC on %s: %w", s.name, net.ErrClosed)
		case <-ctx.Done():
			text := fmt.Sprintf("no router on %s has advertised an IPv6 prefix for autoconfiguration: is there one on this link?", s.name)
			if w := s.Warnings(); len(w) > 0 {
				text += " (" + w[len(w)-1] + ")"
			}
			return &waitError{text, []error{ctxErr(ctx), ctx.Err()}}
		}
	}
}

// solicit asks for router advertisements until one has come, ever less often
// (RFC 7559). That RFC and RFC 4861 section 10 begin with 4 s; a second less or
// two matter to whoever waits for an address, as when the router on a new link
// is itself just starting.
func (a *autoconf) solicit(ctx context.Context) {
	wait := backoff(time.Second, time.Hour)
	for try := 0; ; try++ {
		a.mu.Lock()
		heard := a.ndp.heard
		var source netip.Addr
		for ip, addr := range a.ndp.addrs {
			if ip.IsLinkLocalUnicast() && addr.state == AddrAssigned {
				source = ip
			}
		}
		a.mu.Unlock()
		if heard {
			return
		}
		a.sendSolicitation(source)
		if !sleep(ctx, wait(try)) {
			return
		}
	}
}

// sendSolicitation sends a router solicitation (RFC 4861 section 4.1). Without a
// source, which is a link-local address, it is sent from ::.
func (a *autoconf) sendSolicitation(source netip.Addr) {
	src, dst := header.IPv6Any, header.IPv6AllRoutersLinkLocalMulticastAddress
	var opts header.NDPOptionsSerializer
	if source.IsValid() {
		src = toAddress(source)
		opts = header.NDPOptionsSerializer{header.NDPSourceLinkLayerAddressOption(a.s.ep.LinkAddress())}
	}
	b := make([]byte, header.IPv6MinimumSize+header.ICMPv6HeaderSize+header.NDPRSMinimumSize+opts.Length())
	ip := header.IPv6(b)
	ip.Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(b) - header.IPv6MinimumSize), TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit: header.NDPHopLimit, SrcAddr: src, DstAddr: dst,
	})
	icmp := header.ICMPv6(ip.Payload())
	icmp.SetType(header.ICMPv6RouterSolicit)
	header.NDPRouterSolicit(icmp.MessageBody()).Options().Serialize(opts)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: src, Dst: dst}))
	terr := a.s.ns.WritePacketToRemote(nicID, header.EthernetAddressFromMulticastIPv6Address(dst), ipv6.ProtocolNumber, buffer.MakeWithData(b))
	if terr != nil {
		a.s.log.Debug("router solicitation was not sent", "link", a.s.name, "err", errno(terr))
	}
}

// applyNDP carries out what netstack's callbacks note, and lets name servers
// expire.
func (a *autoconf) applyNDP(ctx context.Context) {
	applied := make(map[Route]struct{})
	expiry := time.NewTimer(time.Hour)
	defer expiry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.ndp.kick:
		case <-expiry.C:
		}
		a.mu.Lock()
		want := maps.Clone(a.ndp.routes)
		taken := a.ndp.taken
		a.ndp.taken = make(map[netip.Addr]tcpip.LinkAddress)
		a.mu.Unlock()

		for r := range applied {
			if _, ok := want[r]; !ok {
				a.s.delRouteOf(r)
			}
		}
		for r := range want {
			a.s.addRoute(nicID, r) // does nothing if it is there
		}
		applied = want
		for ip, holder := range taken {
			who := "another station"
			if len(holder) > 0 {
				who = net.HardwareAddr(holder).String()
			}
			a.s.warnAbout(netip.Addr{}, "duplicate address: %v is used by %s on this link, so the stack goes without it: give one of the two another MAC", ip, who)
		}
		next := a.learnDNS(time.Now())
		expiry.Reset(next)

		a.mu.Lock()
		close(a.ndp.changed)
		a.ndp.changed = make(chan struct{})
		a.mu.Unlock()
	}
}

// learnDNS tells the resolver which advertised servers and domains are valid. It
// returns the time until that changes.
func (a *autoconf) learnDNS(now time.Time) time.Duration {
	a.mu.Lock()
	next := now.Add(time.Hour)
	var servers []netip.AddrPort
	for ip, until := range a.ndp.servers {
		if !until.IsZero() && !until.After(now) {
			delete(a.ndp.servers, ip)
			continue
		}
		servers = append(servers, netip.AddrPortFrom(ip, 53))
		if !until.IsZero() && until.Before(next) {
			next = until
		}
	}
	var domains []string
	for name, until := range a.ndp.domains {
		if !until.IsZero() && !until.After(now) {
			delete(a.ndp.domains, name)
			continue
		}
		domains = append(domains, name)
		if !until.IsZero() && until.Before(next) {
			next = until
		}
	}
	a.mu.Unlock()
	slices.SortFunc(servers, netip.AddrPort.Compare)
	sort.Strings(domains)
	a.s.dns.learn(OriginRA, servers, domains)
	return next.Sub(now)
}

// note changes the state that routers advertise and wakes applyNDP.
func (a *autoconf) note(f func(*ndpState)) {
	a.mu.Lock()
	f(&a.ndp)
	a.mu.Unlock()
	select {
	case a.ndp.kick <- struct{}{}:
	default:
	}
}
