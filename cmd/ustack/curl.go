package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/ustack/ustack/internal/curl"
)

func (a *app) curlCommand() *cobra.Command {
	return a.appCommand("curl [flags] URL...|HOST [PORT]", "transfer a URL through the stack",
		`Transfers URLs through the stack, with curl's flags, output and exit codes, over
HTTP/1.1, HTTP/2 and TLS. Names are resolved by the stack's own DNS servers. An
all-digit second argument is a port. 'ustack curl --help' lists the flags.`,
		`  ustack curl http://10.0.0.5:8000/
  ustack curl -sS -o page.html https://www.example.com/
  ustack curl www.example.com 80`,
		func(ctx context.Context, args []string) int {
			return curl.Main(ctx, args, curl.Env{
				Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr,
				StdoutTerminal: isTerminal(a.Stdout), StderrTerminal: isTerminal(a.Stderr),
				Version: versionText(),
			})
		})
}
