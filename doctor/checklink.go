package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The causes that lie in the interface itself.
const (
	CauseRemoved      = "device-removed"
	CauseMissing      = "tap-missing"
	CauseNotTap       = "not-a-tap"
	CauseDown         = "interface-down"
	CauseCarrier      = "carrier-off"
	CauseNoARP        = "noarp"
	CauseNotPermitted = "tap-not-permitted"
	CauseSpeed        = "speed-duplex"
)

// linkChecks look at the interface.
func linkChecks() []Check {
	noTap := []string{CauseRemoved, CauseMissing, CauseNotTap}
	return []Check{
		{Cause: CauseRemoved, About: "nobody lost the tap under way", Breaks: true, Find: findRemoved},
		{Cause: CauseMissing, About: "the interface exists", Breaks: true, After: []string{CauseRemoved}, Find: findMissing},
		{Cause: CauseNotTap, About: "the interface is a tap", Breaks: true, After: []string{CauseRemoved, CauseMissing}, Find: findNotTap},
		{Cause: CauseDown, About: "the interface is up", Breaks: true, After: noTap, Find: findDown},
		{Cause: CauseCarrier, About: "the interface has a carrier", Breaks: true, After: append([]string{CauseDown}, noTap...), Find: findCarrier},
		{Cause: CauseNoARP, About: "the interface does ARP", Breaks: true, After: noTap, Find: findNoARP},
		{Cause: CauseNotPermitted, About: "the tap may be opened", After: noTap, Find: findNotPermitted},
		{Cause: CauseSpeed, About: "speed and duplex are known", After: noTap, Find: findSpeed},
	}
}

// findRemoved looks for who has lost the interface: a descriptor of the clone device
// that is attached to none, or a daemon that ended because of it.
func findRemoved(env *Environment) ([]Finding, error) {
	f := Finding{Title: fmt.Sprintf("%s was removed while it was in use", env.Link)}
	gone := env.Stack != nil && env.Mode == ModeDaemon && env.Stack.Link.State == "gone"
	there := env.Interface(env.Link) != nil
	switch {
	case gone:
		f.Evidence = append(f.Evidence, fmt.Sprintf("the daemon, pid %d, says that its link %s is gone", env.Stack.PID, env.Link))
	case there:
		return none()
	}
	if !there {
		f.Evidence = append(f.Evidence, fmt.Sprintf("there is no interface %s any more", env.Link))
	}
	if env.LastEnd != "" {
		f.Evidence = append(f.Evidence, env.LastEnd)
	}
	for _, h := range env.Detached {
		f.Evidence = append(f.Evidence, fmt.Sprintf("%s has a tap's descriptor open that is attached to no interface: reading and writing it is EBADFD", h))
		f.Remedy = append(f.Remedy, fmt.Sprintf("kill %d   # then start it again: a descriptor does not come back", h.PID))
	}
	if !gone && env.LastEnd == "" && len(env.Detached) == 0 {
		return none()
	}
	if gone || env.LastEnd != "" {
		f.Remedy = append(f.Remedy, "ustack up --link tap:"+env.Link+"   # makes it again")
	}
	f.Remedy = append(f.Remedy, "find out who removes it: ip monitor link")
	return one(f)
}

// findMissing looks for a tap that is not there. A daemon would make it.
func findMissing(env *Environment) ([]Finding, error) {
	if env.Interface(env.Link) != nil {
		return none()
	}
	return one(Finding{
		Title:    fmt.Sprintf("there is no interface %s in this network namespace", env.Link),
		Evidence: []string{fmt.Sprintf("%d interfaces are there: %s", len(env.Links), env.names())},
		Remedy: []string{
			"ustack up --link tap:" + env.Link + "   # makes it, and takes it away at its end",
			"ip tuntap add dev " + env.Link + " mode tap user $USER   # makes one that stays",
		},
	})
}

// findNotTap looks for an interface of another kind.
func findNotTap(env *Environment) ([]Finding, error) {
	l := env.Interface(env.Link)
	if env.Tap() != nil {
		return none()
	}
	kind := l.Type()
	if _, ok := l.(*netlink.Tuntap); ok {
		kind = "TUN device, which carries IP packets without an Ethernet header"
	}
	return one(Finding{
		Title:    fmt.Sprintf("%s is no tap but a %s", env.Link, kind),
		Evidence: []string{fmt.Sprintf("rtnetlink says that %s is of type %s", env.Link, l.Type())},
		Remedy:   []string{"name another interface: ustack doctor --link tap:NAME"},
	})
}

// findDown looks for an interface that is down: the tap, or the bridge it is a port of.
// A write to such a tap is EIO (tun_get_user in drivers/net/tun.c), and what the host
// sends to it goes nowhere.
func findDown(env *Environment) (all []Finding, err error) {
	for _, l := range []netlink.Link{env.Interface(env.Link), env.Master()} {
		if l == nil || l.Attrs().RawFlags&iffUp != 0 {
			continue
		}
		name := l.Attrs().Name
		f := Finding{
			Title:    fmt.Sprintf("%s is down on the host, so that no frame gets through", name),
			Link:     name,
			Evidence: []string{fmt.Sprintf("the flags of %s are 0x%x, without UP (0x1)", name, l.Attrs().RawFlags)},
			Remedy:   []string{"ip link set dev " + name + " up"},
			Fix:      []Step{{"ip link set dev " + name + " up", func() error { return netlink.LinkSetUp(l) }}},
		}
		if name == env.Link {
			f.Evidence = append(f.Evidence, "the kernel answers a write to a tap that is down with EIO")
			if env.Stack != nil {
				if n := env.Stack.Link.Drops["tx_down"]; n > 0 {
					f.Evidence = append(f.Evidence, fmt.Sprintf("the stack has lost %d frames that way (tx_down)", n))
				}
				f.restoreGateways(env, l)
			}
		}
		all = append(all, f)
	}
	return all, nil
}

// restoreGateways adds to a finding about an interface that is down what the kernel took
// from it at that: its IPv6 addresses. Where the tap is no port of a bridge the stack's
// gateway can only have been the host.
func (f *Finding) restoreGateways(env *Environment, l netlink.Link) {
	for _, gw := range env.Stack.gateways() {
		if gw.Is4() || gw.IsLinkLocalUnicast() || env.Master() != nil || env.isHosts(gw) {
			continue
		}
		for _, p := range env.Stack.prefixes() {
			if !p.Contains(gw) {
				continue
			}
			addr := netip.PrefixFrom(gw, p.Bits())
			cmd := fmt.Sprintf("ip addr add %s dev %s", addr, l.Attrs().Name)
			f.Remedy = append(f.Remedy, cmd+"   # the kernel took it away with the interface")
			f.Fix = append(f.Fix, Step{cmd, func() error {
				return netlink.AddrAdd(l, &netlink.Addr{
					IPNet: &net.IPNet{IP: gw.AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)}, Flags: unix.IFA_F_NODAD,
				})
			}})
		}
	}
}

// findCarrier looks for a tap that pretends that no cable is in it: its queue is then not
// served. One that nobody holds has none, which opening it cures.
func findCarrier(env *Environment) ([]Finding, error) {
	tap := env.Tap()
	if tap.RawFlags&iffLowerUp != 0 || env.Mode == ModeOwn && env.Stack == nil {
		return none()
	}
	return one(Finding{
		Title: fmt.Sprintf("%s has no carrier although it is held, so that the host sends nothing to it", env.Link),
		Evidence: []string{
			fmt.Sprintf("the flags of %s are 0x%x: UP, without LOWER_UP (0x10000)", env.Link, tap.RawFlags),
			"held by " + orNobody(env.who()),
		},
		Remedy: []string{"ip link set dev " + env.Link + " carrier on   # or TUNSETCARRIER by the program that holds it"},
		Fix:    []Step{{"ip link set dev " + env.Link + " carrier on", func() error { return setCarrier(tap, true) }}},
	})
}

// findNoARP looks for the flag that makes the kernel throw away every ARP packet in
// arp_rcv, without a drop event, and not ask itself (net/ipv4/arp.c).
func findNoARP(env *Environment) (all []Finding, err error) {
	for _, l := range []netlink.Link{env.Interface(env.Link), env.Master()} {
		if l == nil || l.Attrs().RawFlags&iffNoARP == 0 {
			continue
		}
		name := l.Attrs().Name
		all = append(all, Finding{
			Title: fmt.Sprintf("%s does no ARP: the host neither answers nor asks who has an address", name),
			Link:  name,
			Evidence: []string{
				fmt.Sprintf("the flags of %s are 0x%x, with NOARP (0x80)", name, l.Attrs().RawFlags),
				"arp_rcv of the kernel discards ARP packets of such an interface, and counts them nowhere",
			},
			Remedy: []string{"ip link set dev " + name + " arp on"},
			Fix:    []Step{{"ip link set dev " + name + " arp on", func() error { return netlink.LinkSetARPOn(l) }}},
		})
	}
	return all, nil
}

// findNotPermitted looks at why a private stack could not open the tap. That another
// holds it is findHeld's.
func findNotPermitted(env *Environment) ([]Finding, error) {
	if env.OpenErr == nil || errors.Is(env.OpenErr, unix.EBUSY) {
		return none()
	}
	f := Finding{
		Title:    fmt.Sprintf("%s cannot be opened", env.Link),
		Evidence: []string{env.OpenErr.Error()},
		Remedy:   []string{"do what the error says, or run this as root"},
	}
	if tap := env.Tap(); tap.Owner != noOwner {
		f.Evidence = append(f.Evidence, fmt.Sprintf("%s was made for the user %d", env.Link, tap.Owner))
	}
	return one(f)
}

// noOwner is what the kernel says of a tap without an owner (INVALID_UID).
const noOwner = 1<<32 - 1

// findSpeed looks for what keeps a bond from aggregating: by IEEE 802.1AX only full
// duplex ports of one known speed do. A tap says 10000 Mb/s full duplex unless somebody
// changed it.
func findSpeed(env *Environment) ([]Finding, error) {
	e := env.Ethtool[env.Link]
	if !e.Known || e.Speed != 0 && e.Duplex == "full" {
		return none()
	}
	speed := fmt.Sprintf("%d Mb/s", e.Speed)
	if e.Speed == 0 {
		speed = "unknown speed"
	}
	cmd := "ethtool -s " + env.Link + " speed 10000 duplex full autoneg off"
	return one(Finding{
		Title:    fmt.Sprintf("%s says %s, %s duplex: LACP does not aggregate such a port", env.Link, speed, e.Duplex),
		Evidence: []string{fmt.Sprintf("ETHTOOL_GSET of %s: %s, duplex %s", env.Link, speed, e.Duplex)},
		Remedy:   []string{cmd},
		Fix:      []Step{{cmd, func() error { return setSpeed(env.Link, 10000) }}},
	})
}
