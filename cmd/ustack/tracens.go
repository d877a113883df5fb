package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/ustack/ustack/trace"
	"github.com/ustack/ustack/trace/kernel"
)

// namedNetNS is where ip-netns(8) has its names.
const namedNetNS = "/run/netns"

// anyHost stands for the daemon's servers where only the syntax of a filter matters.
func anyHost(string) ([]netip.Addr, error) { return []netip.Addr{netip.IPv4Unspecified()}, nil }

// openKernel begins to follow the kernel.
func (t *traceSession) openKernel(begin trace.Record) (err error) {
	cfg := kernel.Config{Via: t.f.via}
	switch {
	case slices.Contains(t.f.netns, "all"):
		cfg.AllNetNS = true
	case len(t.f.netns) > 0:
		for _, name := range t.f.netns {
			ino := netNSOf(filepath.Join(namedNetNS, name))
			if strings.ContainsRune(name, '/') {
				ino = netNSOf(name)
			}
			if ino == 0 {
				return fmt.Errorf("--netns %s: there is no such namespace: see 'ip netns'", name)
			}
			cfg.NetNS = append(cfg.NetNS, ino)
		}
	default:
		cfg.NetNS = pathNetNS(begin.NetNS)
	}
	t.source, err = kernel.Open(cfg)
	if err != nil && len(t.f.netns) == 0 && len(cfg.NetNS) > 1 {
		// Of a peer's namespace tracefs may know nothing: the link's own will do.
		cfg.NetNS = cfg.NetNS[:1]
		if source, own := kernel.Open(cfg); own == nil {
			t.source, err = source, nil
		}
	}
	return err
}

// maxNetNS is how many namespaces are followed, of those kernel.Open takes.
const maxNetNS = 32

// pathNetNS returns the namespaces that frames of a device in the given one may pass: it, and
// those at the other ends of its veth pairs, as far as they can be seen.
func pathNetNS(of uint64) []uint64 {
	if of == 0 {
		return nil // ours
	}
	all := []uint64{of}
	paths := netNSPaths()
	own, ok := paths[of]
	if !ok {
		return all
	}
	ns, err := netns.GetFromPath(own)
	if err != nil {
		return all
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return all
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return all
	}
	var peers []int
	for _, l := range links {
		if id := l.Attrs().NetNsID; l.Type() == "veth" && id >= 0 {
			peers = append(peers, id)
		}
	}
	if len(peers) == 0 {
		return all
	}
	for ino, path := range paths {
		if ino == of || len(all) == maxNetNS {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if id, err := h.GetNetNsIdByFd(int(f.Fd())); err == nil && slices.Contains(peers, id) {
			all = append(all, ino)
		}
		f.Close()
	}
	return all
}

// netNSPaths returns a file of each namespace that can be seen: those with names, and those
// of processes.
func netNSPaths() map[uint64]string {
	paths := make(map[uint64]string)
	add := func(path string) {
		if ino := netNSOf(path); ino != 0 {
			if _, ok := paths[ino]; !ok {
				paths[ino] = path
			}
		}
	}
	named, _ := os.ReadDir(namedNetNS)
	for _, e := range named {
		add(filepath.Join(namedNetNS, e.Name()))
	}
	procs, _ := os.ReadDir("/proc")
	for _, e := range procs {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			add(filepath.Join("/proc", e.Name(), "ns/net"))
		}
	}
	return paths
}
