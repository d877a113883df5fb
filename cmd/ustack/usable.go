package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ustack/ustack/stack"
)

// usableLimit is how long up waits for a DHCP lease, and for a router's prefix.
const usableLimit = 30 * time.Second

// awaited says what waitUsable waits for.
func (d *daemon) awaited() (what []string) {
	if d.set.dhcp {
		what = append(what, "a lease by DHCP")
	}
	if d.set.slaac {
		what = append(what, "a router's prefix")
	}
	return what
}

// waitUsable waits until the stack has the addresses that were asked for. Static
// ones can be used at once; the stack checks meanwhile whether somebody else has
// them, and warns.
func (d *daemon) waitUsable(stop context.Context) error {
	defer d.backend.await()
	g, ctx := errgroup.WithContext(stop)
	if d.set.dhcp {
		g.Go(func() (err error) {
			name, _ := os.Hostname() // "" sends none
			d.dhcp, err = d.stack.DHCP(ctx, stack.DHCPConfig{Hostname: hostLabel(name), Timeout: usableLimit})
			return err
		})
	}
	if d.set.slaac {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, usableLimit)
			defer cancel()
			err := d.stack.WaitSLAAC(ctx)
			// With another address the stack is of use without a router, which may
			// still come.
			if errors.Is(err, context.DeadlineExceeded) && (len(d.set.addrs) > 0 || d.set.dhcp) {
				d.backend.warn(err.Error())
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		if stop.Err() != nil {
			return stop.Err()
		}
		return err
	}
	if !d.backend.hasAddress() {
		d.log.Warn(noAddress)
	}
	if servers, _ := d.stack.DNS(); len(servers) == 0 && (d.set.dhcp || d.set.slaac) {
		d.backend.warnWhile(func() bool {
			servers, _ := d.stack.DNS()
			return len(servers) == 0
		}, fmt.Sprintf("no DNS server came with the address of %s: names do not resolve: name one with --dns", d.stack.Name()))
	}
	return nil
}

// hostLabel returns the first label of a host name, which is what DHCP servers
// register (RFC 2132 section 3.14).
func hostLabel(name string) string {
	label, _, _ := strings.Cut(name, ".")
	if !isDomain(label) {
		return ""
	}
	return label
}
