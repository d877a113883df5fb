package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/ustack/ustack/control"
)

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show the running stack at a glance, with its warnings",
		Long: `Shows the running stack: process, links, addresses, routes, DNS servers, and the
warnings that came up while it runs, such as a duplicate address or a firewall
that drops what is forwarded. Exit code 1 when no daemon answers.`,
		Example: `  ustack status
  ustack status --json | jq -r .addrs[0].prefix`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := a.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				st.Links, st.Addrs, st.Routes, st.DNS = notNil(st.Links), notNil(st.Addrs), notNil(st.Routes), notNil(st.DNS)
				return writeJSON(a.Stdout, st)
			}
			return writeStatus(a.Stdout, st)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func writeStatus(w io.Writer, st control.Status) error {
	rows := [][]string{{"ustack", fmt.Sprintf("%s, pid %d, up %s", printable(st.Version), st.PID, age(st.Uptime))}}
	for _, l := range st.Links {
		if l.Kind == loopbackKind {
			continue
		}
		rows = append(rows, []string{"link", fmt.Sprintf("%s %s, %s, %s, mtu %d, rx %d frames %s, tx %d frames %s, %d dropped",
			printable(l.Name), strings.ToUpper(l.State), linkKind(l), l.HardwareAddr, l.MTU,
			l.RxFrames, size(l.RxBytes), l.TxFrames, size(l.TxBytes), dropTotal(l))})
	}
	for _, addr := range st.Addrs {
		if addr.Origin == "loopback" {
			continue
		}
		rows = append(rows, []string{"addr", strings.Join(addrColumns(addr)[1:], ", ")})
	}
	for _, r := range st.Routes {
		if r.Origin != "connected" && !isLoopbackRoute(r) {
			rows = append(rows, []string{"route", routeLine(r)})
		}
	}
	dns := strings.Join(st.DNS, ", ")
	if dns == "" {
		dns = "none: names do not resolve"
	}
	if len(st.Search) > 0 {
		dns += "; search " + strings.Join(st.Search, " ")
	}
	rows = append(rows,
		[]string{"dns", printable(dns)},
		[]string{"sockets", fmt.Sprintf("%d, %d held by flows", st.Sockets, st.Flows)})
	for _, warning := range st.Warnings {
		rows = append(rows, []string{"warning", printable(warning)})
	}
	return writeTable(w, rows)
}

// isLoopbackRoute reports whether a route only leads to the stack itself.
func isLoopbackRoute(r control.Route) bool {
	return r.Link == "lo" || r.Dst.Addr().IsLoopback()
}
