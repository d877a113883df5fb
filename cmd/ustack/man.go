package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
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
			date := time.Now()
			if epoch := a.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
				n, err := strconv.ParseInt(epoch, 10, 64)
				if err != nil {
					return fmt.Errorf("SOURCE_DATE_EPOCH %q: not a number of seconds", epoch)
				}
				date = time.Unix(n, 0).UTC()
			}
			return writeManPages(cmd.Root(), args[0], date)
		},
	}
}

// writeManPages writes the pages of a command and of all below it. cobra's own generator makes them by way of
// Markdown: what that needs would begin with every ustack, and the texts are not Markdown.
func writeManPages(cmd *cobra.Command, dir string, date time.Time) error {
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			if err := writeManPages(sub, dir, date); err != nil {
				return err
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, manName(cmd)+".1"), manPage(cmd, date), 0o644); err != nil {
		return fmt.Errorf("manual page of %s: %w", cmd.CommandPath(), err)
	}
	return nil
}

// manName is the name of a command's page.
func manName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manPage is the page of a command (man-pages(7), groff_man(7)).
func manPage(cmd *cobra.Command, date time.Time) []byte {
	var b bytes.Buffer
	section := func(title string) { fmt.Fprintf(&b, ".SH %s\n", title) }
	asIs := func(text string) {
		fmt.Fprintf(&b, ".EX\n%s\n.EE\n", roff(strings.Trim(text, "\n")))
	}
	fmt.Fprintf(&b, ".TH %q 1 %q %q %q\n.nh\n.ad l\n", strings.ToUpper(manName(cmd)), date.Format("2006-01-02"), "ustack "+roff(versionText()), "ustack manual")
	section("NAME")
	fmt.Fprintf(&b, "%s \\- %s\n", roff(manName(cmd)), roff(cmd.Short))
	section("SYNOPSIS")
	fmt.Fprintf(&b, ".B %s\n", roff(cmd.UseLine()))
	section("DESCRIPTION")
	long := cmd.Long
	if long == "" {
		long = cmd.Short
	}
	for i, paragraph := range strings.Split(strings.Trim(long, "\n"), "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		if strings.HasPrefix(paragraph, " ") {
			asIs(paragraph)
		} else {
			fmt.Fprintln(&b, roff(paragraph))
		}
	}
	cmd.InitDefaultHelpFlag()
	if flags := cmd.NonInheritedFlags(); flags.HasAvailableFlags() && !cmd.DisableFlagParsing {
		section("OPTIONS")
		asIs(flags.FlagUsagesWrapped(manWidth))
	}
	if flags := cmd.InheritedFlags(); flags.HasAvailableFlags() && !cmd.DisableFlagParsing {
		section("OPTIONS OF ALL COMMANDS")
		asIs(flags.FlagUsagesWrapped(manWidth))
	}
	if cmd.Example != "" {
		section("EXAMPLES")
		asIs(cmd.Example)
	}
	if others := relatives(cmd); len(others) > 0 {
		section("SEE ALSO")
		for i, name := range others {
			others[i] = roff(name) + "(1)"
		}
		fmt.Fprintln(&b, strings.Join(others, ",\n"))
	}
	return b.Bytes()
}

// manWidth is how wide what stands as it is may be, in columns: 80 less the margin.
const manWidth = 72

// relatives are the pages of the commands above and below one.
func relatives(cmd *cobra.Command) (names []string) {
	if cmd.HasParent() {
		names = append(names, manName(cmd.Parent()))
	}
	var below []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			below = append(below, manName(sub))
		}
	}
	slices.Sort(below)
	return append(names, below...)
}

// roff is text as it is to be printed.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "'", `\(aq`, "^", `\(ha`, "~", `\(ti`).Replace(text)
	var b strings.Builder
	for _, r := range text {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\[u%04X]`, r)
		}
	}
	lines := strings.Split(b.String(), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
