package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// askLimit is how long the daemon may take for one answer.
const askLimit = 3 * time.Second

// A gatherer puts one part into the Environment, in the namespace of the calling
// thread. What it cannot look at is a note, not an error.
type gatherer func(ctx context.Context, cfg *Config, env *Environment)

func gatherers() []gatherer {
	return []gatherer{gatherNetwork, gatherEthtool, gatherHolders, gatherHostNetwork}
}

// gather takes the snapshot. st is the status of the daemon on the link, if one
// answers.
func gather(ctx context.Context, cfg *Config, st *control.Status) (*Environment, error) {
	env := &Environment{Link: cfg.Link.Name, Mode: ModeOwn, LastEnd: cfg.LastEnd, Program: cfg.Program}
	for _, p := range cfg.Addrs {
		env.Wanted = append(env.Wanted, p.Addr())
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("doctor: list the interfaces: %w", err)
	}
	env.Links = links
	for _, g := range gatherers() {
		g(ctx, cfg, env)
	}
	switch {
	case st != nil:
		env.Mode = ModeDaemon
		if env.Stack, err = askDaemon(ctx, cfg.Client, st, env.Link); err == nil && st.DNSBorrowed {
			env.leaveOutServers()
		}
	case len(env.Holders) > 0:
		env.Mode = ModeProgram
		if slices.ContainsFunc(env.Holders, func(h Holder) bool { return h.PID == cfg.pid }) {
			env.Program = true // a daemon that switches frames, and has its stack elsewhere
		}
	}
	if cfg.askErr != nil && !errors.Is(cfg.askErr, control.ErrNoDaemon) {
		env.notef("the daemon was not asked: %v", cfg.askErr)
	}
	return env, err
}

// gatherNetwork lists addresses, routes and neighbours.
func gatherNetwork(_ context.Context, _ *Config, env *Environment) {
	var err error
	if env.Addrs, err = netlink.AddrList(nil, netlink.FAMILY_ALL); err != nil {
		env.notef("addresses: %v", err)
	}
	all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	if env.Routes, err = netlink.RouteListFiltered(netlink.FAMILY_ALL, all, netlink.RT_FILTER_TABLE); err != nil {
		env.notef("routes: %v", err)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		neighbours, err := netlink.NeighList(0, family)
		if err != nil {
			env.notef("neighbours: %v", err)
		}
		env.Neighbours = append(env.Neighbours, neighbours...)
	}
}

// askDaemon takes the stack's side from the daemon.
func askDaemon(ctx context.Context, c *control.Client, st *control.Status, name string) (*Stack, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	s := &Stack{PID: st.PID, Addrs: st.Addrs, Routes: st.Routes, DNS: parseServers(st.DNS)}
	for _, l := range st.Links {
		if l.Name == name {
			s.Link = l
		}
	}
	stats, err := c.Stats(ctx)
	if err != nil {
		return nil, fmt.Errorf("doctor: counters of the daemon: %w", err)
	}
	s.Counters = stats.Counters
	if s.Neighbours, err = c.Neighbours(ctx); err != nil {
		return nil, fmt.Errorf("doctor: neighbours of the daemon: %w", err)
	}
	return s, nil
}

func parseServers(all []string) (servers []netip.AddrPort) {
	for _, s := range all {
		if ap, err := netip.ParseAddrPort(s); err == nil {
			servers = append(servers, ap)
		}
	}
	return servers
}
