package getopt

import (
	"fmt"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	long := map[string]bool{"help": false, "socket": true}
	for line, want := range map[string]string{
		"-c 3 -nq host":       "[{c 3} {n } {q }] [host]",
		"-c3 host -q":         "[{c 3} {q }] [host]",
		"-nc3 a b":            "[{n } {c 3}] [a b]",
		"--socket s --help a": "[{socket s} {help }] [a]",
		"--socket=s=t":        "[{socket s=t}] []",
		"-q -- -c x":          "[{q }] [-c x]",
		"- a":                 "[] [- a]",
		"-c":                  "option -c needs a value",
		"--socket":            "option --socket needs a value",
		"--help=x":            "option --help takes no value",
		"--other":             "unknown option --other",
		"-x":                  "unknown option -x",
		"-:":                  "unknown option -:",
	} {
		opts, operands, err := Parse(strings.Fields(line), "c:nq", long)
		got := fmt.Sprint(opts, operands)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("Parse(%q) = %s, want %s", line, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-c 3 -nq host -- x")
	f.Add("--socket=a --help -")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, " ")
		opts, operands, err := Parse(args, "c:nq", map[string]bool{"socket": true})
		if err == nil && len(opts)+len(operands) > len(line)+1 {
			t.Errorf("%d options and %d operands out of %q", len(opts), len(operands), line)
		}
	})
}
