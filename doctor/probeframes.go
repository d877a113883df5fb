package doctor

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// markerType is the EtherType of the marker: IEEE 802's first for local experiments
// (RFC 9542 section 3).
const markerType = 0x88b5

// probeMarker sends one frame that no program knows, to a program that holds the tap:
// whether it is read shows in the tap's counters, and whether it comes back in the frames.
func probeMarker(_ context.Context, p *probing) {
	tap := p.env.Tap()
	if p.env.Mode != ModeProgram || tap == nil || p.env.Observed.WatchErr != nil {
		return
	}
	b := make([]byte, 64)
	for i := range 6 {
		b[i] = 0xff
	}
	copy(b[6:], tap.HardwareAddr)
	binary.BigEndian.PutUint16(b[12:], markerType)
	rand.Read(b[headerLen:])
	p.env.Observed.Marker = b
	if p.env.Observed.SendErr = inject(p.env.Link, b); p.env.Observed.SendErr != nil {
		p.env.notef("a frame could not be sent to %s: %v", p.env.Link, p.env.Observed.SendErr)
		return
	}
	// A queue that nobody reads may have been filled meanwhile.
	p.last = append(p.last, func() { p.env.Observed.SendErr = inject(p.env.Link, b) })
}

// How often an address is asked for, and how long between.
const (
	arpTries = 3
	arpWait  = 300 * time.Millisecond
)

// probeARP asks from the host's side who has the addresses of the segment. On a tap
// that was just opened the first frames may get lost, so it asks more than once.
func probeARP(ctx context.Context, p *probing) {
	host := p.env.Host()
	if host == nil || p.env.Observed.WatchErr != nil {
		return
	}
	targets := p.env.arpTargets(p.cfg)
	if len(targets) == 0 {
		return
	}
	p.env.Observed.Asked = targets
	fd, err := packetSocket(host.Attrs().Name, 0)
	if err != nil {
		return // what cannot be asked has no answers
	}
	mac := host.Attrs().HardwareAddr
	p.Go(func() {
		defer unix.Close(fd)
		for range arpTries {
			for _, to := range targets {
				var sender netip.Addr // none: a probe (RFC 5227 section 1.1)
				if p.env.Mode == ModeProgram && !p.env.isHosts(to) {
					sender = p.env.hostAddrFor(to) // a program may know no probes
				}
				unix.Write(fd, arpRequest(mac, sender, to))
			}
			sleep(ctx, arpWait)
		}
	})
}

// arpTargets returns the IPv4 addresses to ask for: the stack's, its gateways', the
// host's own, in case that another has them; for a program, what is known of it.
func (e *Environment) arpTargets(cfg *Config) (all []netip.Addr) {
	add := func(ip netip.Addr) {
		if ip = ip.Unmap(); ip.Is4() && !ip.IsUnspecified() && !slices.Contains(all, ip) && len(all) < 64 {
			all = append(all, ip)
		}
	}
	for _, p := range cfg.Addrs {
		add(p.Addr())
	}
	if e.Stack != nil {
		for _, p := range e.Stack.prefixes() {
			add(p.Addr())
		}
		for _, gw := range e.Stack.gateways() {
			add(gw)
		}
	}
	for _, p := range e.HostAddrs() {
		if !p.Addr().IsLinkLocalUnicast() {
			add(p.Addr())
		}
	}
	if e.Mode == ModeProgram {
		for _, n := range e.hostNeighbours() {
			add(n.ip)
		}
		for _, p := range e.HostAddrs() {
			if ip, ok := freeIn(p, e); ok && p.Addr().Is4() && len(cfg.Addrs) == 0 {
				add(ip)
			}
		}
	}
	return all
}

// hostAddrFor returns the host's address in the network of ip, not valid if there is
// none.
func (e *Environment) hostAddrFor(ip netip.Addr) netip.Addr {
	for _, p := range e.HostAddrs() {
		if p.Contains(ip) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// A hostNeighbour is an entry of the host's ARP and NDP tables on the tap's segment.
type hostNeighbour struct {
	ip    netip.Addr
	mac   net.HardwareAddr
	state int
}

func (e *Environment) hostNeighbours() (all []hostNeighbour) {
	host := e.Host()
	if host == nil {
		return nil
	}
	for _, n := range e.Neighbours {
		ip, ok := netip.AddrFromSlice(n.IP)
		if ok && n.LinkIndex == host.Attrs().Index && n.State&unix.NUD_NOARP == 0 {
			all = append(all, hostNeighbour{ip.Unmap(), n.HardwareAddr, n.State})
		}
	}
	return all
}

// A claim is what a frame says of who has an address.
type claim struct {
	ip   netip.Addr
	mac  string
	link string // where the frame came in
}

// claims returns who claimed which IPv4 address by ARP, each once.
func (o *Observed) claims() (all []claim) {
	if o == nil {
		return nil
	}
	for i := range o.Frames {
		f := &o.Frames[i]
		a, ok := parseARP(f.Data)
		if !ok || f.Out || a.sender.IsUnspecified() {
			continue
		}
		c := claim{a.sender, a.senderMAC.String(), f.Link}
		if !slices.ContainsFunc(all, func(d claim) bool { return d.ip == c.ip && d.mac == c.mac }) {
			all = append(all, c)
		}
	}
	return all
}

// fromTap returns the frames that came out of the tap, as the stack wrote them.
func (e *Environment) fromTap() (all []*Frame) {
	if e.Observed == nil {
		return nil
	}
	for i := range e.Observed.Frames {
		if f := &e.Observed.Frames[i]; f.Link == e.Link && !f.Out && len(f.Data) >= headerLen {
			all = append(all, f)
		}
	}
	return all
}

// rose returns by how much a counter of the tap rose during the probes.
func (e *Environment) rose(counter func(*netlink.LinkStatistics) uint64) uint64 {
	before, after := e.Observed.Before[e.Link], e.Observed.After[e.Link]
	if a, b := counter(&after), counter(&before); a > b {
		return a - b
	}
	return 0
}

// dropsRose returns by how much one of the stack's drop counters rose.
func (e *Environment) dropsRose(reason string) uint64 {
	if e.Observed == nil || e.Stack == nil || e.Observed.StackAfter == nil {
		return 0
	}
	if a, b := e.Observed.StackAfter.Link.Drops[reason], e.Stack.Link.Drops[reason]; a > b {
		return a - b
	}
	return 0
}
