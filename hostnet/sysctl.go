package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sysctlRoot follows the network namespace of the thread that opens a file.
const sysctlRoot = "/proc/sys/net"

func readSysctl(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}

func writeSysctl(path, value string) error {
	// Not os.WriteFile: the file is there or the sysctl is not.
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n")
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// family returns the directory of c's sysctls below sysctlRoot.
func (c change) family() string {
	if c.Key == keyForward4 {
		return filepath.Join(sysctlRoot, "ipv4")
	}
	return filepath.Join(sysctlRoot, "ipv6")
}

// path returns the file of the sysctl.
func (c change) path() string {
	switch c.Key {
	case keyForward4:
		return filepath.Join(c.family(), "ip_forward")
	case keyForward6:
		return filepath.Join(c.family(), "conf/all/forwarding")
	default:
		return filepath.Join(c.family(), "conf", c.Link, "accept_ra")
	}
}

// saveSide records what turning on forwarding for all overwrites: the setting of
// each interface, and for IPv4 all/accept_redirects, which the kernel makes the
// opposite of forwarding each time (inet_forward_change in net/ipv4/devinet.c). A
// host that does not accept redirects must not begin to when we leave.
func (c *change) saveSide() {
	c.Side = map[string]string{}
	conf := filepath.Join(c.family(), "conf")
	entries, err := os.ReadDir(conf)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Name() == "all" || len(c.Side) >= maxSide-1 {
			continue
		}
		if v, err := readSysctl(filepath.Join(conf, e.Name(), "forwarding")); err == nil && v != "0" && validValue(v) {
			c.Side[e.Name()+"/forwarding"] = v
		}
	}
	if c.Key != keyForward4 {
		return
	}
	if v, err := readSysctl(filepath.Join(conf, "all/accept_redirects")); err == nil && v == "0" {
		c.Side["all/accept_redirects"] = v
	}
}

// restoreSide brings back what saveSide recorded.
func (c *change) restoreSide() error {
	var first error
	for name, want := range c.Side {
		path := filepath.Join(c.family(), "conf", name)
		now, err := readSysctl(path)
		if err == nil && now != want {
			err = writeSysctl(path, want)
		}
		if err != nil && first == nil && !errors.Is(err, fs.ErrNotExist) {
			first = err
		}
	}
	return first
}

// setSysctl makes the sysctl of c have the value c.New, and remembers what it was
// before any ustack changed it. A value for which enough answers true stays.
func (h *Host) setSysctl(c change, enough func(string) bool) error {
	what := fmt.Sprintf("set %s to %s", c.key(), c.New)
	now, err := readSysctl(c.path())
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := h.state.open(!enough(now)); err != nil && !enough(now) {
		return fmt.Errorf("%s: a journal is needed to undo it: %w", what, err)
	}
	held, ok := h.heldByOther(c, h.journal)
	switch {
	case ok:
		c.Old, c.Side = held.Old, held.Side
	case enough(now):
		return nil
	default:
		c.Old = now
		if c.Key != keyAcceptRA {
			c.saveSide()
		}
	}
	err = h.do(c, func() error {
		if enough(now) {
			return nil
		}
		return writeSysctl(c.path(), c.New)
	})
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%s: /proc/sys is read-only here: outside of the container: sysctl -w %s=%s", what, c.key(), c.New)
	}
	if err != nil {
		return needsRoot(what, err, fmt.Sprintf("sysctl -w %s=%s", c.key(), c.New))
	}
	return nil
}

func isOn(v string) bool { return v != "0" }

// setForwarding turns on forwarding for the families in use. An uplink that takes
// its routes from router advertisements goes on doing so only with accept_ra=2
// (Documentation/networking/ip-sysctl.rst), which therefore comes first.
func (h *Host) setForwarding(uplink netlink.Link, v4, v6 bool) error {
	if v4 {
		if err := h.setSysctl(change{Op: opSysctl, Key: keyForward4, New: "1"}, isOn); err != nil {
			return err
		}
	}
	if !v6 {
		return nil
	}
	forward := change{Op: opSysctl, Key: keyForward6, New: "1"}
	now, err := readSysctl(forward.path())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the stack has an IPv6 network, but this host has no IPv6: leave that network out: %w", err)
	}
	if _, ours := h.heldByOther(forward, h.journal); err == nil && isOn(now) && !ours {
		return nil
	}
	ra := change{Op: opSysctl, Key: keyAcceptRA, Link: uplink.Attrs().Name, Index: uplink.Attrs().Index, New: "2"}
	if err := h.setSysctl(ra, func(v string) bool { return v != "1" }); err != nil {
		return err
	}
	if !isOn(now) {
		h.warnLostRoutes(uplink)
	}
	return h.setSysctl(forward, isOn)
}

// warnLostRoutes names the other interfaces whose default route is from a router
// advertisement: the kernel drops those when forwarding goes on
// (rt6_purge_dflt_routers).
func (h *Host) warnLostRoutes(uplink netlink.Link) {
	routes, err := h.nl.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Protocol: unix.RTPROT_RA}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return
	}
	for _, r := range routes {
		if !isDefault(r) || r.LinkIndex == uplink.Attrs().Index {
			continue
		}
		link, err := h.nl.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue
		}
		name := link.Attrs().Name
		if v, err := readSysctl(change{Key: keyAcceptRA, Link: name}.path()); err == nil && v == "1" {
			h.warn("IPv6 forwarding makes the host drop the default route through %s, which a router advertises: sysctl -w net.ipv6.conf.%s.accept_ra=2 keeps it", name, strings.ReplaceAll(name, ".", "/"))
		}
	}
}
