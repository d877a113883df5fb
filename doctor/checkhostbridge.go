package doctor

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// The causes that lie in the bridge that the tap is a port of.
const (
	CausePortBlocked = "bridge-port-blocked"
	CauseVLAN        = "bridge-vlan"
	CauseLACPEaten   = "lacp-eaten"
)

// bridgeChecks look at the tap's bridge.
func bridgeChecks() []Check {
	return []Check{
		{Cause: CausePortBlocked, About: "the tap's bridge forwards what comes from it", Breaks: true, After: noPath(), Find: findPortBlocked},
		{Cause: CauseVLAN, About: "the tap's bridge has the tap in its VLAN", Breaks: true, After: append(noPath(), CausePortBlocked), Find: findVLAN},
		{Cause: CauseLACPEaten, About: "LACP gets through the tap's bridge", Probed: true,
			After: append(append(noPath(), holderCauses()...), CausePortBlocked), Find: findLACPEaten},
	}
}

// stateForwarding is BR_STATE_FORWARDING of include/uapi/linux/if_bridge.h.
const stateForwarding = 3

func portStateName(state uint8) string {
	names := []string{"disabled", "listening", "learning", "forwarding", "blocking"}
	if int(state) < len(names) {
		return names[state]
	}
	return fmt.Sprintf("state %d", state)
}

// findPortBlocked looks for a port whose state drops frames, and for one that may not
// speak with its fellows.
func findPortBlocked(env *Environment) ([]Finding, error) {
	m := env.Master()
	port, ok := env.Network.Ports[env.Link]
	tap := env.Tap()
	if !ok || m == nil || tap.RawFlags&iffLowerUp == 0 {
		return none() // without a carrier a port is disabled until the tap is opened
	}
	bridge := m.Attrs().Name
	if port.State != stateForwarding {
		f := Finding{
			Title: fmt.Sprintf("%s drops what comes from %s and what is for it: the port is %s", bridge, env.Link, portStateName(port.State)),
			Evidence: []string{
				fmt.Sprintf("bridge -d link show dev %s: state %s", env.Link, portStateName(port.State)),
				"only a port that is forwarding takes frames (br_handle_frame in net/bridge/br_input.c)",
			},
		}
		cmd := fmt.Sprintf("bridge link set dev %s state %d", env.Link, stateForwarding)
		switch {
		case port.State == 1 || port.State == 2:
			f.Remedy = []string{
				fmt.Sprintf("wait: STP makes a new port wait for twice the forward delay, 30 s; ip -d link show dev %s says what it is", bridge),
				fmt.Sprintf("ip link set dev %s type bridge stp_state 0   # where no other bridge can close a loop", bridge),
			}
		case env.Mode == ModeProgram:
			f.Remedy = []string{cmd + "   # unless that closes a loop, as where the program is a switch; the kernel's STP answers EBUSY"}
		default:
			f.Remedy = []string{cmd + "   # a stack closes no loop; where the kernel does STP it answers EBUSY, and so has found one"}
			f.Fix = []Step{{cmd, func() error { return setPortState(tap, stateForwarding) }}}
		}
		return one(f)
	}
	if port.Locked {
		return one(Finding{
			Title:    fmt.Sprintf("%s takes no frame from %s: the port is locked", bridge, env.Link),
			Evidence: []string{fmt.Sprintf("bridge -d link show dev %s: locked on: only sources that the bridge's table has for this port may send", env.Link)},
			Remedy: []string{
				fmt.Sprintf("bridge link set dev %s locked off", env.Link),
				fmt.Sprintf("or let the MAC in: bridge fdb replace MAC dev %s master static", env.Link),
			},
		})
	}
	return findIsolated(env, bridge, port)
}

// findIsolated looks for a gateway behind another port that the tap's may not speak to.
func findIsolated(env *Environment, bridge string, port BridgePort) ([]Finding, error) {
	if !port.Isolated || env.Observed == nil || env.Stack == nil {
		return none()
	}
	var others []string
	for _, name := range env.Network.otherPorts(env.Link) {
		if env.Network.Ports[name].Isolated {
			others = append(others, name)
		}
	}
	for _, p := range env.Observed.ToHost {
		if p.Answered() || env.isHosts(p.To) || len(others) == 0 {
			continue
		}
		cmd := fmt.Sprintf("bridge link set dev %s isolated off", env.Link)
		return one(Finding{
			Title: fmt.Sprintf("%s passes nothing between %s and other isolated ports, and the gateway %s does not answer", bridge, env.Link, p.To),
			Evidence: []string{
				p.String(),
				fmt.Sprintf("bridge -d link show: isolated on for %s and for %s", env.Link, strings.Join(others, ", ")),
			},
			Remedy: []string{cmd + "   # or for the port of the gateway"},
		})
	}
	return none()
}

// findVLAN looks for a bridge that filters VLANs and has none for the tap's frames, which
// have no tag, or none that anybody else is in.
func findVLAN(env *Environment) ([]Finding, error) {
	n := &env.Network
	port, ok := n.Ports[env.Link]
	if !ok || !n.Filtering {
		return none()
	}
	bridge := env.Master().Attrs().Name
	f := Finding{Evidence: []string{fmt.Sprintf("bridge vlan show dev %s: %s; vlan_filtering is 1", env.Link, vlanList(port))}}
	if port.PVID == 0 {
		if env.Mode == ModeProgram {
			return none() // which may well send tags
		}
		f.Title = fmt.Sprintf("%s drops the frames of %s, which have no VLAN tag: the port has no VLAN for those", bridge, env.Link)
		f.Remedy = []string{fmt.Sprintf("bridge vlan add dev %s vid 1 pvid untagged   # or the VLAN that it belongs to", env.Link)}
		return one(f)
	}
	shared := slices.Contains(n.OwnVLANs, port.PVID)
	for _, name := range n.otherPorts(env.Link) {
		shared = shared || slices.Contains(n.Ports[name].VLANs, port.PVID)
	}
	if len(env.HostAddrs()) > 0 && env.Stack != nil && slices.ContainsFunc(env.HostAddrs(), func(h netip.Prefix) bool {
		return isGlobal(h) && env.Stack.reachesDirectly(h.Addr())
	}) {
		shared = slices.Contains(n.OwnVLANs, port.PVID)
	}
	if shared {
		return none()
	}
	f.Title = fmt.Sprintf("%s keeps what comes from %s in VLAN %d, in which nobody is who should get it", bridge, env.Link, port.PVID)
	f.Evidence = append(f.Evidence, fmt.Sprintf("bridge vlan show dev %s: %v", bridge, n.OwnVLANs))
	f.Remedy = []string{
		fmt.Sprintf("bridge vlan add dev %s vid %d self   # lets the host take part", bridge, port.PVID),
		fmt.Sprintf("or move the tap to the VLAN of the others: bridge vlan add dev %s vid N pvid untagged", env.Link),
	}
	return one(f)
}

func vlanList(p BridgePort) string {
	if p.PVID == 0 {
		return fmt.Sprintf("%v, without a PVID", p.VLANs)
	}
	return fmt.Sprintf("%v, PVID %d", p.VLANs, p.PVID)
}

// LACP's destination and EtherType, and its subtype (IEEE 802.1AX-2014 sections 6.2.10
// and 6.4.2.3). Its bit in a group_fwd_mask is the last digit of the address.
const (
	slowProtocols = 0x8809
	lacpSubtype   = 1
	lacpBit       = 1 << 2
)

func isLACP(f *Frame) bool {
	return len(f.Data) > headerLen && f.etherType() == slowProtocols && f.Data[headerLen] == lacpSubtype &&
		binary.BigEndian.Uint32(f.Data) == 0x0180c200 && f.Data[4] == 0 && f.Data[5] == 2
}

// findLACPEaten looks for LACP that came in at a port and goes no further: a bridge keeps
// what is for 01:80:c2:00:00:02 unless the port that it came in at says otherwise
// (br_handle_frame). The bridge's own mask cannot have that bit, BR_GROUPFWD_RESTRICTED,
// but a port's can, since Linux 4.15. Where the tap's stack is a plain one, which speaks no
// LACP, a peer's is rightly kept from it.
func findLACPEaten(env *Environment) ([]Finding, error) {
	if err := env.Observed.WatchErr; err != nil {
		return nil, err
	}
	m := env.Master()
	if m == nil || len(env.Network.Ports) == 0 {
		return none()
	}
	var eaten []string
	var evidence []string
	fromTap := false
	for i := range env.Observed.Frames {
		f := &env.Observed.Frames[i]
		port, ok := env.Network.Ports[f.Link]
		if f.Out || !ok || port.GroupForward&lacpBit != 0 || slices.Contains(eaten, f.Link) || !isLACP(f) {
			continue
		}
		fromTap = fromTap || f.Link == env.Link
		eaten = append(eaten, f.Link)
		evidence = append(evidence,
			fmt.Sprintf("LACP came in on %s from %s, and group_fwd_mask of that port is 0x%x, without bit 2", f.Link, f.src(), port.GroupForward))
	}
	if len(eaten) == 0 || !fromTap && env.Mode != ModeProgram {
		return none()
	}
	f := Finding{
		Title:    fmt.Sprintf("%s keeps LACP to itself: what is behind %s does not aggregate with a peer beyond", m.Attrs().Name, strings.Join(eaten, " and behind ")),
		Evidence: evidence,
	}
	// Replies come in at the other port, which has to let them pass, too.
	all := append([]string{env.Link}, env.Network.otherPorts(env.Link)...)
	for _, name := range all {
		port, l := env.Network.Ports[name], env.Interface(name)
		if l == nil || port.GroupForward&lacpBit != 0 {
			continue
		}
		mask := port.GroupForward | lacpBit
		cmd := fmt.Sprintf("ip link set dev %s type bridge_slave group_fwd_mask %d", name, mask)
		f.Remedy = append(f.Remedy, cmd)
		f.Fix = append(f.Fix, Step{cmd, func() error { return netlink.LinkSetBRSlaveGroupFwdMask(l, mask) }})
	}
	if len(all) != 2 {
		// Everybody would get everybody's.
		f.Fix = nil
		f.Remedy = append(f.Remedy, "only for the two ports that belong together: with more, aggregation gets mixed up")
	}
	return one(f)
}
