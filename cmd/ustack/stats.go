package main

import (
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/ustack/ustack/control"
)

func (a *app) statsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats [PREFIX...]",
		Short: "show the stack's counters that are not zero, and the daemon's own figures",
		Long: `Shows the stack's counters that are not zero, by layer, such as
tcp.retransmits; under "memory" the ceiling over the buffers of all sockets in
bytes, what is booked of it, and what waits to be read from TCP sockets; and
under "process" the daemon's goroutines, open descriptors, resident memory in
bytes, and flows. With PREFIX only those that begin with it.`,
		Example: `  ustack stats
  ustack stats tcp. ip.
  ustack stats process --json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			stats, err := a.client().Stats(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				maps.DeleteFunc(stats.Counters, func(name string, _ uint64) bool { return !hasAnyPrefix(name, args) })
				if stats.Counters == nil {
					stats.Counters = map[string]uint64{}
				}
				return writeJSON(a.Stdout, stats)
			}
			return writeStats(a.Stdout, stats, args)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

// hasAnyPrefix reports whether name begins with one of prefixes; with none of
// them given every name does.
func hasAnyPrefix(name string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return len(prefixes) == 0
}

func writeStats(w io.Writer, stats control.Stats, prefixes []string) error {
	var rows [][]string
	for _, name := range sortedKeys(stats.Counters) {
		if hasAnyPrefix(name, prefixes) {
			rows = append(rows, []string{printable(name), strconv.FormatUint(stats.Counters[name], 10)})
		}
	}
	for _, figure := range []struct {
		name  string
		value uint64
	}{
		{"process.goroutines", uint64(stats.Goroutines)},
		{"process.descriptors", uint64(stats.Descriptors)},
		{"process.rss_bytes", stats.RSS},
		{"process.flows", uint64(stats.Flows)},
	} {
		if hasAnyPrefix(figure.name, prefixes) {
			rows = append(rows, []string{figure.name, strconv.FormatUint(figure.value, 10)})
		}
	}
	if len(rows) == 0 {
		return fmt.Errorf("no counter that is not zero begins with %s: 'ustack stats' lists all", strings.Join(prefixes, " or "))
	}
	return writeTable(w, rows, 1)
}
