package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"github.com/spf13/cobra"
	"github.com/ustack/ustack/control"
)

func (a *app) routeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "route [show]",
		Aliases: []string{"r"},
		Short:   "show, add and delete routes of the stack",
		Long: `Shows the routing table of the stack, with where each route comes from: static,
connected, dhcp or ra (a router advertisement). 'route add' and 'route del' change
it while the stack runs.`,
		Example: `  ustack route
  ustack route add default via 10.0.0.5
  ustack route add 192.0.2.0/24 via 10.0.0.7
  ustack route del 192.0.2.0/24`,
		Args: showArgs(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			routes, err := a.client().Routes(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return writeJSON(a.Stdout, notNil(routes))
			}
			return writeRoutes(a.Stdout, routes)
		},
	}
	a.jsonFlag(cmd)
	change := func(use, short, example string, do func(context.Context, control.Route) error) *cobra.Command {
		return &cobra.Command{
			Use:     use + " default|CIDR [via IP] [dev LINK]",
			Short:   short,
			Example: example,
			Args:    cobra.ArbitraryArgs,
			RunE: func(cmd *cobra.Command, args []string) error {
				r, err := parseRoute(args)
				if err != nil {
					return usagef("route %s: %w", use, err)
				}
				if use == "add" && !r.Gateway.IsValid() && r.Link == "" {
					return usagef("route add %s: say where to: add 'via IP' or 'dev LINK'", args[0])
				}
				return do(cmd.Context(), r)
			},
		}
	}
	cmd.AddCommand(
		change("add", "add a route", "  ustack route add default via 10.0.0.5\n  ustack route add 2001:db8:1::/48 via 2001:db8::1",
			func(ctx context.Context, r control.Route) error { return a.client().AddRoute(ctx, r) }),
		change("del", "delete a route", "  ustack route del default\n  ustack route del 192.0.2.0/24 via 10.0.0.7",
			func(ctx context.Context, r control.Route) error { return a.client().DelRoute(ctx, r) }))
	return cmd
}

// parseRoute reads DST [via IP] [dev LINK], as iproute2 does. "default" is that of
// the gateway's address family, IPv4 without a gateway.
func parseRoute(args []string) (control.Route, error) {
	var r control.Route
	if len(args) == 0 {
		return r, fmt.Errorf("the destination is missing: write default or CIDR")
	}
	for words := args[1:]; len(words) > 0; words = words[2:] {
		if len(words) == 1 {
			return r, fmt.Errorf("nothing follows %q: write 'via IP' or 'dev LINK'", words[0])
		}
		switch words[0] {
		case "via":
			gw, err := netip.ParseAddr(words[1])
			if err != nil || !unicast(gw) {
				return r, fmt.Errorf("via %q: not the IP address of a router", words[1])
			}
			r.Gateway = gw.Unmap()
		case "dev":
			if err := checkIfName(words[1]); err != nil {
				return r, fmt.Errorf("dev %q: %w", words[1], err)
			}
			r.Link = words[1]
		default:
			return r, fmt.Errorf("unknown word %q: write 'via IP' or 'dev LINK'", words[0])
		}
	}
	dst, err := parseDestination(args[0], r.Gateway)
	if err != nil {
		return r, err
	}
	if r.Gateway.IsValid() && r.Gateway.Is4() != dst.Addr().Is4() {
		return r, fmt.Errorf("%s via %s: destination and gateway are of two address families", args[0], r.Gateway)
	}
	r.Dst = dst
	return r, nil
}

func parseDestination(text string, gateway netip.Addr) (netip.Prefix, error) {
	if text == "default" {
		if gateway.Is6() {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0), nil
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), nil
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || p.Addr().Is4In6():
		return p, fmt.Errorf("%q: not a network: write one such as 192.0.2.0/24, or default", text)
	case p != p.Masked():
		return p, fmt.Errorf("%s: bits are set beyond the prefix length: write %s", text, p.Masked())
	}
	return p, nil
}

func writeRoutes(w io.Writer, routes []control.Route) error {
	for _, r := range routes {
		if _, err := fmt.Fprintln(w, routeLine(r)); err != nil {
			return err
		}
	}
	return nil
}

// routeLine prints a route as iproute2 does.
func routeLine(r control.Route) string {
	line := r.Dst.String()
	if r.Dst.Bits() == 0 && r.Gateway.IsValid() {
		line = "default"
	}
	if r.Gateway.IsValid() {
		line += " via " + r.Gateway.String()
	}
	if r.Link != "" {
		line += " dev " + printable(r.Link)
	}
	if r.Origin != "" {
		line += " proto " + printable(r.Origin)
	}
	return line
}
