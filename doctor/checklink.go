package doctor

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// The causes that lie in the interface itself.
const (
	CauseMissing = "tap-missing"
	CauseNotTap  = "not-a-tap"
	CauseDown    = "interface-down"
)

// linkChecks look at the interface.
func linkChecks() []Check {
	return []Check{
		{Cause: CauseMissing, About: "the interface exists", Breaks: true, Find: findMissing},
		{Cause: CauseNotTap, About: "the interface is a tap", Breaks: true, After: []string{CauseMissing}, Find: findNotTap},
		{Cause: CauseDown, About: "the interface is up", Breaks: true, After: []string{CauseMissing, CauseNotTap}, Find: findDown},
	}
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
			}
		}
		all = append(all, f)
	}
	return all, nil
}
