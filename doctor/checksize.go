package doctor

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// CauseMTU is the cause of sizes that do not fit each other.
const CauseMTU = "mtu-mismatch"

// sizeChecks look at how long a frame may be on the way.
func sizeChecks() []Check {
	return []Check{
		{Cause: CauseMTU, About: "the MTUs agree", After: append(noPath(), CauseOffload), Find: findMTU},
	}
}

// findMTU compares the MTU of the stack with that of the tap and with those of its
// fellow ports: a bridge drops what is too long for a port, and tells nobody
// (is_skb_forwardable in net/bridge/br_forward.c). A stack that sends less than it might
// harms nobody: DHCP may have told it to.
func findMTU(env *Environment) (all []Finding, err error) {
	tap := env.Tap()
	if s := env.Stack; s != nil && s.Link.MTU > tap.MTU {
		f := Finding{
			Title:    fmt.Sprintf("the stack's MTU is %d and that of %s is %d", s.Link.MTU, env.Link, tap.MTU),
			Evidence: []string{fmt.Sprintf("ustack link: mtu %d; ip link show %s: mtu %d", s.Link.MTU, env.Link, tap.MTU)},
		}
		cmd := fmt.Sprintf("ip link set dev %s mtu %d", env.Link, s.Link.MTU)
		f.Remedy = []string{cmd, fmt.Sprintf("or start the daemon again with --mtu %d", tap.MTU)}
		f.Fix = []Step{{cmd, func() error { return netlink.LinkSetMTU(tap, s.Link.MTU) }}}
		all = append(all, f)
	}
	longest := tap.MTU
	if s := env.Stack; s != nil {
		longest = min(longest, s.Link.MTU)
	}
	if m := env.Master(); m != nil {
		for _, port := range env.Ports(m) {
			if a := port.Attrs(); a.MTU < longest {
				all = append(all, Finding{
					Title: fmt.Sprintf("the port %s of %s takes %d bytes, and %s sends up to %d: longer frames are dropped without a word", a.Name, m.Attrs().Name, a.MTU, env.Link, longest),
					Link:  a.Name,
					Evidence: []string{
						fmt.Sprintf("ip link show: %s mtu %d, %s mtu %d", a.Name, a.MTU, env.Link, tap.MTU),
					},
					Remedy: []string{
						fmt.Sprintf("ip link set dev %s mtu %d   # if all that is beyond can take it", a.Name, longest),
						fmt.Sprintf("or start the daemon with --mtu %d", a.MTU),
					},
				})
			}
		}
	}
	if len(all) == 0 && env.Observed != nil {
		for _, p := range env.Observed.Full {
			if !p.Answered() {
				all = append(all, env.tooLong(p))
			}
		}
	}
	if env.Observed != nil && env.Mode == ModeProgram {
		for _, f := range env.fromTap() {
			if f.Len > tap.MTU+headerLen+4 { // 4: a VLAN tag
				return append(all, Finding{
					Title:    fmt.Sprintf("%s writes frames longer than the MTU of %s", env.Holder(), env.Link),
					Evidence: []string{fmt.Sprintf("a frame has %d bytes, and the MTU is %d: %s", f.Len, tap.MTU, describe(f))},
					Remedy:   []string{fmt.Sprintf("have the program keep to %d bytes, or: ip link set dev %s mtu %d", tap.MTU, env.Link, f.Len-headerLen)},
				}), nil
			}
		}
	}
	return all, nil
}

// tooLong is the finding of a ping as long as the MTU that was lost where a short one was not.
func (e *Environment) tooLong(p Ping) Finding {
	return Finding{
		Title: fmt.Sprintf("what is as long as the stack's MTU of %d does not get to %s and back", e.Stack.Link.MTU, p.To),
		Evidence: []string{
			fmt.Sprintf("a ping with 56 bytes is answered; with %d bytes, not to be fragmented: %v (%d times)", p.Size, p.Err, fullTries),
		},
		Remedy: []string{
			"see what is between: ip link shows the MTU of each interface, ping -M do -s SIZE what gets through",
			"or start the daemon with a smaller one: ustack up --mtu N",
		},
	}
}
