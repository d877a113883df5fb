package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Observed is what the probes saw.
type Observed struct {
	// Took is how long the tap was watched.
	Took time.Duration
	// ToHost are pings of the stack to the host's addresses and to its gateways, ToStack
	// those of the host to the stack's addresses.
	ToHost, ToStack []Ping
	// StackAfter is the stack's side after the probes.
	StackAfter *Stack
}

// A prober has probes of one kind sent, in the namespace of the calling thread, and
// puts what they saw into env.Observed. st is nil for ModeProgram.
type prober func(ctx context.Context, cfg *Config, env *Environment, st station)

func probers() []prober {
	return []prober{probePings}
}

// probe sends the probes and puts what they saw into env.Observed.
func probe(ctx context.Context, cfg *Config, env *Environment) (err error) {
	st, err := openStation(ctx, cfg, env)
	if err != nil {
		return err
	}
	if st != nil {
		defer func() { err = errors.Join(err, st.close()) }()
	}
	env.Observed = &Observed{}
	begin := time.Now()
	for _, p := range probers() {
		p(ctx, cfg, env, st)
	}
	if st != nil {
		if env.Observed.StackAfter, err = st.state(ctx); err != nil {
			return err
		}
	}
	env.Observed.Took = time.Since(begin)
	return ctx.Err()
}

// openStation returns the stack's end, nil if a program of which only the frames are
// seen is there.
func openStation(ctx context.Context, cfg *Config, env *Environment) (st station, err error) {
	switch env.Mode {
	case ModeProgram:
		return nil, nil
	case ModeDaemon:
		return daemonStation{cfg.Client, env.Link}, nil
	}
	own, err := startStation(cfg, env)
	if err != nil {
		return nil, fmt.Errorf("doctor: %w", err)
	}
	if env.Stack, err = own.state(ctx); err != nil {
		own.close()
		return nil, err
	}
	return own, nil
}

// probePings has both sides ping each other.
func probePings(ctx context.Context, _ *Config, env *Environment, st station) {
	if st == nil {
		return
	}
	o := env.Observed
	targets := env.nextHops()
	o.ToHost = make([]Ping, len(targets))
	var wg sync.WaitGroup
	for i, to := range targets {
		wg.Go(func() { o.ToHost[i] = pingFromStack(ctx, st, to, 56) })
	}
	// From this thread, which is in the namespace.
	for _, p := range env.Stack.prefixes() {
		if ip := p.Addr(); !ip.IsLinkLocalUnicast() {
			o.ToStack = append(o.ToStack, pingFromHost(ip, pingLimit))
		}
	}
	wg.Wait()
}

// nextHops returns whom the stack sends its frames to: the host's addresses in its
// networks, and its gateways.
func (e *Environment) nextHops() (all []netip.Addr) {
	add := func(ip netip.Addr) {
		if !slices.Contains(all, ip) {
			all = append(all, ip)
		}
	}
	for _, host := range e.HostAddrs() {
		if e.Stack.reachesDirectly(host.Addr()) && !host.Addr().IsLinkLocalUnicast() {
			add(host.Addr())
		}
	}
	for _, gw := range e.Stack.gateways() {
		add(gw)
	}
	return all
}

// gateways returns the next hops of the stack's routes.
func (s *Stack) gateways() (all []netip.Addr) {
	for _, r := range s.Routes {
		if r.Gateway.IsValid() && !slices.Contains(all, r.Gateway) {
			all = append(all, r.Gateway)
		}
	}
	return all
}

// reachesDirectly reports whether the stack has an address in the network of ip.
func (s *Stack) reachesDirectly(ip netip.Addr) bool {
	return slices.ContainsFunc(s.prefixes(), func(p netip.Prefix) bool { return p.Contains(ip) })
}
