package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The causes that lie in what the host does with packets that are not its own, and in
// the stack's name servers.
const (
	CauseConntrackFull = "conntrack-full"
	CauseForwardOff    = "ip-forward-off"
	CauseFirewall      = "firewall-drop"
	CauseMasquerade    = "masquerade-missing"
	CauseUnknownBeyond = "no-route-back-beyond"
	CauseDNS           = "dns-unreachable"
)

// filterCauses are those of what the host's kernel lets pass.
func filterCauses() []string { return []string{CauseConntrackFull, CauseForwardOff, CauseFirewall} }

// filterChecks look at what the host's kernel lets pass.
func filterChecks() []Check {
	return []Check{
		{Cause: CauseConntrackFull, About: "the kernel's table of connections has room", After: noPath(), Find: findConntrackFull},
		{Cause: CauseForwardOff, About: "the host forwards for the stack", After: noPath(), Find: findForwardOff},
		{Cause: CauseFirewall, About: "no firewall drops what is the stack's", Probed: true, Find: findFirewall,
			After: slices.Concat(noPath(), holderCauses(), stationCauses(), routeCauses(), []string{CauseConntrackFull, CauseForwardOff})},
	}
}

// forwardChecks look at what becomes of the stack's packets beyond the host, and at the
// name servers.
func forwardChecks() []Check {
	before := slices.Concat(noPath(), holderCauses(), stationCauses(), routeCauses(), filterCauses(), []string{CauseUnanswered})
	with := func(more ...string) []string { return slices.Concat(before, more) }
	return []Check{
		{Cause: CauseMasquerade, About: "the stack's private address does not leave the host", Probed: true,
			After: before, Find: findMasquerade},
		{Cause: CauseUnknownBeyond, About: "routers beyond the host know the way back", Probed: true,
			After: with(CauseMasquerade), Find: findUnknownBeyond},
		{Cause: CauseDNS, About: "the stack's name servers answer", Probed: true,
			After: with(CauseMasquerade, CauseUnknownBeyond), Find: findDNS},
	}
}

// findConntrackFull looks for a full table of connections: the kernel then drops what
// would begin another one (nf_conntrack_alloc in net/netfilter/nf_conntrack_core.c), and
// says "nf_conntrack: table full, dropping packet".
func findConntrackFull(env *Environment) ([]Finding, error) {
	c, rose := env.Network.Conntrack, uint64(0)
	if o := env.Observed; o != nil && o.Conntrack.Max > 0 {
		if o.Conntrack.Dropped > c.Dropped {
			rose = o.Conntrack.Dropped - c.Dropped
		}
		c = o.Conntrack
	}
	if c.Max == 0 || c.Count < c.Max && rose == 0 {
		return none()
	}
	f := Finding{
		Title:    "the kernel's table of connections is full: what begins a new one is dropped",
		Evidence: []string{fmt.Sprintf("nf_conntrack_count is %d, nf_conntrack_max is %d", c.Count, c.Max)},
		Remedy: []string{
			fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d   # outside of containers; it takes memory, 0.4 kB each", 2*c.Max),
			"see whose connections they are: conntrack -L; and how long they stay: sysctl net.netfilter.nf_conntrack_tcp_timeout_established",
		},
	}
	if rose > 0 {
		f.Evidence = append(f.Evidence, fmt.Sprintf("%d packets were dropped so meanwhile (drop in /proc/net/stat/nf_conntrack)", rose))
	}
	return one(f)
}

// findForwardOff looks for a host that is the stack's gateway, knows a way out, and
// forwards nothing. IPv4 has a switch for each interface that a packet comes in at
// (ip_route_input_slow); IPv6 has one for all (ip6_forward).
func findForwardOff(env *Environment) (all []Finding, err error) {
	for _, v4 := range []bool{true, false} {
		r := env.defaultRoute(v4)
		if r == nil || !env.usesHost(v4) {
			continue
		}
		uplink := env.nameOf(r.LinkIndex)
		keys := []string{"ipv6/conf/all/forwarding"}
		if v4 {
			keys = []string{"ipv4/ip_forward", "ipv4/conf/" + env.Host().Attrs().Name + "/forwarding", "ipv4/conf/" + uplink + "/forwarding"}
		}
		for _, key := range keys {
			if v, known := env.Network.sysctl(key); !known || v != 0 {
				continue
			}
			step := sysctlStep(key, "1")
			setting, _, _ := strings.Cut(strings.TrimPrefix(step.Command, "sysctl -w "), "=")
			all = append(all, Finding{
				Title: fmt.Sprintf("the host is the stack's %s gateway and forwards nothing", map[bool]string{true: "IPv4", false: "IPv6"}[v4]),
				Evidence: []string{
					fmt.Sprintf("sysctl %s is 0", setting),
					fmt.Sprintf("the stack's gateway is the host, whose default route leads out of %s", uplink),
				},
				Remedy: []string{step.Command, fmt.Sprintf("or start the daemon with --uplink %s, which masquerades, too", uplink)},
				Fix:    []Step{step},
			})
			break
		}
	}
	return all, nil
}

// about reports whether what the kernel dropped is to or from the stack: by its
// addresses, or, where it is no IP packet, by where it was.
func (e *Environment) about(d *KernelDrop) bool {
	if e.Stack == nil {
		return false
	}
	p, ok := parseIP(d.Frame.Data, d.Frame.Len)
	if !ok {
		return slices.Contains(e.segment(), d.Link)
	}
	return slices.ContainsFunc(e.Stack.prefixes(), func(s netip.Prefix) bool { return s.Addr() == p.src || s.Addr() == p.dst })
}

// findFirewall looks for packets of the probes that netfilter dropped, and for the chains
// that do so.
func findFirewall(env *Environment) ([]Finding, error) {
	var f Finding
	hooks := map[string]bool{}
	seen := false
	for i := range env.Observed.Dropped {
		if d := &env.Observed.Dropped[i]; d.Reason == netfilterDrop && env.about(d) {
			f.Evidence = append(f.Evidence, d.String())
			for _, hook := range env.hooksOf(d) {
				hooks[hook] = true
			}
			seen = true
		}
	}
	for _, p := range env.Observed.ToStack {
		var syscall *os.SyscallError
		if errors.Is(p.Err, unix.EPERM) && !errors.As(p.Err, &syscall) {
			f.Evidence = append(f.Evidence, fmt.Sprintf("the kernel does not let the host send: %s", p.String()))
			hooks["output"], seen = true, true
		}
	}
	for _, b := range env.Observed.Beyond {
		if b.FromHost.Answered() && !b.FromStack.Answered() && (b.Left == nil || b.Returned || seen) && env.gatewayAnswers(b.To.Is4()) {
			f.Evidence = append(f.Evidence, fmt.Sprintf("the host reaches %s over %s, the stack does not: %s", b.To, b.Uplink, b.FromStack.String()))
			switch {
			case b.Left == nil:
				f.Evidence = append(f.Evidence, "its packet did not leave "+b.Uplink)
			case b.Returned:
				f.Evidence = append(f.Evidence, "the answer came back to "+b.Uplink)
			}
			hooks["forward"] = true
		}
	}
	if len(f.Evidence) == 0 {
		return none()
	}
	chains := env.blamed(hooks)
	if len(chains) == 0 && !seen {
		return none() // something else keeps it
	}
	host := env.Host().Attrs().Name
	var names []string
	for _, c := range chains {
		names = append(names, c.chain.String())
		f.Evidence = append(f.Evidence, c.why)
		for _, rule := range c.chain.pass(host, env.Link) {
			f.Remedy = append(f.Remedy, fmt.Sprintf("nft insert rule %s %s", &c.chain, rule))
		}
	}
	if len(names) > 0 {
		f.Title = "a firewall drops what is the stack's: nftables chain " + strings.Join(names, ", or chain ")
		f.Remedy = append(f.Remedy, "or allow it with the tool that made the chain: ufw, firewalld, iptables, Docker's DOCKER-USER")
	} else {
		f.Title = "a firewall drops what is the stack's"
		f.Remedy = []string{"see which: nft list ruleset; iptables-legacy-save; ip6tables-legacy-save; ebtables-legacy-save; tc filter show"}
	}
	return one(f)
}

// pass returns the rules that let the stack's packets through a chain. A bridge's chains
// see its ports, all others the interface that has the host's addresses.
func (c *Chain) pass(host, tap string) []string {
	if c.Family == "bridge" {
		host = tap
	}
	in, out := "iifname "+host, "oifname "+host
	switch c.Hook {
	case "input", "prerouting":
		return []string{in + " accept"}
	case "output", "postrouting":
		return []string{out + " accept"}
	}
	if c.Family == "bridge" {
		return []string{in + " accept", out + " accept"}
	}
	return []string{in + " accept", out + " ct state established,related accept"}
}

// hooksOf says where a packet that was dropped may have been on its way: family and hook of
// nf_tables, by its addresses.
func (e *Environment) hooksOf(d *KernelDrop) []string {
	if len(d.Frame.Data) >= headerLen && d.Frame.etherType() == unix.ETH_P_ARP {
		return []string{"bridge input", "bridge forward", "bridge output", "arp input", "arp output"}
	}
	p, ok := parseIP(d.Frame.Data, d.Frame.Len)
	own := func(ip netip.Addr) bool {
		return slices.ContainsFunc(e.Addrs, func(a netlink.Addr) bool { n, ok := prefixOf(a.IPNet); return ok && n.Addr() == ip })
	}
	switch {
	case ok && own(p.dst):
		return []string{"input"}
	case ok && own(p.src):
		return []string{"output"}
	}
	return []string{"forward"}
}

// gatewayAnswers reports whether the host answers the stack where it is its gateway.
func (e *Environment) gatewayAnswers(v4 bool) bool {
	return slices.ContainsFunc(e.Observed.ToHost, func(p Ping) bool { return p.To.Is4() == v4 && p.Answered() && e.isHosts(p.To) })
}

// A blamed chain may have dropped a packet.
type blamedChain struct {
	chain Chain
	why   string
}

// blamed returns the chains that may have dropped packets at the hooks: those whose
// counters of dropped packets rose, else those that can.
func (e *Environment) blamed(hooks map[string]bool) []blamedChain {
	before := map[string]uint64{}
	for _, c := range e.Network.Chains {
		before[c.String()] = c.Dropped
	}
	chains := e.Observed.Chains
	if chains == nil {
		chains = e.Network.Chains
	}
	var sure, maybe []blamedChain
	for _, c := range chains {
		on := hooks[c.Family+" "+c.Hook] || c.Family != "arp" && (hooks[c.Hook] ||
			c.Hook == "prerouting" && (hooks["input"] || hooks["forward"]) || c.Hook == "postrouting" && (hooks["output"] || hooks["forward"]))
		switch was, known := before[c.String()]; {
		case !on:
		case known && c.Dropped > was:
			sure = append(sure, blamedChain{c, fmt.Sprintf("counters of rules of %s that drop rose by %d meanwhile", &c, c.Dropped-was)})
		case c.DropsRest:
			maybe = append(maybe, blamedChain{c, fmt.Sprintf("chain %s (hook %s) has policy drop", &c, c.Hook)})
		case c.Drops > 0:
			maybe = append(maybe, blamedChain{c, fmt.Sprintf("chain %s (hook %s) has %d rules that drop or reject", &c, c.Hook, c.Drops)})
		}
	}
	if len(sure) > 0 {
		return sure
	}
	return maybe
}

// untranslated returns the pings beyond the host that left it with the stack's own
// address, and to which no answer came.
func (e *Environment) untranslated() (all []Beyond) {
	for _, b := range e.Observed.Beyond {
		if b.FromHost.Answered() && !b.FromStack.Answered() && b.Left != nil && !b.Returned && slices.ContainsFunc(e.Stack.prefixes(), func(p netip.Prefix) bool { return p.Addr() == b.Source }) {
			all = append(all, b)
		}
	}
	return all
}

// shared is the address space of carriers (RFC 6598).
var shared = netip.MustParsePrefix("100.64.0.0/10")

// isPrivate reports whether no router of the Internet knows an address (RFC 1918, RFC 4193).
func isPrivate(ip netip.Addr) bool { return ip.IsPrivate() || shared.Contains(ip) }

// findMasquerade looks for packets that left the uplink with a private source, which
// only who is beyond could lead back.
func findMasquerade(env *Environment) (all []Finding, err error) {
	for _, b := range env.untranslated() {
		if !isPrivate(b.Source) {
			continue
		}
		network := env.withBits(b.Source).Masked()
		f := Finding{
			Title: fmt.Sprintf("packets leave %s with the stack's private address %s, and no answer comes back", b.Uplink, b.Source),
			Link:  b.Uplink,
			Evidence: []string{
				fmt.Sprintf("on %s: %s", b.Uplink, describe(b.Left)),
				fmt.Sprintf("%s answers the host and not the stack: %s", b.To, b.FromStack.String()),
			},
		}
		found := "no chain of nftables has a rule with masquerade or snat"
		for _, c := range env.Network.Chains {
			if c.Translates {
				found = fmt.Sprintf("nftables chain %s translates sources, but not this one", &c)
			}
		}
		f.Evidence = append(f.Evidence, found)
		family := "ip"
		if b.To.Is6() {
			family = "ip6"
		}
		f.Remedy = []string{
			fmt.Sprintf("start the daemon with --uplink %s", b.Uplink),
			fmt.Sprintf("or: nft add table %s nat; nft 'add chain %s nat post { type nat hook postrouting priority srcnat; }'; nft add rule %s nat post oifname %s %s saddr %s masquerade",
				family, family, family, b.Uplink, family, network),
			fmt.Sprintf("or give %s a route back: ip route add %s via the host's address on %s", b.To, network, b.Uplink),
		}
		all = append(all, f)
	}
	return all, nil
}

// findUnknownBeyond looks for the same with a public address: then the router beyond lacks
// a route.
func findUnknownBeyond(env *Environment) (all []Finding, err error) {
	for _, b := range env.untranslated() {
		if isPrivate(b.Source) {
			continue
		}
		all = append(all, Finding{
			Title: fmt.Sprintf("the router %s beyond %s sends no answer back to the stack's %s", b.To, b.Uplink, b.Source),
			Link:  b.Uplink,
			Evidence: []string{
				fmt.Sprintf("on %s: %s", b.Uplink, describe(b.Left)),
				fmt.Sprintf("%s answers the host and not the stack: %s", b.To, b.FromStack.String()),
			},
			Remedy: []string{
				fmt.Sprintf("on the router: ip route add %s via the host's address on %s", env.withBits(b.Source).Masked(), b.Uplink),
				fmt.Sprintf("or start the daemon with --uplink %s, which masquerades", b.Uplink),
			},
		})
	}
	return all, nil
}

// findDNS looks for name servers that do not answer the stack.
func findDNS(env *Environment) (all []Finding, err error) {
	for _, a := range env.Observed.DNS {
		ip := a.Server.Addr()
		f := Finding{Evidence: []string{a.String()}}
		switch {
		case ip.IsLoopback():
			f.Title = fmt.Sprintf("the stack's name server %s is the stack's own loopback, not the host's", a.Server)
			f.Remedy = []string{"name the servers behind it: resolvectl status; cat /run/systemd/resolve/resolv.conf; then ustack up --dns IP"}
		case a.Err == nil:
			// Whatever it says, it was reached: one that knows a local domain alone refuses the root to
			// everybody, and is as healthy as others.
			continue
		case errors.Is(a.Err, unix.ECONNREFUSED) || env.refusedPort(a.Server):
			f.Title = fmt.Sprintf("nobody listens at the stack's name server %s: port unreachable", a.Server)
			f.Remedy = []string{fmt.Sprintf("start the server, and have it listen at %s: ss -lunp", ip), "or name another one: ustack up --dns IP"}
		default:
			f.Title = fmt.Sprintf("the stack's name server %s does not answer", a.Server)
			f.Remedy = []string{"ustack ping " + ip.String() + "   # whether it is there at all", "or name another one: ustack up --dns IP"}
			if !env.usesHost(ip.Is4()) && len(env.Stack.gateways()) == 0 && !env.Stack.reachesDirectly(ip) {
				f.Evidence = append(f.Evidence, "the stack has no gateway: ustack route")
			} else if env.usesHost(ip.Is4()) && !env.Stack.reachesDirectly(ip) && env.defaultRoute(ip.Is4()) == nil {
				f.Evidence = append(f.Evidence, "the host, which is the stack's gateway, has no default route")
			}
		}
		all = append(all, f)
	}
	return all, nil
}
