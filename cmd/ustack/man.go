package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "write the manual pages of all commands into a directory",
		Long: `Writes one manual page for each command into DIR, which is made if it does not
exist: ustack.1, ustack-up.1 and so on. With SOURCE_DATE_EPOCH set the pages bear
that date, so that builds can be reproduced.`,
		Example: "  ustack man /usr/local/share/man/man1",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("manual pages: %w", err)
			}
			// GenManTree fills in SOURCE_DATE_EPOCH only where there is no date.
			header := &doc.GenManHeader{Title: "USTACK", Section: "1", Source: "ustack " + versionText(), Manual: "ustack"}
			if a.Getenv("SOURCE_DATE_EPOCH") == "" {
				now := time.Now()
				header.Date = &now
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("manual pages in %s: %w", args[0], err)
			}
			return nil
		},
	}
}
