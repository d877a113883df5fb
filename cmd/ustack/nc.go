package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/ustack/ustack/internal/nc"
)

func (a *app) ncCommand() *cobra.Command {
	return a.appCommand("nc [-l] [-u] [flags] HOST PORT", "connect or listen on the stack, and join it to standard input and output",
		`Connects to HOST and PORT through the stack, or with -l listens on the stack, and
joins that to standard input and output: netcat, and a ProxyCommand for ssh.
'ustack nc --help' lists the flags.`,
		`  ustack nc 10.0.0.5 8000
  ustack nc -l 8080
  ssh -o ProxyCommand='ustack nc %h %p' user@10.0.0.5`,
		func(ctx context.Context, args []string) int {
			return nc.Main(ctx, args, nc.Env{Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr})
		})
}
