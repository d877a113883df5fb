package stack

import (
	"context"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Addresses that were configured are used at once, and checked meanwhile: a
// station that waits for RFC 5227's six seconds, or RFC 4862's one, is not ready
// when its user is, and the user wants to hear of a conflict rather than to lose
// the address.

// Probes for an IPv4 address in use (RFC 5227 section 2.1.1, which spreads them
// over seconds so that a switch's port has time to come up).
const (
	probeCount = 3
	probeGap   = 300 * time.Millisecond
	// announceGap is ANNOUNCE_INTERVAL of RFC 5227 section 1.1.
	announceGap = 2 * time.Second
)

// dadConfig is what RFC 4862 section 5.1 says by default.
var dadConfig = gstack.DADConfigurations{DupAddrDetectTransmits: 1, RetransmitTimer: time.Second}

// check begins duplicate address detection for an address that is in use already.
func (a *autoconf) check(ip netip.Addr) {
	if ip.Is6() {
		a.check6(ip)
		return
	}
	a.spawn(func(ctx context.Context) {
		for range probeCount {
			a.sendARP(netip.IPv4Unspecified(), ip)
			if !sleep(ctx, probeGap) {
				return
			}
			// seeARP marks it.
			if o, ok := a.s.orig.get(ip); !ok || o.duplicate {
				return
			}
		}
		// Stations that knew the address by another MAC learn ours.
		a.announce(ip)
		if sleep(ctx, announceGap) {
			if o, ok := a.s.orig.get(ip); ok && !o.duplicate {
				a.announce(ip)
			}
		}
	})
}

// check6 asks with a neighbour solicitation whether somebody else has ip. This
// check of netstack's is separate from the one that keeps an address tentative.
// The answer is not: it comes from an address that is ours, so netstack drops it
// and seeNeighbourAdvert hears it.
func (a *autoconf) check6(ip netip.Addr) {
	a.dadWindow.Lock() // or detection might be off just now
	defer a.dadWindow.Unlock()
	a.s.ns.CheckDuplicateAddress(nicID, ipv6.ProtocolNumber, toAddress(ip), func(gstack.DADResult) {})
}

// probe asks n times whether somebody has an IPv4 address that the stack does not
// have yet, and listens for gap after each.
func (a *autoconf) probe(ctx context.Context, ip netip.Addr, n int, gap time.Duration) (holder net.HardwareAddr, taken bool) {
	answer := make(chan net.HardwareAddr, 1)
	a.mu.Lock()
	a.probing[ip] = answer
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.probing, ip)
		a.mu.Unlock()
	}()
	for range n {
		a.sendARP(netip.IPv4Unspecified(), ip)
		timer := time.NewTimer(gap)
		select {
		case holder = <-answer:
			timer.Stop()
			return holder, true
		case <-ctx.Done():
			timer.Stop()
			return nil, false
		case <-timer.C:
		}
	}
	return nil, false
}

// announce tells the link where ip is now (RFC 5227 section 2.3).
func (a *autoconf) announce(ip netip.Addr) { a.sendARP(ip, ip) }

// sendARP broadcasts an ARP request. A sender of 0.0.0.0 makes it a probe, which
// changes nobody's table.
func (a *autoconf) sendARP(sender, target netip.Addr) {
	h := header.ARP(make([]byte, header.ARPSize))
	h.SetIPv4OverEthernet()
	h.SetOp(header.ARPRequest)
	copy(h.HardwareAddressSender(), a.s.ep.LinkAddress())
	copy(h.ProtocolAddressSender(), sender.AsSlice())
	copy(h.ProtocolAddressTarget(), target.AsSlice())
	terr := a.s.ns.WritePacketToRemote(nicID, header.EthernetBroadcastAddress, arp.ProtocolNumber, buffer.MakeWithData(h))
	if terr != nil {
		a.s.log.Debug("ARP request was not sent", "link", a.s.name, "target", target, "err", errno(terr))
	}
}

// seeARP watches for stations that claim an address of ours (RFC 5227 section
// 2.4), in requests and replies alike. It is called for every ARP packet of
// another station, by whoever reads the link.
func (a *autoconf) seeARP(ip [4]byte, mac [6]byte) {
	addr := netip.AddrFrom4(ip)
	if addr.IsUnspecified() { // a probe claims nothing
		return
	}
	a.mu.Lock()
	answer := a.probing[addr]
	a.mu.Unlock()
	if answer != nil {
		select {
		case answer <- net.HardwareAddr(mac[:]):
		default:
		}
	}
	a.conflict(addr, net.HardwareAddr(mac[:]))
}

// seeNeighbourAdvert does the same for IPv6. An address that is tentative still
// is netstack's to give up.
func (a *autoconf) seeNeighbourAdvert(target [16]byte, mac [6]byte) {
	ip := netip.AddrFrom16(target)
	if a.stateOf(ip) != AddrTentative {
		a.conflict(ip, net.HardwareAddr(mac[:]))
	}
}

// conflict marks an address of ours that another station claims. Only the first
// claim is reported: whoever sends a thousand of them changes nothing.
func (a *autoconf) conflict(ip netip.Addr, mac net.HardwareAddr) {
	if o, ok := a.s.orig.get(ip); !ok || o.duplicate || o.origin == OriginLoopback {
		return
	}
	first := false
	a.s.orig.update(ip, func(o *originOf) {
		// It may have been removed meanwhile; then this has made an empty one.
		first = o.origin != "" && !o.duplicate
		o.duplicate = first || o.duplicate
	})
	if !first {
		return
	}
	holder := "another station"
	if len(mac) > 0 {
		holder = mac.String()
	}
	a.s.warnAbout(ip, "duplicate address: %v is also used by %s on this link: give one of the two another address", ip, holder)
}
