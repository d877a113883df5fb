package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ustack/ustack/stack"
)

// How long the checks for duplicates may take that an address has to pass before
// it is used, and how long the search for a router.
const (
	checkLimit = 5 * time.Second
	slaacLimit = 15 * time.Second
)

// waitUsable waits until the addresses that were asked for can be used.
func (d *daemon) waitUsable(ctx context.Context) error {
	if err := d.waitAddrs(ctx, checkLimit, func(addrs []stack.Addr) bool {
		for _, a := range addrs {
			if a.Origin == stack.OriginStatic && a.State == stack.AddrTentative {
				return false
			}
		}
		return true
	}); err != nil && ctx.Err() != nil {
		return err
	}
	if d.set.slaac {
		err := d.waitAddrs(ctx, slaacLimit, func(addrs []stack.Addr) bool {
			for _, a := range addrs {
				if a.Origin == stack.OriginSLAAC && a.State == stack.AddrAssigned {
					return true
				}
			}
			return false
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && len(d.set.addrs) == 0 && !d.set.dhcp:
			return fmt.Errorf("link %s: no router advertised a prefix for SLAAC within %v: check that a router is on the link, or give --addr", d.device.Info().Name, slaacLimit)
		case err != nil:
			d.backend.warn(fmt.Sprintf("no router advertised a prefix for SLAAC within %v", slaacLimit))
		}
	}
	if len(d.set.addrs) == 0 && !d.set.dhcp && !d.set.slaac {
		d.backend.warn("the stack has no address: give it one with 'ustack addr add CIDR', or start it with --addr, --dhcp or --slaac")
	}
	return nil
}

// waitAddrs waits until ok is true of the stack's addresses. netstack tells nobody
// when they change.
func (d *daemon) waitAddrs(ctx context.Context, limit time.Duration, ok func([]stack.Addr) bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok(d.stack.Addrs()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-d.stack.Done():
			return d.stack.Err()
		}
	}
	return nil
}
