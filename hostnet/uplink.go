package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setupUplink leads the stack's networks outwards: routes back to the tap,
// forwarding, masquerade.
func (h *Host) setupUplink(tap netlink.Link) error {
	uplink, err := h.findUplink(tap)
	if err != nil {
		return err
	}
	name := uplink.Attrs().Name
	h.uplink = name
	if uplink.Attrs().Flags&net.FlagUp == 0 {
		h.warn("uplink %s is down and leads nowhere; as root: ip link set %s up", name, name)
	}
	networks := masked(h.cfg.Networks)
	var v4, v6 bool
	for _, p := range networks {
		v4 = v4 || p.Addr().Is4()
		v6 = v6 || p.Addr().Is6()
		if err := h.routeBack(tap, p); err != nil {
			return err
		}
	}
	if err := h.setForwarding(uplink, v4, v6); err != nil {
		return err
	}
	if err := h.masquerade(tap.Attrs().Name, tap.Attrs().Index, name, networks); err != nil {
		return err
	}
	h.warnForeignDrop(way{in: tap.Attrs().Name, out: name, v4: v4, v6: v6})
	return nil
}

// masked returns the networks once each, without host bits.
func masked(in []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range in {
		if p = p.Masked(); !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// findUplink returns the interface that Config.Uplink means.
func (h *Host) findUplink(tap netlink.Link) (netlink.Link, error) {
	link, err := h.link(h.cfg.Uplink)
	if err == nil || h.cfg.Uplink != UplinkAuto || !errors.Is(err, unix.ENODEV) {
		if err != nil {
			return nil, fmt.Errorf("uplink: %w", err)
		}
		if link.Attrs().Flags&net.FlagLoopback != 0 {
			return nil, fmt.Errorf("uplink: %s is the loopback and leads nowhere", link.Attrs().Name)
		}
		return link, nil
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := list(func() ([]netlink.Route, error) { return h.nl.RouteList(nil, family) })
		if err != nil {
			return nil, fmt.Errorf("uplink: list the routes: %w", err)
		}
		best, found := netlink.Route{}, false
		for _, r := range routes {
			if len(r.MultiPath) > 0 && r.LinkIndex == 0 {
				r.LinkIndex = r.MultiPath[0].LinkIndex
			}
			if !isDefault(r) || r.Type != unix.RTN_UNICAST || r.LinkIndex <= 1 || r.LinkIndex == tap.Attrs().Index {
				continue
			}
			if !found || r.Priority < best.Priority {
				best, found = r, true
			}
		}
		if found {
			link, err := h.nl.LinkByIndex(best.LinkIndex)
			if err != nil {
				return nil, fmt.Errorf("uplink: look up the interface of the default route: %w", err)
			}
			return link, nil
		}
	}
	return nil, errors.New("uplink: the host has no default route: name the interface that leads outwards")
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0 && r.Dst.IP.IsUnspecified()
}

// routeBack makes sure that packets for a network of the stack's go to the tap.
func (h *Host) routeBack(tap netlink.Link, p netip.Prefix) error {
	name := tap.Attrs().Name
	family := netlink.FAMILY_V4
	if p.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	routes, err := list(func() ([]netlink.Route, error) { return h.nl.RouteList(nil, family) })
	if err != nil {
		return fmt.Errorf("list the routes: %w", err)
	}
	for _, r := range routes {
		dst, ok := prefixOf(r.Dst)
		if !ok || r.Type != unix.RTN_UNICAST {
			continue
		}
		if r.LinkIndex == tap.Attrs().Index && dst.Bits() <= p.Bits() && dst.Bits() > 0 && dst.Overlaps(p) {
			return nil
		}
		if dst == p && r.LinkIndex != tap.Attrs().Index {
			other := "#"
			if l, err := h.nl.LinkByIndex(r.LinkIndex); err == nil {
				other = l.Attrs().Name
			}
			h.warn("answers for the stack's network %v go to %s, not to %s: choose another network with --addr and --host-addr", p, other, name)
			return nil
		}
	}
	c := change{Op: opRoute, Link: name, Index: tap.Attrs().Index, Addr: p.String()}
	err = h.do(c, func() error { return h.nl.RouteAdd(tapRoute(tap, p)) })
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return needsRoot(fmt.Sprintf("route %v to %s", p, name), err, c.String())
	}
	return nil
}
