package netlab

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link returns an interface of the namespace.
func (ns *NS) Link(t testing.TB, ifname string) netlink.Link {
	t.Helper()
	l, err := ns.nl.LinkByName(ifname)
	if err != nil {
		t.Fatalf("netlab: %s: find %s: %v", ns.name, ifname, err)
	}
	return l
}

// HasLink reports whether the namespace has the interface.
func (ns *NS) HasLink(ifname string) bool {
	_, err := ns.nl.LinkByName(ifname)
	return err == nil
}

// MAC returns the hardware address of an interface.
func (ns *NS) MAC(t testing.TB, ifname string) net.HardwareAddr {
	t.Helper()
	return ns.Link(t, ifname).Attrs().HardwareAddr
}

// Veth makes a cable: aName in a, bName in b, both up. Their IPv6 link-local addresses
// are usable at once, without the check for duplicates.
func Veth(t testing.TB, a *NS, aName string, b *NS, bName string) {
	t.Helper()
	la := netlink.NewLinkAttrs()
	la.Name = aName
	v := &netlink.Veth{
		LinkAttrs:     la,
		PeerName:      bName,
		PeerNamespace: netlink.NsFd(int(b.ns.File().Fd())),
	}
	if err := a.nl.LinkAdd(v); err != nil {
		t.Fatalf("netlab: make veth %s:%s – %s:%s: %v", a.name, aName, b.name, bName, err)
	}
	for _, end := range []struct {
		ns     *NS
		ifname string
	}{{a, aName}, {b, bName}} {
		end.ns.Sysctl(t, "net.ipv6.conf."+strings.ReplaceAll(end.ifname, ".", "/")+".accept_dad", "0")
		end.ns.Up(t, end.ifname)
	}
}

// Addr gives an interface an address with prefix length, usable at once: IPv6
// addresses skip the check for duplicates.
func (ns *NS) Addr(t testing.TB, ifname, cidr string) {
	t.Helper()
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatalf("netlab: address %q: %v", cidr, err)
	}
	if a.IP.To4() == nil {
		a.Flags |= unix.IFA_F_NODAD
	}
	link := ns.Link(t, ifname)
	if err := ns.nl.AddrAdd(link, a); err != nil {
		t.Fatalf("netlab: %s: add %s to %s: %v", ns.name, cidr, ifname, err)
	}
	if a.IP.To4() != nil || link.Attrs().Flags&net.FlagUp == 0 {
		return
	}
	// The kernel begins to answer for an IPv6 address a little later.
	WaitFor(t, 5*time.Second, cidr+" to become usable", func() bool {
		routes, err := ns.nl.RouteGet(a.IP)
		return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
	})
}

// Up brings an interface up.
func (ns *NS) Up(t testing.TB, ifname string) {
	t.Helper()
	if err := ns.nl.LinkSetUp(ns.Link(t, ifname)); err != nil {
		t.Fatalf("netlab: %s: set %s up: %v", ns.name, ifname, err)
	}
}

// Down brings an interface down.
func (ns *NS) Down(t testing.TB, ifname string) {
	t.Helper()
	if err := ns.nl.LinkSetDown(ns.Link(t, ifname)); err != nil {
		t.Fatalf("netlab: %s: set %s down: %v", ns.name, ifname, err)
	}
}

// Route adds a route; dst is a prefix or "default" for the address family of via.
func (ns *NS) Route(t testing.TB, dst, via string) {
	t.Helper()
	gw, err := netip.ParseAddr(via)
	if err != nil {
		t.Fatalf("netlab: route via %q: %v", via, err)
	}
	if dst == "default" {
		dst = "0.0.0.0/0"
		if gw.Is6() {
			dst = "::/0"
		}
	}
	_, p, err := net.ParseCIDR(dst)
	if err != nil {
		t.Fatalf("netlab: route to %q: %v", dst, err)
	}
	if err := ns.nl.RouteAdd(&netlink.Route{Dst: p, Gw: gw.AsSlice()}); err != nil {
		t.Fatalf("netlab: %s: add route %s via %s: %v", ns.name, dst, via, err)
	}
}

// Bridge makes a Linux bridge that is up and forwards at once, with ports in it.
func (ns *NS) Bridge(t testing.TB, name string, ports ...string) {
	t.Helper()
	la := netlink.NewLinkAttrs()
	la.Name = name
	br := &netlink.Bridge{LinkAttrs: la}
	if err := ns.nl.LinkAdd(br); err != nil {
		t.Fatalf("netlab: %s: make bridge %s: %v", ns.name, name, err)
	}
	ns.Sysctl(t, "net.ipv6.conf."+strings.ReplaceAll(name, ".", "/")+".accept_dad", "0")
	ns.Up(t, name)
	for _, p := range ports {
		if err := ns.nl.LinkSetMaster(ns.Link(t, p), br); err != nil {
			t.Fatalf("netlab: %s: add %s to %s: %v", ns.name, p, name, err)
		}
		ns.Up(t, p)
	}
}

// Tap makes a persistent tap that the user uid may open without a capability;
// uid -1 leaves it without an owner. It is down.
func (ns *NS) Tap(t testing.TB, name string, uid int) {
	t.Helper()
	ns.tap(t, name, uid, 0)
}

// MultiQueueTap is Tap for a tap that is opened with several queues; it cannot be
// opened with one.
func (ns *NS) MultiQueueTap(t testing.TB, name string, uid int) {
	t.Helper()
	ns.tap(t, name, uid, unix.IFF_MULTI_QUEUE)
}

func (ns *NS) tap(t testing.TB, name string, uid int, flags uint16) {
	t.Helper()
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatalf("netlab: tap %q: %v", name, err)
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | flags)
	ns.Do(t, func() {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatalf("netlab: open /dev/net/tun: %v", err)
		}
		defer unix.Close(fd)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			t.Fatalf("netlab: %s: make tap %s: %v", ns.name, name, err)
		}
		if uid >= 0 {
			if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, uid); err != nil {
				t.Fatalf("netlab: %s: give tap %s to uid %d: %v", ns.name, name, uid, err)
			}
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
			t.Fatalf("netlab: %s: make tap %s persistent: %v", ns.name, name, err)
		}
	})
}
