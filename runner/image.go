package runner

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// An image is what the kernel shows of the stack in the program's network namespace: its
// links, addresses and routes, for programs that look. getaddrinfo with AI_ADDRCONFIG, for
// one, answers only addresses of families that an interface has. No packet ever crosses it,
// for the program has no socket of the kernel to send one.
type image struct {
	nl    *netlink.Handle
	links map[string]netlink.Link // by the stack's name
	addrs map[imageAddr]bool
	route map[imageRoute]bool
}

type imageAddr struct {
	link   string
	prefix netip.Prefix
}

type imageRoute struct {
	link string
	dst  netip.Prefix
	gw   netip.Addr
}

// startImage begins to make the image, if there is to be one, and returns what waits for it.
func startImage(o order) func() (*image, error) {
	if !o.Net {
		return func() (*image, error) { return nil, nil }
	}
	type result struct {
		image *image
		err   error
	}
	made := make(chan result, 1)
	go func() {
		m, err := newImage()
		made <- result{m, err}
	}()
	return func() (*image, error) {
		r := <-made
		return r.image, r.err
	}
}

// newImage brings the loopback interface up.
func newImage() (*image, error) {
	// The kernel is not to add addresses or packets of its own. Without IPv6 it does neither.
	for key, value := range map[string]string{"addr_gen_mode": "1", "accept_dad": "0", "accept_ra": "0"} {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/"+key, []byte(value), 0)
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("rtnetlink", err)
	}
	lo, err := nl.LinkByName("lo")
	if err == nil {
		err = nl.LinkSetUp(lo)
	}
	if err != nil {
		nl.Close()
		return nil, os.NewSyscallError("bring up lo", err)
	}
	return &image{
		nl: nl, links: map[string]netlink.Link{"lo": lo},
		addrs: make(map[imageAddr]bool), route: make(map[imageRoute]bool),
	}, nil
}

// update makes the image that of st. What the kernel refuses is left out: the stack has it
// nevertheless.
func (m *image) update(st control.Status) {
	loopback := make(map[string]bool)
	for _, l := range st.Links {
		if l.Kind == "loopback" {
			loopback[l.Name] = true
		} else if m.links[l.Name] == nil {
			m.links[l.Name] = m.link(l)
		}
	}
	addrs := make(map[imageAddr]bool)
	for _, a := range st.Addrs {
		if !loopback[a.Link] && m.links[a.Link] != nil && a.State != "duplicate" {
			addrs[imageAddr{a.Link, a.Prefix}] = true
		}
	}
	replaceSet(&m.addrs, addrs, func(a imageAddr, add bool) {
		addr := &netlink.Addr{IPNet: ipNet(a.prefix), Flags: unix.IFA_F_NODAD}
		if add {
			_ = m.nl.AddrAdd(m.links[a.link], addr)
		} else {
			_ = m.nl.AddrDel(m.links[a.link], addr)
		}
	})
	routes := make(map[imageRoute]bool)
	for _, r := range st.Routes {
		if loopback[r.Link] || m.links[r.Link] == nil || r.Origin == "connected" {
			continue // the kernel makes those of addresses itself
		}
		routes[imageRoute{r.Link, r.Dst, r.Gateway}] = true
	}
	replaceSet(&m.route, routes, func(r imageRoute, add bool) {
		route := &netlink.Route{LinkIndex: m.links[r.link].Attrs().Index, Dst: ipNet(r.dst)}
		if r.gw.IsValid() {
			route.Gw, route.Flags = r.gw.Unmap().AsSlice(), int(netlink.FLAG_ONLINK)
		} else {
			route.Scope = netlink.SCOPE_LINK
		}
		if add {
			_ = m.nl.RouteAdd(route)
		} else {
			_ = m.nl.RouteDel(route)
		}
	})
}

// replaceSet calls change for what is in one of the sets only, first for what is new, in a
// steady order of no meaning.
func replaceSet[T comparable](have *map[T]bool, want map[T]bool, change func(v T, add bool)) {
	for v := range want {
		if !(*have)[v] {
			change(v, true)
		}
	}
	for v := range *have {
		if !want[v] {
			change(v, false)
		}
	}
	*have = want
}

// link makes an interface that looks like the stack's link: a dummy where the kernel has that, else one
// end of a cable or a tap, else the loopback interface. A tap is the last choice: the process that
// has it open ends later by the time that taking it down needs, the other interfaces go with the
// namespace, behind everybody's back.
func (m *image) link(l control.Link) netlink.Link {
	attrs := func() netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name, a.MTU = l.Name, l.MTU
		a.HardwareAddr, _ = net.ParseMAC(l.HardwareAddr)
		return a
	}
	for _, made := range []netlink.Link{
		&netlink.Dummy{LinkAttrs: attrs()},
		&netlink.Veth{LinkAttrs: attrs(), PeerName: cableEnd(l.Name)},
		&netlink.Tuntap{LinkAttrs: attrs(), Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI, NonPersist: true, Queues: 1},
	} {
		if m.nl.LinkAdd(made) != nil {
			continue
		}
		there, err := m.nl.LinkByName(l.Name)
		if err != nil {
			continue
		}
		a := attrs()
		if !slices.Equal(a.HardwareAddr, there.Attrs().HardwareAddr) && a.HardwareAddr != nil {
			_ = m.nl.LinkSetHardwareAddr(there, a.HardwareAddr)
		}
		if a.MTU > 0 && a.MTU != there.Attrs().MTU {
			_ = m.nl.LinkSetMTU(there, a.MTU)
		}
		_ = m.nl.LinkSetARPOff(there)
		if v, ok := made.(*netlink.Veth); ok {
			if peer, err := m.nl.LinkByName(v.PeerName); err == nil {
				_ = m.nl.LinkSetARPOff(peer)
				_ = m.nl.LinkSetUp(peer)
			}
		}
		if m.nl.LinkSetUp(there) == nil {
			askCarrier(l.Name)
			return there
		}
	}
	return m.links["lo"]
}

// askCarrier asks whether an interface has a carrier (ETHTOOL_GLINK), which makes the kernel act on one
// that has just come: IFF_RUNNING is set when the program looks.
func askCarrier(name string) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_GLINK}
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	req.data = unsafe.Pointer(&value)
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
}

// cableEnd names the other end of a cable.
func cableEnd(name string) string {
	const most = unix.IFNAMSIZ - 1
	return name[:min(len(name), most-5)] + "-peer"
}

func ipNet(p netip.Prefix) *net.IPNet {
	addr := p.Addr().Unmap()
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(p.Bits(), addr.BitLen())}
}
