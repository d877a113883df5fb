package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// The causes that lie in where the host sends its answers.
const (
	CauseRPFilter    = "rp-filter"
	CauseNoRouteBack = "no-route-back"
	CauseQdiscDrop   = "qdisc-drop"
)

// routeCauses are those of this file and of the bridge's that leave the stack without an
// answer.
func routeCauses() []string {
	return []string{CausePortBlocked, CauseVLAN, CauseRPFilter, CauseNoRouteBack, CauseQdiscDrop}
}

// routeChecks look at where the host sends what is for the stack.
func routeChecks() []Check {
	before := slices.Concat(noPath(), holderCauses(), stationCauses(), []string{CausePortBlocked, CauseVLAN})
	return []Check{
		{Cause: CauseRPFilter, About: "the host takes the stack's address for the tap's (rp_filter)", Probed: true, After: before, Find: findRPFilter},
		{Cause: CauseNoRouteBack, About: "the host has a route to the stack", Probed: true, After: slices.Concat(before, []string{CauseRPFilter}), Find: findNoRouteBack},
		{Cause: CauseQdiscDrop, About: "the tap's queue takes what the host sends", Probed: true, After: slices.Concat(before, []string{CauseRPFilter, CauseNoRouteBack}), Find: findQdiscDrop},
	}
}

// strays returns the stack's addresses to which the host's packets take another way
// than over the tap's segment, where that leaves pings unanswered.
func (e *Environment) strays() (all []netip.Addr) {
	host := e.Host()
	if e.Stack == nil || host == nil {
		return nil
	}
	for _, p := range e.Stack.prefixes() {
		ip := p.Addr()
		way, ok := e.Observed.Ways[ip]
		if !ok || way.Err == nil && way.Link == host.Attrs().Name || !e.hostHas(ip.Is4()) {
			continue
		}
		lost := func(ping Ping) bool { return !ping.Answered() && ping.To.Is4() == ip.Is4() }
		if slices.ContainsFunc(e.Observed.ToHost, lost) || slices.ContainsFunc(e.Observed.ToStack, lost) || len(e.Observed.ToHost)+len(e.Observed.ToStack) == 0 {
			all = append(all, ip)
		}
	}
	return all
}

// hostHas reports whether the host has an address of a family on the tap's segment.
func (e *Environment) hostHas(v4 bool) bool {
	return slices.ContainsFunc(e.HostAddrs(), func(h netip.Prefix) bool { return isGlobal(h) && h.Addr().Is4() == v4 })
}

// findRPFilter looks for packets that the kernel drops as the way back to their source
// leads elsewhere: strictly, what comes in where it would not go out
// (fib_validate_source in net/ipv4/fib_frontend.c; RFC 3704). The greater of the
// interface's setting and that of all counts. ARP requests are not answered, either.
func findRPFilter(env *Environment) ([]Finding, error) {
	var f Finding
	host := env.Host()
	for _, ip := range env.strays() {
		name := host.Attrs().Name
		key := "ipv4/conf/" + name + "/rp_filter"
		own, _ := env.Network.sysctl(key)
		all, _ := env.Network.sysctl("ipv4/conf/all/rp_filter")
		way := env.Observed.Ways[ip]
		// Loosely, any way to the source will do.
		if mode := max(own, all); !ip.Is4() || mode != 1 && (mode != 2 || way.Err == nil) {
			continue
		}
		f.Title = fmt.Sprintf("%s drops what comes from the stack, as the host's way to %s is another one (rp_filter)", name, ip)
		f.Evidence = append(f.Evidence,
			fmt.Sprintf("sysctl net.ipv4.conf.%s.rp_filter is %d, of all %d: 1 is strict, the greater one counts", name, own, all),
			fmt.Sprintf("ip route get %s: %s", ip, way))
		if n := env.Observed.Netstat["IPReversePathFilter"]; n > 0 {
			f.Evidence = append(f.Evidence, fmt.Sprintf("the kernel dropped %d packets so meanwhile (IPReversePathFilter in /proc/net/netstat)", n))
		}
		if d := env.dropped("IP_RPFILTER"); d != "" {
			f.Evidence = append(f.Evidence, d)
		}
		step := sysctlStep(key, "2")
		if way.Err != nil {
			step = env.routeStep(ip)
		}
		f.Remedy = append(f.Remedy, step.Command)
		f.Fix = append(f.Fix, step)
		if way.Err == nil {
			f.Remedy = append(f.Remedy, fmt.Sprintf("or lead %s back over %s: see ip route, ip rule", ip, name))
		}
		return one(f)
	}
	return none()
}

func (w Way) String() string {
	if w.Err != nil {
		return w.Err.Error()
	}
	return fmt.Sprintf("dev %s, by the route %s", w.Link, w.Route)
}

// findNoRouteBack looks for a host that has no way to the stack's address, or another
// one.
func findNoRouteBack(env *Environment) (all []Finding, err error) {
	for _, ip := range env.strays() {
		way := env.Observed.Ways[ip]
		host := env.Host().Attrs().Name
		f := Finding{
			Title:    fmt.Sprintf("the host sends what is for the stack's %s to %s, not to %s", ip, way.Link, host),
			Evidence: []string{fmt.Sprintf("ip route get %s: %s", ip, way)},
		}
		if way.Err != nil {
			f.Title = fmt.Sprintf("the host has no route to the stack's %s", ip)
		}
		for _, p := range slices.Concat(env.Observed.ToHost, env.Observed.ToStack) {
			if !p.Answered() && p.To.Is4() == ip.Is4() {
				f.Evidence = append(f.Evidence, p.String())
				break
			}
		}
		f.Evidence = append(f.Evidence, fmt.Sprintf("ip addr show dev %s: %s", host, orNone(addrList(env.HostAddrs()))))
		step := env.routeStep(ip)
		f.Remedy = []string{step.Command}
		if way.Err != nil || way.Route == "default" {
			f.Fix = []Step{step}
		} else {
			f.Remedy = append(f.Remedy, fmt.Sprintf("or, where that is not wanted: ip route del %s dev %s", way.Route, way.Link))
		}
		all = append(all, f)
	}
	return all, nil
}

// routeStep is the step that leads the stack's network to the tap.
func (e *Environment) routeStep(ip netip.Addr) Step {
	network := e.withBits(ip).Masked()
	if way := e.Observed.Ways[ip]; way.Err == nil && way.Route != "default" {
		network = netip.PrefixFrom(ip, ip.BitLen())
	}
	host := e.Host()
	return Step{
		Command: fmt.Sprintf("ip route add %s dev %s", network, host.Attrs().Name),
		Do: func() error {
			return netlink.RouteAdd(&netlink.Route{
				LinkIndex: host.Attrs().Index, Scope: netlink.SCOPE_LINK,
				Dst: &net.IPNet{IP: network.Addr().AsSlice(), Mask: net.CIDRMask(network.Bits(), ip.BitLen())},
			})
		},
	}
}

// findQdiscDrop looks for what the queueing discipline of the tap, or of its bridge,
// dropped. Until the kernel has attached one, right after a tap was opened, the noop
// queue drops all (net/sched/sch_generic.c).
func findQdiscDrop(env *Environment) ([]Finding, error) {
	host := env.Host()
	for _, d := range env.Observed.Dropped {
		if d.Reason != "QDISC_DROP" && d.Reason != "QDISC_OVERLIMIT" || d.Link != env.Link && (host == nil || d.Link != host.Attrs().Name) {
			continue
		}
		f := Finding{Link: d.Link, Evidence: []string{d.String()}}
		kind := env.Network.Qdiscs[d.Link]
		if kind == "" && env.Observed.Before[d.Link].TxPackets == 0 {
			f.Title = fmt.Sprintf("%s was opened so lately that its queue was not there yet: its first frames were dropped", d.Link)
			f.Evidence = append(f.Evidence, fmt.Sprintf("no frame had been sent to %s before, and it had no queueing discipline", d.Link))
			f.Remedy = []string{
				"ask again: what asks by ARP or TCP does so within a second by itself",
				"send first when the interface is RUNNING (IFF_RUNNING; ip link show: state UP or UNKNOWN)",
			}
			return one(f)
		}
		f.Title = fmt.Sprintf("the queue of %s drops what the host sends", d.Link)
		f.Evidence = append(f.Evidence, fmt.Sprintf("tc qdisc show dev %s: %q at the root", d.Link, kind))
		f.Remedy = []string{
			fmt.Sprintf("tc -s qdisc show dev %s   # says which, and how often", d.Link),
			fmt.Sprintf("tc qdisc del dev %s root   # brings the kernel's own back", d.Link),
		}
		return one(f)
	}
	return none()
}
