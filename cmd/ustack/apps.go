package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// appCommand is a command whose flags are its own: cobra passes all of them on
// untouched, --help and --socket too. The app prints its own errors and decides
// the exit code.
func (a *app) appCommand(use, short, long, example string, main func(ctx context.Context, args []string) int) *cobra.Command {
	return &cobra.Command{
		Use:                use,
		Short:              short,
		Long:               long,
		Example:            example,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if code := main(cmd.Context(), args); code != exitOK {
				return exitCode(code)
			}
			return nil
		},
	}
}

// isTerminal reports whether what is written to w is seen on a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
