package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/ustack/ustack/internal/ping"
)

func (a *app) pingCommand() *cobra.Command {
	return a.appCommand("ping [-4|-6] [-c COUNT] [-i SECONDS] [-s BYTES] [-t TTL] [flags] HOST", "ping a host from the stack",
		`Sends ICMP echo requests from the stack, with the flags, output and exit codes of
iputils' ping. 'ustack ping --help' lists the flags.`,
		`  ustack ping -c 3 10.0.0.5
  ustack ping -6 -s 1400 2001:db8::5`,
		func(ctx context.Context, args []string) int {
			return ping.Main(ctx, args, ping.Env{Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr})
		})
}
