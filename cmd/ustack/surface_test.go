package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "rewrite testdata/surface.golden")

// TestSurface holds the whole command line to testdata/surface.golden, so that no
// command, flag or default changes unnoticed: go test ./cmd/ustack -update.
func TestSurface(t *testing.T) {
	var b strings.Builder
	writeSurface(&b, (&app{}).rootCommand())
	golden := filepath.Join("testdata", "surface.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got := []byte(b.String()); !bytes.Equal(got, want) {
		t.Errorf("the command line changed: run with -update if it should have\n%s", firstDifference(string(got), string(want)))
	}
}

func writeSurface(b *strings.Builder, cmd *cobra.Command) {
	fmt.Fprintf(b, "%s\t%s\n", cmd.CommandPath(), strings.TrimPrefix(cmd.UseLine(), cmd.CommandPath()))
	if len(cmd.Aliases) > 0 {
		fmt.Fprintf(b, "\taliases: %s\n", strings.Join(cmd.Aliases, " "))
	}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		short := ""
		if f.Shorthand != "" {
			short = " -" + f.Shorthand
		}
		fmt.Fprintf(b, "\t--%s%s %s default %q\n", f.Name, short, f.Value.Type(), f.DefValue)
	})
	for _, c := range cmd.Commands() {
		if !c.Hidden && c.Name() != "help" {
			writeSurface(b, c)
		}
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		line := func(l []string) string {
			if i < len(l) {
				return l[i]
			}
			return "(nothing)"
		}
		if line(g) != line(w) {
			return fmt.Sprintf("line %d\ngot  %s\nwant %s", i+1, line(g), line(w))
		}
	}
	return "equal"
}

// TestEveryCommandExplainsItself checks what the golden file cannot.
func TestEveryCommandExplainsItself(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" {
			t.Errorf("%s: no short help", cmd.CommandPath())
		}
		if cmd.Name() == "help" || cmd.Name() == "completion" {
			return
		}
		if cmd.Args == nil && !cmd.DisableFlagParsing {
			t.Errorf("%s: arguments are not checked", cmd.CommandPath())
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk((&app{}).rootCommand())
}
