package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/ustack/ustack/control"
)

func (a *app) linkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "link [show] [LINK]",
		Aliases: []string{"l"},
		Short:   "show the stack's links, their traffic and what they dropped, with the reason",
		Long: `Shows each link of the stack: name, state, hardware address, MTU, driver, the
offloads it takes, frames and bytes each way, and every frame that was dropped,
by reason: rx is towards the stack, tx towards the wire.`,
		Example: `  ustack link
  ustack link show tap0
  ustack link --json`,
		Args: showArgs("LINK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			links, err := a.client().Links(cmd.Context())
			if err != nil {
				return err
			}
			if name := showArg(args); name != "" {
				links = slices.DeleteFunc(links, func(l control.Link) bool { return l.Name != name })
				if len(links) == 0 {
					return fmt.Errorf("link %q does not exist in the stack: 'ustack link' lists them", name)
				}
			}
			if a.json {
				return writeJSON(a.Stdout, notNil(links))
			}
			return writeLinks(a.Stdout, links)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func writeLinks(w io.Writer, links []control.Link) error {
	for i, l := range links {
		head := fmt.Sprintf("%d: %s: %s mtu %d %s", i+1, printable(l.Name), strings.ToUpper(l.State), l.MTU, linkKind(l))
		if l.HardwareAddr != "" {
			head += " lladdr " + l.HardwareAddr
		}
		if l.Queues > 0 {
			head += fmt.Sprintf(" queues %d", l.Queues)
		}
		if l.OffloadsRX+l.OffloadsTX != "" {
			head += fmt.Sprintf(" offloads rx %s tx %s", orNone(l.OffloadsRX), orNone(l.OffloadsTX))
		}
		if l.Spec != "" {
			head += " spec " + printable(l.Spec)
		}
		if _, err := fmt.Fprintln(w, head); err != nil {
			return err
		}
		if err := writeTraffic(w, l); err != nil {
			return err
		}
	}
	return nil
}

// writeTraffic prints a link's frames and bytes, and what it dropped, by reason.
func writeTraffic(w io.Writer, l control.Link) error {
	rows := [][]string{
		{"   ", "", "frames", "bytes", "dropped"},
		{"   ", "RX", strconv.FormatUint(l.RxFrames, 10), strconv.FormatUint(l.RxBytes, 10), strconv.FormatUint(dropsOf(l, "rx_"), 10)},
		{"   ", "TX", strconv.FormatUint(l.TxFrames, 10), strconv.FormatUint(l.TxBytes, 10), strconv.FormatUint(dropsOf(l, "tx_"), 10)},
	}
	if err := writeTable(w, rows, 2, 3, 4); err != nil {
		return err
	}
	rows = nil
	for _, reason := range sortedKeys(l.Drops) {
		rows = append(rows, []string{"   ", "drop", printable(reason), strconv.FormatUint(l.Drops[reason], 10)})
	}
	return writeTable(w, rows, 3)
}

// linkKind prints the kind of a link with its driver: "tap (tun)".
func linkKind(l control.Link) string {
	if l.Driver == "" {
		return printable(l.Kind)
	}
	return printable(l.Kind + " (" + l.Driver + ")")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return printable(s)
}

// dropsOf adds the drops of one direction.
func dropsOf(l control.Link, prefix string) uint64 {
	var n uint64
	for reason, drops := range l.Drops {
		if strings.HasPrefix(reason, prefix) {
			n += drops
		}
	}
	return n
}

func dropTotal(l control.Link) uint64 { return dropsOf(l, "") }

// showArgs allows the word "show" or "list", as iproute2 does, and then at most
// one argument with the given name, if that is not empty.
func showArgs(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && isShow(args[0]) {
			args = args[1:]
		}
		switch {
		case len(args) == 0, len(args) == 1 && name != "":
			return nil
		case name == "":
			return unknownCommand(cmd, args[0])
		}
		return usagef("unexpected argument %q: '%s show' takes one %s", args[1], cmd.CommandPath(), name)
	}
}

// showArg returns the argument that showArgs allowed, or "".
func showArg(args []string) string {
	if len(args) > 0 && isShow(args[0]) {
		args = args[1:]
	}
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func isShow(word string) bool {
	return word == "show" || word == "list" || word == "ls"
}
