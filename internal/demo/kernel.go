package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/ustack/ustack/hostnet"
	"github.com/ustack/ustack/internal/netns"
	"github.com/ustack/ustack/link/tap"
)

// kernelWorld makes two private network namespaces: in the near one the tap, and
// the kernel as a router with NAT; in the far one, on the kernel's sockets, the
// servers. Whatever fails is undone.
func kernelWorld(ctx context.Context, log *slog.Logger) (w *world, err error) {
	w = &world{
		seenAs:  addr(wanAddr),
		command: "ustack up --uplink wan",
		picture: []string{
			"ustack 10.0.0.4 ── tap0 ── 10.0.0.5 router with NAT 203.0.113.1 ── veth ── kernel sockets:",
			"                                          DNS server 203.0.113.53, web server 203.0.113.80",
		},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	near, err := netns.New("near")
	if err != nil {
		return w, err
	}
	w.onClose(func() error { near.Close(); return nil })
	far, err := netns.New("far")
	if err != nil {
		return w, err
	}
	w.onClose(func() error { far.Close(); return nil })

	if err := near.Do(func() error { return setUpNear(w, int(far.File().Fd())) }); err != nil {
		return w, err
	}
	var udp net.PacketConn
	var tcp net.Listener
	err = far.Do(func() error {
		if err := setUpFar(); err != nil {
			return err
		}
		udp, tcp, err = listenFar(ctx)
		return err
	})
	if err != nil {
		return w, err
	}
	internet, err := serve(udp, tcp, addr(siteAddr))
	if err != nil {
		tcp.Close()
		return w, err
	}
	w.onClose(internet.close)

	state, err := os.MkdirTemp("", "ustack-demo-")
	if err != nil {
		return w, err
	}
	w.onClose(func() error { return os.RemoveAll(state) })
	err = near.Do(func() error {
		host, err := hostnet.Setup(hostnet.Config{
			Tap:      w.dev.Info().Name,
			Addrs:    []netip.Prefix{prefix(routerAddr)},
			Explicit: true,
			Uplink:   "wan",
			Networks: []netip.Prefix{prefix(stackAddr)},
			StateDir: state,
			Logger:   log,
		})
		if err != nil {
			return err
		}
		w.onClose(func() error { return near.Do(host.Close) })
		return nil
	})
	return w, err
}

// setUpNear makes the tap and the cable to the far namespace.
func setUpNear(w *world, far int) error {
	// IPv6 would only add frames that are not what the demo is about.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	dev, err := tap.Open(tap.Config{Name: "tap0"})
	if err != nil {
		return err
	}
	w.dev = dev
	w.onClose(dev.Close)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "wan"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(far)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	return addressLink("wan", wanAddr)
}

func setUpFar() error {
	return addressLink("eth0", dnsAddr, siteAddr)
}

// addressLink gives addresses to an interface of the calling thread's namespace
// and brings it up.
func addressLink(name string, addrs ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	for _, text := range addrs {
		a, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("give %s to %s: %w", text, name, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring %s up: %w", name, err)
	}
	return nil
}
