package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"
	"github.com/ustack/ustack/control"
)

func (a *app) neighCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "neigh [show]",
		Aliases: []string{"neighbour", "neighbor", "n"},
		Short:   "show, add and delete neighbours: the ARP and NDP tables",
		Long: `Shows the neighbours of the stack: IP address, hardware address and the state of
the entry (reachable, stale, delay, probe, incomplete, failed, permanent).
'neigh add' makes a permanent entry, 'neigh del' forgets one.`,
		Example: `  ustack neigh
  ustack neigh add 10.0.0.9 lladdr 02:00:00:00:00:09
  ustack neigh del 10.0.0.9`,
		Args: showArgs(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			neighbours, err := a.client().Neighbours(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return writeJSON(a.Stdout, notNil(neighbours))
			}
			return writeNeighbours(a.Stdout, neighbours)
		},
	}
	a.jsonFlag(cmd)
	cmd.AddCommand(
		&cobra.Command{
			Use:     "add IP lladdr MAC",
			Short:   "add a permanent neighbour",
			Example: "  ustack neigh add 10.0.0.9 lladdr 02:00:00:00:00:09",
			Args:    exactArgs("IP", "lladdr", "MAC"),
			RunE: func(cmd *cobra.Command, args []string) error {
				ip, err := parseNeighbourIP(args[0])
				if err != nil {
					return err
				}
				if args[1] != "lladdr" {
					return usagef("unknown word %q: write 'ustack neigh add IP lladdr MAC'", args[1])
				}
				mac, err := net.ParseMAC(args[2])
				if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
					return usagef("lladdr %q: not the hardware address of a station: write six bytes such as 02:00:00:00:00:09", args[2])
				}
				return a.client().AddNeighbour(cmd.Context(), control.Neighbour{IP: ip, HardwareAddr: mac.String()})
			},
		},
		&cobra.Command{
			Use:     "del IP",
			Short:   "forget a neighbour",
			Example: "  ustack neigh del 10.0.0.9",
			Args:    exactArgs("IP"),
			RunE: func(cmd *cobra.Command, args []string) error {
				ip, err := parseNeighbourIP(args[0])
				if err != nil {
					return err
				}
				return a.client().DelNeighbour(cmd.Context(), ip)
			},
		})
	return cmd
}

func parseNeighbourIP(text string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(text)
	if err != nil || !unicast(ip) {
		return ip, usagef("%q: not the IP address of a neighbour: write one such as 10.0.0.9", text)
	}
	return ip.Unmap().WithZone(""), nil
}

func writeNeighbours(w io.Writer, neighbours []control.Neighbour) error {
	for _, n := range neighbours {
		line := n.IP.String()
		if n.Link != "" {
			line += " dev " + printable(n.Link)
		}
		if n.HardwareAddr != "" {
			line += " lladdr " + printable(n.HardwareAddr)
		}
		if _, err := fmt.Fprintln(w, line, strings.ToUpper(printable(n.State))); err != nil {
			return err
		}
	}
	return nil
}
