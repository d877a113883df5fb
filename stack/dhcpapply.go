package stack

import (
	"fmt"
	"slices"

	"github.com/ustack/ustack/link"
)

// apply makes the stack what a lease says, by difference to the one that is held.
func (c *DHCPClient) apply(l Lease) error {
	s := c.s
	old, held := c.Lease()
	if !held || old.Addr != l.Addr {
		if held { // only the network's length can differ in a renewed lease
			c.removeAddr(old)
		}
		if err := s.addAddr(nicID, l.Addr, OriginDHCP); err != nil {
			c.mu.Lock()
			c.lease, c.held = Lease{}, false
			c.mu.Unlock()
			return fmt.Errorf("lease from %v: %w", l.Server, err)
		}
	}
	s.orig.update(l.Addr.Addr(), func(o *originOf) { o.validUntil = l.Expires.Round(0) })
	for _, r := range old.Routes {
		if !slices.Contains(l.Routes, r) {
			s.delRouteOf(r)
		}
	}
	for i, r := range l.Routes {
		if slices.Contains(old.Routes, r) {
			continue
		}
		if other, ok := s.routeTo(r.Dst); ok { // one that was configured comes first
			s.log.Info("route from DHCP is not needed", "link", s.name, "dst", r.Dst, "gateway", r.Gateway, "have", other.Gateway)
			l.Routes[i].Origin = "" // not ours to remove
			continue
		}
		s.addRoute(nicID, r)
	}
	l.Routes = slices.DeleteFunc(l.Routes, func(r Route) bool { return r.Origin == "" })
	s.dns.learn(OriginDHCP, l.DNS, l.Search)
	c.setMTU(l.MTU)
	c.mu.Lock()
	c.lease, c.held = l, true
	c.mu.Unlock()
	s.log.Info("DHCP lease", "link", s.name, "addr", l.Addr, "server", l.Server, "until", l.Expires)
	if c.cfg.OnLease != nil {
		c.cfg.OnLease(l)
	}
	return nil
}

// drop takes from the stack what came with the lease.
func (c *DHCPClient) drop() {
	c.mu.Lock()
	l, held := c.lease, c.held
	c.lease, c.held = Lease{}, false
	c.mu.Unlock()
	if !held {
		return
	}
	for _, r := range l.Routes {
		c.s.delRouteOf(r)
	}
	c.s.dns.learn(OriginDHCP, nil, nil)
	c.setMTU(0)
	c.removeAddr(l)
}

// removeAddr removes the lease's address, unless the user has done so before.
func (c *DHCPClient) removeAddr(l Lease) {
	if o, ok := c.s.orig.get(l.Addr.Addr()); !ok || o.origin != OriginDHCP {
		return
	}
	if err := c.s.delAddr(l.Addr); err != nil {
		c.s.log.Debug("address of the lease was gone", "link", c.s.name, "err", err)
	}
}

// setMTU sets the MTU in bytes; 0 restores the link's own. One that IPv6 cannot
// live with is passed over while the stack uses IPv6.
func (c *DHCPClient) setMTU(mtu int) {
	if mtu == 0 {
		mtu = c.mtu
	}
	if mtu < link.MinMTU6 && c.s.auto.ipv6 && c.mtu >= link.MinMTU6 {
		c.s.log.Info("MTU from DHCP is too small for IPv6", "link", c.s.name, "mtu", mtu)
		mtu = c.mtu
	}
	if uint32(mtu) == c.s.ep.MTU() {
		return
	}
	if terr := c.s.ns.SetNICMTU(nicID, uint32(mtu)); terr != nil {
		c.s.log.Warn("MTU from DHCP was not taken", "link", c.s.name, "mtu", mtu, "err", errno(terr))
	}
}
