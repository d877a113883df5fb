package main

import (
	"context"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"github.com/ustack/ustack/control"
)

func (a *app) addrCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "addr [show]",
		Aliases: []string{"address", "a"},
		Short:   "show, add and delete addresses of the stack",
		Long: `Shows the addresses of the stack: link, address, origin (static, dhcp, slaac,
link-local, loopback) and state (assigned, tentative while it is checked for
duplicates, deprecated, duplicate). 'addr add' and 'addr del' change them while
the stack runs; the host's side and the configuration file stay as they are.`,
		Example: `  ustack addr
  ustack addr add 10.0.0.9/24
  ustack addr del 10.0.0.9/24`,
		Args: showArgs(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			addrs, err := a.client().Addrs(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return writeJSON(a.Stdout, notNil(addrs))
			}
			return writeAddrs(a.Stdout, addrs)
		},
	}
	a.jsonFlag(cmd)
	change := func(use, short string, do func(context.Context, netip.Prefix) error) *cobra.Command {
		return &cobra.Command{
			Use:     use + " CIDR",
			Short:   short,
			Example: "  ustack addr " + use + " 10.0.0.9/24\n  ustack addr " + use + " 2001:db8::9/64",
			Args:    exactArgs("CIDR"),
			RunE: func(cmd *cobra.Command, args []string) error {
				p, err := parseInterfacePrefix(args[0])
				if err != nil {
					return usagef("address %q: %w", args[0], err)
				}
				return do(cmd.Context(), p)
			},
		}
	}
	cmd.AddCommand(
		change("add", "give the stack one more address", func(ctx context.Context, p netip.Prefix) error {
			return a.client().AddAddr(ctx, p)
		}),
		change("del", "take an address from the stack", func(ctx context.Context, p netip.Prefix) error {
			return a.client().DelAddr(ctx, p)
		}))
	return cmd
}

func writeAddrs(w io.Writer, addrs []control.Addr) error {
	var rows [][]string
	for _, addr := range addrs {
		rows = append(rows, addrColumns(addr))
	}
	return writeTable(w, rows)
}

// addrColumns are link, prefix, origin, state and, if it expires, for how long
// the address is valid.
func addrColumns(addr control.Addr) []string {
	row := []string{printable(addr.Link), addr.Prefix.String(), printable(addr.Origin), printable(addr.State)}
	if !addr.ValidUntil.IsZero() {
		row = append(row, "valid "+age(time.Until(addr.ValidUntil)))
	}
	return row
}
