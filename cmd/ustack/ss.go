package main

import (
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/ustack/ustack/control"
)

func (a *app) ssCommand() *cobra.Command {
	var tcp, udp, listening, habit bool
	cmd := &cobra.Command{
		Use:   "ss",
		Short: "show the sockets of the stack and who holds them",
		Long: `Shows every socket of the stack: network, state, bytes received and not yet read
(Recv-Q), bytes written and not yet acknowledged (Send-Q), both addresses, and the
process that holds it. Addresses are never resolved to names.`,
		Example: `  ustack ss
  ustack ss -tl            # who listens on TCP
  ustack ss --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sockets, err := a.client().Sockets(cmd.Context())
			if err != nil {
				return err
			}
			sockets = slices.DeleteFunc(sockets, func(s control.SocketInfo) bool {
				if (tcp || udp) && !(tcp && s.Network == "tcp" || udp && s.Network == "udp") {
					return true
				}
				return listening && s.State != "LISTEN" && s.State != "UNCONN"
			})
			if a.json {
				return writeJSON(a.Stdout, notNil(sockets))
			}
			return writeSockets(a.Stdout, sockets)
		},
	}
	a.jsonFlag(cmd)
	cmd.Flags().BoolVarP(&tcp, "tcp", "t", false, "only TCP sockets")
	cmd.Flags().BoolVarP(&udp, "udp", "u", false, "only UDP sockets")
	cmd.Flags().BoolVarP(&listening, "listening", "l", false, "only sockets that wait for a peer")
	for _, f := range [][2]string{{"all", "a"}, {"numeric", "n"}, {"processes", "p"}} {
		cmd.Flags().BoolVarP(&habit, f[0], f[1], false, "accepted for habit's sake: always on")
	}
	return cmd
}

func writeSockets(w io.Writer, sockets []control.SocketInfo) error {
	rows := [][]string{{"Netid", "State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port", "Process"}}
	for _, s := range sockets {
		remote := s.Remote
		if remote == "" {
			remote = "*:*"
		}
		rows = append(rows, []string{
			printable(s.Network), printable(s.State), strconv.Itoa(s.RecvQ), strconv.Itoa(s.SendQ),
			printable(s.Local), printable(remote), printable(s.Owner),
		})
	}
	return writeTable(w, rows, 2, 3)
}
