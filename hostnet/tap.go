package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries is how often a listing is asked for again that was changed while it
// was read.
const dumpTries = 5

func list[T any](f func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		if out, err = f(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}

// link returns an interface by its name.
func (h *Host) link(name string) (netlink.Link, error) {
	link, err := h.nl.LinkByName(name)
	if err == nil {
		return link, nil
	}
	if !errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fmt.Errorf("look up interface %s: %w", name, err)
	}
	var names []string
	if links, err := list(h.nl.LinkList); err == nil {
		for _, l := range links {
			names = append(names, l.Attrs().Name)
		}
	}
	return nil, fmt.Errorf("there is no interface %s; there are: %s: %w", name, strings.Join(names, " "), unix.ENODEV)
}

// setupTap gives the tap its MTU and addresses and brings it up.
func (h *Host) setupTap(tap netlink.Link) error {
	attrs := tap.Attrs()
	ref := change{Link: attrs.Name, Index: attrs.Index}
	if want := h.cfg.MTU; want != 0 && attrs.MTU != want {
		c := ref
		c.Op, c.Old, c.New = opMTU, strconv.Itoa(attrs.MTU), strconv.Itoa(want)
		err := h.do(c, func() error { return h.nl.LinkSetMTU(tap, want) })
		what := fmt.Sprintf("set the MTU of %s to %d", attrs.Name, want)
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("%s: %w: see minmtu and maxmtu of: ip -d link show %s", what, err, attrs.Name)
		}
		if isPermission(err) && want < attrs.MTU {
			// The stack can do with less than the link has.
			h.warn("%v; only the stack will use %d", needsRoot(what, err, c.String()), want)
			err = nil
		}
		if err != nil {
			return needsRoot(what, err, c.String())
		}
	}
	if h.cfg.Bridge == "" {
		if err := h.setupAddrs(tap); err != nil {
			return err
		}
	}
	if attrs.Flags&net.FlagUp != 0 {
		return nil
	}
	c := ref
	c.Op = opUp
	if err := h.do(c, func() error { return h.nl.LinkSetUp(tap) }); err != nil {
		return needsRoot("bring up "+attrs.Name, err, c.String())
	}
	return nil
}

// setupAddrs adds the host's addresses that the tap does not have.
func (h *Host) setupAddrs(tap netlink.Link) error {
	addrs, err := list(func() ([]netlink.Addr, error) { return h.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list the host's addresses: %w", err)
	}
	name := tap.Attrs().Name
	for _, want := range h.cfg.Addrs {
		if slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
			p, ok := prefixOf(a.IPNet)
			return ok && a.LinkIndex == tap.Attrs().Index && p == want
		}) {
			continue
		}
		if other, taken, ok := h.conflict(tap, want, addrs); ok {
			switch {
			case other.Addr() == want.Addr() && h.cfg.Explicit:
				return fmt.Errorf("add %v to %s: %s has %v already: choose another --host-addr", want, name, taken, other)
			case h.cfg.Explicit:
				h.warn("the host's address %v on %s overlaps %v on %s: packets for that network may take the wrong interface", want, name, other, taken)
			default:
				h.warn("the host has no address on %s: %v overlaps %v on %s: choose other addresses with --addr and --host-addr", name, want, other, taken)
				continue
			}
		}
		if err := h.addAddr(tap, want); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) addAddr(tap netlink.Link, want netip.Prefix) error {
	name := tap.Attrs().Name
	c := change{Op: opAddr, Link: name, Index: tap.Attrs().Index, Addr: want.String()}
	addr := &netlink.Addr{IPNet: ipNet(want)}
	if want.Addr().Is6() {
		// The one other station is the stack, and duplicate address detection
		// would keep the address from answering it for a second.
		addr.Flags = unix.IFA_F_NODAD
	}
	err := h.do(c, func() error { return h.nl.AddrAdd(tap, addr) })
	what := fmt.Sprintf("add %v to %s", want, name)
	switch {
	case err == nil, errors.Is(err, unix.EEXIST):
		return nil
	case isPermission(err) && !h.cfg.Explicit:
		h.warn("the host has no address %v on %s, which needs CAP_NET_ADMIN; as root: %s", want, name, c)
		return nil
	case isPermission(err):
		return needsRoot(what, err, c.String())
	case want.Addr().Is6() && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EOPNOTSUPP)):
		return fmt.Errorf("%s: IPv6 is off there: sysctl -w net.ipv6.conf.%s.disable_ipv6=0: %w", what, strings.ReplaceAll(name, ".", "/"), err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// conflict finds an address on another interface that is want or whose network
// overlaps want's, and the name of that interface.
func (h *Host) conflict(tap netlink.Link, want netip.Prefix, addrs []netlink.Addr) (other netip.Prefix, name string, ok bool) {
	for _, a := range addrs {
		p, valid := prefixOf(a.IPNet)
		if !valid || a.LinkIndex == tap.Attrs().Index {
			continue
		}
		same := p.Addr() == want.Addr()
		if !same && (ok || p.Addr().IsLinkLocalUnicast() || !p.Overlaps(want)) {
			continue
		}
		other, name, ok = p, "#"+strconv.Itoa(a.LinkIndex), true
		if link, err := h.nl.LinkByIndex(a.LinkIndex); err == nil {
			name = link.Attrs().Name
		}
		if same {
			return other, name, true
		}
	}
	return other, name, ok
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(ip.Unmap(), ones), true
}
