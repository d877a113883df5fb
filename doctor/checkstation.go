package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The causes that lie in who has which address.
const (
	CauseDuplicateMAC = "duplicate-mac"
	CauseDuplicateIP  = "duplicate-ip"
	CauseWrongMAC     = "wrong-mac"
	CauseNoAddress    = "no-address"
	CauseNoCommon     = "no-common-network"
	CauseUnanswered   = "arp-unanswered"
	CauseUnexplained  = "ping-unanswered"
)

// stationChecks look at the addresses of those on the segment.
func stationChecks() []Check {
	before := slices.Concat(noPath(), []string{CauseNoARP}, holderCauses())
	and := func(more ...string) []string { return slices.Concat(before, more) }
	return []Check{
		{Cause: CauseNoAddress, About: "the stack has an address", After: before, Find: findNoAddress},
		{Cause: CauseNoCommon, About: "host and stack share a network", After: and(CauseNoAddress), Find: findNoCommon},
		{Cause: CauseDuplicateMAC, About: "the stack's MAC is its own", After: before, Find: findDuplicateMAC},
		{Cause: CauseDuplicateIP, About: "no address is held twice", After: and(CauseDuplicateMAC), Find: findDuplicateIP},
		{Cause: CauseWrongMAC, About: "frames go to the right MAC", After: and(CauseDuplicateMAC, CauseDuplicateIP), Find: findWrongMAC},
	}
}

// answerChecks look at who does not answer.
func answerChecks() []Check {
	return []Check{{
		Cause: CauseUnanswered, About: "neighbours answer ARP", Probed: true, Find: findUnanswered,
		After: slices.Concat(noPath(), holderCauses(), stationCauses(), routeCauses(), []string{CauseFirewall}),
	}}
}

// stationCauses are those of addresses that nothing gets through with.
func stationCauses() []string {
	return []string{CauseNoARP, CauseNoAddress, CauseNoCommon, CauseDuplicateMAC, CauseDuplicateIP, CauseWrongMAC}
}

// findNoAddress looks for a daemon's stack that can reach nobody.
func findNoAddress(env *Environment) ([]Finding, error) {
	if env.Mode != ModeDaemon || slices.ContainsFunc(env.Stack.prefixes(), isGlobal) {
		return none()
	}
	return one(Finding{
		Title:    "the stack has no address",
		Evidence: []string{"ustack addr: " + orNone(addrList(env.Stack.prefixes()))},
		Remedy: []string{
			"ustack addr add CIDR   # or ustack up --addr",
			"from the network: ustack up --dhcp, or --slaac   # where that was asked for, ustack status says how far it came",
		},
	})
}

func isGlobal(p netip.Prefix) bool { return !p.Addr().IsLinkLocalUnicast() }

// findNoCommon looks for a tap on which the host has no address in any network of the
// stack's. In a bridge others may have.
func findNoCommon(env *Environment) ([]Finding, error) {
	if env.Mode != ModeDaemon || env.Master() != nil {
		return none()
	}
	if o := env.Observed; o != nil && slices.ContainsFunc(o.ToHost, func(p Ping) bool { return p.Answered() }) {
		return none() // by a link-local address, or through somebody who answers for others
	}
	var want netip.Prefix
	for _, p := range env.Stack.prefixes() {
		if slices.ContainsFunc(env.HostAddrs(), func(h netip.Prefix) bool { return isGlobal(h) && (p.Contains(h.Addr()) || h.Contains(p.Addr())) }) {
			return none()
		}
		if !want.IsValid() && isGlobal(p) {
			want = p
		}
	}
	addr := want.Masked().Addr().Next()
	if gws := env.Stack.gateways(); len(gws) > 0 && want.Contains(gws[0]) {
		addr = gws[0]
	}
	return one(Finding{
		Title: fmt.Sprintf("host and stack share no network on %s: nobody there can answer the stack", env.Link),
		Evidence: []string{
			"ustack addr: " + addrList(env.Stack.prefixes()),
			fmt.Sprintf("ip addr show dev %s: %s", env.Link, orNone(addrList(env.HostAddrs()))),
		},
		Remedy: []string{
			fmt.Sprintf("ip addr add %s dev %s", netip.PrefixFrom(addr, want.Bits()), env.Link),
			"or start the daemon with --host-addr, or with --bridge",
		},
	})
}

// lastChecks are judged when all else is known.
func lastChecks() []Check {
	return []Check{
		{Cause: CauseHeld, About: "the tap is held by whom it should be", AfterAny: true, Find: findHeld},
		{Cause: CauseUnexplained, About: "host and stack answer each other's pings", Probed: true, AfterAny: true, Find: findUnexplained},
	}
}

// findDuplicateMAC looks for another station with the stack's MAC: one of the host's
// interfaces, or one whose frames come in elsewhere.
func findDuplicateMAC(env *Environment) ([]Finding, error) {
	if env.Stack == nil {
		return none()
	}
	mac := env.Stack.mac()
	f := Finding{
		Title: fmt.Sprintf("the stack's MAC %s is another station's, too", mac),
		Remedy: []string{
			"start the daemon with another one: ustack up --mac 02:00:00:00:00:04",
			"or without --mac: it then has one that is its own on this machine and link",
		},
	}
	for _, name := range env.segment() {
		if l := env.Interface(name); l != nil && slices.Equal(l.Attrs().HardwareAddr, mac) {
			f.Evidence = append(f.Evidence, fmt.Sprintf("the host's interface %s has the same MAC", name))
		}
	}
	if o := env.Observed; o != nil {
		seen := map[string]bool{}
		for i := range o.Frames {
			fr := &o.Frames[i]
			host := env.Host()
			if fr.Out || fr.Link == env.Link || host != nil && fr.Link == host.Attrs().Name || seen[fr.Link] || len(fr.Data) < headerLen || !slices.Equal(fr.src(), mac) {
				continue
			}
			seen[fr.Link] = true
			f.Evidence = append(f.Evidence, fmt.Sprintf("a frame with this source came in on %s: %s", fr.Link, describe(fr)),
				"the bridge sends frames for it now to one port, now to the other")
		}
	}
	if len(f.Evidence) == 0 {
		return none()
	}
	return one(f)
}

// findDuplicateIP looks for addresses that two stations have.
func findDuplicateIP(env *Environment) (all []Finding, err error) {
	add := func(ip netip.Addr, evidence ...string) {
		all = append(all, Finding{
			Title:    fmt.Sprintf("%s is held twice", ip),
			Evidence: evidence,
			Remedy:   []string{"give one of the two another address; the stack's: ustack addr del, ustack addr add, or ustack up --addr"},
		})
	}
	claims := env.Observed.claims()
	ips := map[netip.Addr]string{} // whose they are
	if env.Stack != nil {
		for _, a := range env.Stack.Addrs {
			ip := a.Prefix.Addr()
			if a.Origin == "loopback" {
				continue
			}
			ips[ip] = "the stack's"
			var evidence []string
			if a.State == "duplicate" {
				evidence = append(evidence, fmt.Sprintf("the stack saw another station answer for %s when it checked the address", ip))
			}
			for _, h := range env.Addrs {
				if p, ok := prefixOf(h.IPNet); ok && p.Addr() == ip && !ip.IsLinkLocalUnicast() {
					evidence = append(evidence, fmt.Sprintf("the host has %s, too, on %s", ip, env.nameOf(h.LinkIndex)))
				}
			}
			for _, c := range claims {
				if c.ip == ip && c.mac != env.Stack.Link.HardwareAddr {
					evidence = append(evidence, fmt.Sprintf("%s is the stack's at %s, and %s said by ARP on %s that it has it", ip, env.Stack.Link.HardwareAddr, c.mac, c.link))
				}
			}
			if len(evidence) > 0 {
				add(ip, evidence...)
			}
		}
	}
	host := env.Host()
	for _, p := range env.HostAddrs() {
		for _, c := range claims {
			// One host may well answer by another of its interfaces.
			if c.ip == p.Addr() && host != nil && !env.isHostMAC(c.mac) {
				add(c.ip, fmt.Sprintf("%s is the host's on %s at %s, and %s said by ARP on %s that it has it", c.ip, host.Attrs().Name, host.Attrs().HardwareAddr, c.mac, c.link))
			}
		}
		ips[p.Addr()] = "the host's"
	}
	for i, c := range claims {
		if ips[c.ip] != "" {
			continue
		}
		for _, d := range claims[:i] {
			if d.ip == c.ip && d.mac != c.mac {
				add(c.ip, fmt.Sprintf("both %s (on %s) and %s (on %s) said by ARP that they have %s", d.mac, d.link, c.mac, c.link, c.ip))
			}
		}
	}
	return all, nil
}

// findWrongMAC looks for frames to an address of one side with a MAC that is not that
// side's, which the receiver drops as OTHERHOST.
func findWrongMAC(env *Environment) (all []Finding, err error) {
	if env.Stack == nil {
		return none()
	}
	for _, p := range env.Stack.prefixes() {
		ip := p.Addr()
		f := Finding{Title: fmt.Sprintf("the host sends frames for %s to a MAC that is not the stack's %s", ip, env.Stack.Link.HardwareAddr)}
		wrong := env.missent(ip, true, env.Stack.mac())
		for _, n := range env.hostNeighbours() {
			if n.ip != ip || len(n.mac) == 0 || slices.Equal(n.mac, env.Stack.mac()) || wrong == nil && n.state&unix.NUD_PERMANENT == 0 {
				continue
			}
			name := env.Host().Attrs().Name
			f.Evidence = append(f.Evidence, fmt.Sprintf("ip neigh: %s dev %s lladdr %s %s", ip, name, n.mac, stateName(n.state)))
			cmd := fmt.Sprintf("ip neigh del %s dev %s", ip, name)
			f.Remedy = append(f.Remedy, cmd+"   # it is then asked for by ARP")
			f.Fix = append(f.Fix, Step{cmd, func() error { return delNeighbour(env.Host(), ip) }})
		}
		f.Evidence = append(f.Evidence, wrong...)
		if len(f.Evidence) == 0 {
			continue
		}
		if n := env.dropsRose("rx_otherhost"); n > 0 {
			f.Evidence = append(f.Evidence, fmt.Sprintf("the stack skipped %d frames for another MAC meanwhile (rx_otherhost)", n))
		}
		if len(f.Remedy) == 0 {
			f.Remedy = append(f.Remedy, fmt.Sprintf("ip neigh flush to %s", ip))
		}
		all = append(all, f)
	}
	host := env.Host()
	for _, p := range env.HostAddrs() {
		ip := p.Addr()
		f := Finding{Title: fmt.Sprintf("the stack sends frames for %s to a MAC that is not the host's %s", ip, host.Attrs().HardwareAddr)}
		for _, n := range env.Stack.Neighbours {
			if n.IP == ip && n.State == "permanent" && n.HardwareAddr != host.Attrs().HardwareAddr.String() {
				f.Evidence = append(f.Evidence, fmt.Sprintf("ustack neigh: %s lladdr %s PERMANENT", ip, n.HardwareAddr))
			}
		}
		if f.Evidence = append(f.Evidence, env.missent(ip, false, host.Attrs().HardwareAddr)...); len(f.Evidence) > 0 {
			if d := env.dropped("OTHERHOST"); d != "" {
				f.Evidence = append(f.Evidence, d)
			} else {
				f.Evidence = append(f.Evidence, "the kernel drops what is for another MAC as OTHERHOST (ip_rcv_core)")
			}
			f.Remedy = []string{fmt.Sprintf("ustack neigh del %s   # it is then asked for by ARP", ip)}
			all = append(all, f)
		}
	}
	return all, nil
}

// missent describes the frames that were seen on the segment with a packet to ip and a
// destination that is not mac.
func (e *Environment) missent(ip netip.Addr, out bool, mac net.HardwareAddr) []string {
	if e.Observed == nil {
		return nil
	}
	for i := range e.Observed.Frames {
		f := &e.Observed.Frames[i]
		if f.Out != out || !out && f.Link != e.Link || len(f.Data) < headerLen || f.Data[0]&1 != 0 || slices.Equal(f.dst(), mac) {
			continue
		}
		if p, ok := parseIP(f.Data, f.Len); ok && p.dst == ip {
			return []string{fmt.Sprintf("on %s: %s", f.Link, describe(f))}
		}
	}
	return nil
}

// findUnanswered looks for addresses that nobody answers for.
func findUnanswered(env *Environment) (all []Finding, err error) {
	if env.Stack == nil {
		return findSilentProgram(env)
	}
	for _, p := range env.Observed.ToHost {
		if p.Answered() || !env.stackLacks(p) {
			continue
		}
		f := Finding{
			Title:    fmt.Sprintf("nobody answers the stack's question who has %s", p.To),
			Evidence: []string{p.String()},
		}
		if asked, answered := env.askedOnTap(p.To); asked > 0 {
			f.Evidence = append(f.Evidence, fmt.Sprintf("%d ARP requests of the stack for %s came out of %s, and %d replies went in", asked, p.To, env.Link, answered))
		}
		if env.isHosts(p.To) {
			f.Title += ", which is the host's own"
			f.Remedy = []string{"see whether something keeps the host from answering: sysctl net.ipv4.conf." + env.Host().Attrs().Name + ".arp_ignore (or of all), arptables, nft list ruleset"}
		} else if env.Master() == nil {
			f.Title += ", its gateway, which the host has not"
			f.Remedy = []string{
				fmt.Sprintf("ip addr add %s dev %s   # nobody but the host is on this tap", env.withBits(p.To), env.Link),
				"or name one of the host's addresses: ustack up --gateway",
			}
		} else {
			f.Title += ", its gateway"
			f.Remedy = []string{"check the address with the router's: ustack route; ustack up --gateway", "see that the router is up and on this segment"}
		}
		all = append(all, f)
	}
	return all, nil
}

// withBits returns ip with the length of the stack's network that it is in.
func (e *Environment) withBits(ip netip.Addr) netip.Prefix {
	for _, p := range e.Stack.prefixes() {
		if p.Contains(ip) {
			return netip.PrefixFrom(ip, p.Bits())
		}
	}
	return netip.PrefixFrom(ip, ip.BitLen())
}

// stackLacks reports whether the stack could not find out the MAC of a neighbour. What
// its table says comes last: a question of the host's may have told it since.
func (e *Environment) stackLacks(p Ping) bool {
	if errors.Is(p.Err, unix.EHOSTUNREACH) {
		return true // a next hop is on the link, so that the stack itself says so
	}
	if asked, answered := e.askedOnTap(p.To); asked > 0 {
		return answered == 0
	}
	if s := e.Observed.StackAfter; s != nil {
		for _, n := range s.Neighbours {
			if n.IP == p.To {
				return slices.Contains([]string{"incomplete", "failed", "none"}, n.State)
			}
		}
	}
	return false
}

// askedOnTap counts the ARP requests for ip that came from the stack, and the replies
// that went to it.
func (e *Environment) askedOnTap(ip netip.Addr) (asked, answered int) {
	for i := range e.Observed.Frames {
		f := &e.Observed.Frames[i]
		a, ok := parseARP(f.Data)
		switch {
		case !ok || f.Link != e.Link:
		case !f.Out && !a.reply && a.target == ip:
			asked++
		case f.Out && a.reply && a.sender == ip:
			answered++
		}
	}
	return asked, answered
}

// findSilentProgram looks for a program that reads but answers for no address that
// the host wants to reach.
func findSilentProgram(env *Environment) ([]Finding, error) {
	if env.Mode != ModeProgram {
		return none()
	}
	if err := env.Observed.WatchErr; err != nil {
		return nil, err
	}
	if len(env.Observed.claims()) > 0 {
		return none()
	}
	expected := slices.Clone(env.Wanted)
	for _, n := range env.hostNeighbours() {
		if n.ip.Is4() && !slices.Contains(expected, n.ip) {
			expected = append(expected, n.ip)
		}
	}
	if len(expected) == 0 {
		return none()
	}
	words := make([]string, len(expected))
	for i, ip := range expected {
		words[i] = ip.String()
	}
	return one(Finding{
		Title: fmt.Sprintf("%s reads frames and answers no ARP request", env.Holder()),
		Evidence: []string{
			fmt.Sprintf("%d frames were read within %v; %d requests each were for %s", env.rose(txPackets), env.Observed.Took.Round(10_000_000), arpTries, strings.Join(words, ", ")),
			fmt.Sprintf("%d frames came back, and no ARP among them", len(env.fromTap())),
		},
		Remedy: []string{
			"see that the program answers ARP for its address, from the MAC that it uses as source",
			"see that it is configured for one of these addresses",
		},
	})
}

// findUnexplained is what is left when pings stay unanswered and no cause was found.
func findUnexplained(env *Environment) ([]Finding, error) {
	var f Finding
	for _, dir := range []struct {
		who   string
		pings []Ping
	}{{"the stack", env.Observed.ToHost}, {"the host", env.Observed.ToStack}} {
		for _, p := range dir.pings {
			if !p.Answered() && !errors.Is(p.Err, os.ErrPermission) && (dir.who == "the host" || env.isHosts(p.To)) {
				f.Evidence = append(f.Evidence, dir.who+": "+p.String())
			}
		}
	}
	if len(f.Evidence) == 0 {
		return none()
	}
	f.Title = "pings stay unanswered, and no cause that is known here"
	for _, d := range env.Observed.Dropped {
		f.Evidence = append(f.Evidence, d.String())
	}
	f.Remedy = []string{"ustack stats; nft list ruleset; sysctl net.ipv4.icmp_echo_ignore_all", "tcpdump -eni " + env.Link}
	return one(f)
}

// isHosts reports whether the host has ip on the tap's segment.
func (e *Environment) isHosts(ip netip.Addr) bool {
	return slices.ContainsFunc(e.HostAddrs(), func(p netip.Prefix) bool { return p.Addr() == ip })
}

func (e *Environment) isHostMAC(mac string) bool {
	return slices.ContainsFunc(e.Links, func(l netlink.Link) bool { return l.Attrs().HardwareAddr.String() == mac })
}

func (e *Environment) nameOf(index int) string {
	if l := e.ByIndex(index); l != nil {
		return l.Attrs().Name
	}
	return fmt.Sprintf("interface %d", index)
}

// stateName is iproute2's word for the state of a neighbour.
func stateName(state int) string {
	for _, s := range []struct {
		bit  int
		name string
	}{
		{unix.NUD_PERMANENT, "PERMANENT"}, {unix.NUD_REACHABLE, "REACHABLE"}, {unix.NUD_STALE, "STALE"}, {unix.NUD_DELAY, "DELAY"},
		{unix.NUD_PROBE, "PROBE"}, {unix.NUD_FAILED, "FAILED"}, {unix.NUD_INCOMPLETE, "INCOMPLETE"},
	} {
		if state&s.bit != 0 {
			return s.name
		}
	}
	return "NONE"
}

func delNeighbour(l netlink.Link, ip netip.Addr) error {
	family := netlink.FAMILY_V6
	if ip.Is4() {
		family = netlink.FAMILY_V4
	}
	return netlink.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: ip.AsSlice(), Family: family})
}
