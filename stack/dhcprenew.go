package stack

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// keep renews the lease whenever it is time. It returns why the lease is lost, or
// nil when ctx has ended.
func (c *DHCPClient) keep(ctx context.Context) (lost error) {
	for {
		l, _ := c.Lease()
		if l.Expires.IsZero() {
			<-ctx.Done()
			return nil
		}
		if err := sleepUntil(ctx, l.Renew); err != nil {
			return nil
		}
		refused, err := c.renew(ctx, l)
		switch {
		case ctx.Err() != nil:
			return nil
		case refused != nil:
			return refused
		case err != nil:
			// In the REBINDING state: any server will do.
			c.s.log.Warn("DHCP lease is not renewed", "link", c.s.name, "server", l.Server, "err", err)
			if refused, err = c.rebind(ctx, l); refused != nil {
				return refused
			} else if err != nil {
				return fmt.Errorf("no server has extended it: %w", err)
			}
		}
	}
}

// renew asks the server that gave the lease, until T2.
func (c *DHCPClient) renew(ctx context.Context, l Lease) (refused, err error) {
	return c.extend(ctx, l, l.Rebind, l, func(conn *dhcpConn) func([]byte) error {
		return conn.unicast(ctx, l.Addr.Addr(), l.Server, resolveLimit)
	})
}

// rebind asks all servers, until the lease ends.
func (c *DHCPClient) rebind(ctx context.Context, l Lease) (refused, err error) {
	want := l
	want.Server = netip.Addr{}
	return c.extend(ctx, l, l.Expires, want, func(conn *dhcpConn) func([]byte) error {
		return conn.broadcast(l.Addr.Addr())
	})
}

// extend asks for more time until the deadline, and applies what it gets.
func (c *DHCPClient) extend(ctx context.Context, l Lease, deadline time.Time, want Lease, send func(*dhcpConn) func([]byte) error) (refused, err error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := c.s.openDHCP()
	if err != nil {
		// Somebody else has the port: the lease ends when it does.
		c.s.log.Warn("DHCP client cannot listen", "link", c.s.name, "err", err)
		<-ctx.Done()
		return nil, err
	}
	defer conn.Close()
	request, err := conn.message(c.cfg, dhcpv4.MessageTypeRequest)
	if err != nil {
		return nil, err
	}
	request.ClientIPAddr = l.Addr.Addr().AsSlice()
	// RFC 2131 section 4.4.5: half of what is left, down to 60 s; less where the
	// lease itself is short.
	least := min(time.Minute, l.Expires.Sub(l.Obtained)/8)
	var next Lease
	err = conn.exchange(ctx, dhcpExchange{
		msg: request, send: send(conn),
		wait:   func(int) time.Duration { return max(time.Until(deadline)/2, least) },
		accept: c.verdict(want, &next, &refused),
	})
	if err != nil || refused != nil {
		return refused, err
	}
	return nil, c.apply(next)
}

// decline tells the server that its address is taken (RFC 2131 section 4.4.4).
func (c *DHCPClient) decline(conn *dhcpConn, l Lease) {
	m, err := conn.message(c.cfg, dhcpv4.MessageTypeDecline)
	if err != nil {
		return
	}
	m.UpdateOption(dhcpv4.OptRequestedIPAddress(l.Addr.Addr().AsSlice()))
	m.UpdateOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice()))
	if err := conn.broadcast(netip.IPv4Unspecified())(m.ToBytes()); err != nil {
		c.s.log.Debug("DHCPDECLINE was not sent", "link", c.s.name, "err", err)
	}
}

// release gives the lease back, if one is held, and takes it from the stack.
func (c *DHCPClient) release() {
	l, held := c.Lease()
	if !held {
		return
	}
	c.sendRelease(c.s.dhcpSender(), l)
	c.drop()
}

// sendRelease sends a DHCPRELEASE, which nobody answers.
func (c *DHCPClient) sendRelease(conn *dhcpConn, l Lease) {
	m, err := conn.message(c.cfg, dhcpv4.MessageTypeRelease)
	if err != nil || isClosed(c.s.ep.Done()) {
		return
	}
	m.ClientIPAddr = l.Addr.Addr().AsSlice()
	m.UpdateOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice()))
	send := conn.unicast(context.Background(), l.Addr.Addr(), l.Server, resolveLimit)
	if held, ok := c.Lease(); !ok || held.Addr != l.Addr { // the address was never ours
		send = conn.broadcast(netip.IPv4Unspecified())
	}
	if err := send(m.ToBytes()); err != nil {
		c.s.log.Debug("DHCPRELEASE was not sent", "link", c.s.name, "err", err)
	}
}

// sleepUntil returns ctx's error if it ends first.
func sleepUntil(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
