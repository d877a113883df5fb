package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setupBridge makes the tap a port of the bridge.
func (h *Host) setupBridge(tap netlink.Link) error {
	name := h.cfg.Bridge
	br, err := h.nl.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return fmt.Errorf("there is no bridge %s; as root: ip link add %s type bridge && ip link set %s up", name, name, name)
	}
	if err != nil {
		return fmt.Errorf("look up bridge %s: %w", name, err)
	}
	if br.Type() != "bridge" {
		return fmt.Errorf("%s is not a Linux bridge but of type %q", name, br.Type())
	}
	if br.Attrs().Flags&net.FlagUp == 0 {
		h.warn("bridge %s is down and carries nothing; as root: ip link set %s up", name, name)
	}
	switch master := tap.Attrs().MasterIndex; master {
	case br.Attrs().Index:
		return nil
	case 0:
	default:
		other := "#" + strconv.Itoa(master)
		if l, err := h.nl.LinkByIndex(master); err == nil {
			other = l.Attrs().Name
		}
		return fmt.Errorf("put %s into bridge %s: it is a port of %s; as root: ip link set %s nomaster", tap.Attrs().Name, name, other, tap.Attrs().Name)
	}
	if err := h.raiseMAC(tap, br); err != nil {
		return err
	}
	c := change{
		Op: opMaster, Link: tap.Attrs().Name, Index: tap.Attrs().Index,
		Master: name, MasterIndex: br.Attrs().Index,
	}
	if err := h.do(c, func() error { return h.nl.LinkSetMaster(tap, br) }); err != nil {
		return needsRoot(fmt.Sprintf("put %s into bridge %s", tap.Attrs().Name, name), err, c.String())
	}
	h.warnBridgeFilter(name)
	return nil
}

// raiseMAC gives the tap an address that begins with fe:ff:ff if its own is lower than
// the bridge's. A bridge that nobody gave an address takes the lowest of its
// ports' (br_stp_recalculate_bridge_id in net/bridge/br_stp_if.c), and a host
// whose address is on it would be unreachable until its neighbours notice.
func (h *Host) raiseMAC(tap, br netlink.Link) error {
	old := tap.Attrs().HardwareAddr
	if len(old) != 6 || bytes.Compare(old, br.Attrs().HardwareAddr) >= 0 {
		return nil
	}
	high := bytes.Clone(old)
	// Unicast, locally administered, and above those that virtual machines' taps have
	// for the same reason (fe:54:…).
	high[0], high[1], high[2] = 0xfe, 0xff, 0xff
	c := change{
		Op: opMAC, Link: tap.Attrs().Name, Index: tap.Attrs().Index,
		Old: old.String(), New: net.HardwareAddr(high).String(),
	}
	err := h.do(c, func() error { return h.nl.LinkSetHardwareAddr(tap, high) })
	if errors.Is(err, unix.EPERM) {
		return nil // then it cannot become a port either, which says what to do
	}
	if err != nil {
		return needsRoot(fmt.Sprintf("give %s an address above the one of bridge %s", c.Link, br.Attrs().Name), err, c.String())
	}
	return nil
}

// warnBridgeFilter names firewalls that drop what crosses the bridge: br_netfilter
// shows bridged packets to the forward hook of IP, as if the bridge forwarded to
// itself. With Docker, whose policy there is drop, that is the usual state.
func (h *Host) warnBridgeFilter(bridge string) {
	on := func(name string) bool {
		v, err := readSysctl(filepath.Join(sysctlRoot, "bridge", name))
		return err == nil && isOn(v)
	}
	w := way{in: bridge, out: bridge, v4: on("bridge-nf-call-iptables"), v6: on("bridge-nf-call-ip6tables")}
	if w.v4 || w.v6 {
		h.warnForeignDrop(w)
	}
}
