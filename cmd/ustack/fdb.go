package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ustack/ustack/control"
)

func (a *app) fdbCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fdb [show]",
		Short: "show the ports of a switch and where its stations are",
		Long: `Shows each port of the switch of 'ustack bridge', or of 'ustack up --port': state,
frames and bytes each way, every frame that was dropped, by reason, and then the
stations: hardware address, port and the time since they were last heard of.

Reasons that begin with rx_ or tx_ are the wire's; switch_ ones are why the switch
passed a frame from this port to nobody.`,
		Example: `  ustack fdb
  ustack fdb --json`,
		Args: showArgs(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			fdb, err := a.client().FDB(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return writeJSON(a.Stdout, fdb)
			}
			return writeFDB(a.Stdout, fdb)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func writeFDB(w io.Writer, fdb control.FDB) error {
	for i, p := range fdb.Ports {
		head := fmt.Sprintf("%d: %s: %s mtu %d %s", i+1, printable(p.Name), strings.ToUpper(printable(p.State)), p.MTU,
			linkKind(control.Link{Kind: p.Kind, Driver: p.Driver}))
		if p.Isolated {
			head += " isolated"
		}
		head += fmt.Sprintf(" stations %d moves %d flooded %d", p.Stations, p.Moves, p.Flooded)
		if p.Unlearned > 0 {
			head += fmt.Sprintf(" unlearned %d", p.Unlearned)
		}
		if p.Spec != "" {
			head += " spec " + printable(p.Spec)
		}
		if p.Why != "" {
			head += "\n    " + printable(p.Why)
		}
		if _, err := fmt.Fprintln(w, head); err != nil {
			return err
		}
		err := writeTraffic(w, control.Link{
			RxFrames: p.RxFrames, RxBytes: p.RxBytes, TxFrames: p.TxFrames, TxBytes: p.TxBytes, Drops: p.Drops,
		})
		if err != nil {
			return err
		}
	}
	rows := [][]string{{"Station", "Port", "Age"}}
	for _, s := range fdb.Stations {
		rows = append(rows, []string{printable(s.HardwareAddr), printable(s.Port), strconv.Itoa(int(s.Age.Seconds())) + "s"})
	}
	return writeTable(w, rows, 2)
}
