package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// try runs a command line in this process.
func try(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, environ{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" },
	})
	return out.String(), errs.String(), code
}

func TestWrongUsage(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", "a command is missing: addr, "},
		{"statsu", `unknown command "statsu": did you mean 'ustack stats'? (see 'ustack --help')`},
		{"frobnicate", `unknown command "frobnicate": use one of addr, `},
		{"up now", `unexpected argument "now": 'ustack up' takes none (see 'ustack up --help')`},
		{"up --adr 10.0.0.4/24", `unknown flag --adr: did you mean --addr? (see 'ustack up --help')`},
		{"up --mtu big", `--mtu "big": not a whole number (see 'ustack up --help')`},
		{"up --link", `flag needs an argument: --link`},
		{"addr ad 10.0.0.4/24", `unknown command "ad": did you mean 'ustack addr a`},
		{"addr add", `CIDR is missing: write 'ustack addr add CIDR'`},
		{"addr add 10.0.0.4", `address "10.0.0.4": the prefix length is missing: write 10.0.0.4/24`},
		{"addr add 10.0.0.4/24 10.0.0.5/24", `unexpected argument "10.0.0.5/24": write 'ustack addr add CIDR'`},
		{"route add", `route add: the destination is missing`},
		{"route add default", `route add default: say where to: add 'via IP' or 'dev LINK'`},
		{"route add default by 10.0.0.5", `route add: unknown word "by"`},
		{"neigh add 10.0.0.9", `lladdr is missing: write 'ustack neigh add IP lladdr MAC'`},
		{"neigh add 10.0.0.9 mac 02:00:00:00:00:09", `unknown word "mac"`},
		{"neigh add 10.0.0.9 lladdr 02:00", `lladdr "02:00": not the hardware address`},
		{"neigh del nobody", `"nobody": not the IP address of a neighbour`},
		{"link show tap0 tap1", `unexpected argument "tap1": 'ustack link show' takes one LINK`},
		{"ss -x", `unknown shorthand flag: 'x' in -x`},
		{"capture port", `filter "port": at its end: a port is missing`},
		{"capture tcp and foo", `filter "tcp and foo": "foo" at column 9: not a condition that is known`},
		{"capture -c x", `--count "x": not a whole number`},
		{"capture -C 5", `-C needs a file to store frames in: add -w FILE`},
		{"capture -C 5 -w -", `-C needs a file to store frames in: add -w FILE`},
		{"capture -W 5 -w x", `-W needs a size of files: add -C MB`},
		{"capture -r x -i tap0", `-i is for a capture of a daemon's frames`},
		{"capture -w x -X", `-x and -X print frames, -w stores them`},
		{"capture -B 5", `-B 5: out of range: use `},
		{"up --dhcp=maybe", `--dhcp "maybe": not true or false`},
		{"help statsu", `unknown command "statsu": did you mean 'ustack stat`},
		{"help addr ad", `unknown command "ad": did you mean 'ustack addr a`},
		{"completion", `a command is missing: bash, `},
		{"completion bahs", `unknown command "bahs": did you mean 'ustack completion bash'?`},
		{"man", `DIR is missing: write 'ustack man DIR'`},
		{"version --jsno", `unknown flag --jsno: did you mean --json?`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			stdout, stderr, code := try(t, strings.Fields(tt.args)...)
			if code != exitUsage || stdout != "" {
				t.Errorf("code %d, standard output %q", code, stdout)
			}
			if !strings.HasPrefix(stderr, "ustack: "+tt.want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("got  %swant one line: ustack: %s …", stderr, tt.want)
			}
		})
	}
}

func TestNoDaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	for _, args := range []string{"status", "link", "addr", "neigh", "route", "ss", "stats", "capture", "capture -w /dev/null tcp", "addr add 10.0.0.4/24", "route del default"} {
		stdout, stderr, code := try(t, append(strings.Fields(args), "--socket", socket)...)
		if code != exitError || stdout != "" || strings.Count(stderr, "\n") != 1 ||
			!strings.HasPrefix(stderr, "ustack: ") || !strings.Contains(stderr, socket) || !strings.Contains(stderr, "ustack up") {
			t.Errorf("%s: code %d, %q, %q", args, code, stdout, stderr)
		}
	}
}

func TestVersion(t *testing.T) {
	if stdout, _, code := try(t, "version"); code != 0 || !strings.HasPrefix(stdout, "ustack ") {
		t.Errorf("code %d, %q", code, stdout)
	}
	if stdout, _, code := try(t, "version", "--json"); code != 0 || !strings.HasPrefix(stdout, "{") {
		t.Errorf("code %d, %q", code, stdout)
	}
}

func TestManualPages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	if _, stderr, code := try(t, "man", dir); code != 0 {
		t.Fatal(stderr)
	}
	for _, page := range []string{"ustack", "ustack-up", "ustack-addr-add", "ustack-curl"} {
		text, err := os.ReadFile(filepath.Join(dir, page+".1"))
		if err != nil || !bytes.Contains(text, []byte(".SH SYNOPSIS")) {
			t.Errorf("%s: %v", page, err)
		}
	}
}

func TestManualPageIsAsWritten(t *testing.T) {
	cmd := &cobra.Command{
		Use: "odd NAME", Short: `prints \n and 'quotes'`, Run: func(*cobra.Command, []string) {},
		Long:    "First line\n.not a request\n\n  as it is -x\n\nLast *words* of snake_case…",
		Example: "  odd ~/x",
	}
	cmd.Flags().String("file", "", "read `FILE` first")
	page := string(manPage(cmd, time.Unix(0, 0).UTC()))
	for _, want := range []string{
		".TH \"ODD\" 1 \"1970-01-01\"", "odd \\- prints \\en and \\(aqquotes\\(aq\n", ".B odd NAME [flags]\n",
		"First line\n\\&.not a request\n.PP\n.EX\n  as it is \\-x\n.EE\n.PP\nLast *words* of snake_case\\[u2026]\n",
		"\\-\\-file FILE   read FILE first\n", ".SH EXAMPLES\n.EX\n  odd \\(ti/x\n.EE\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
}

func TestHelp(t *testing.T) {
	for args, want := range map[string]string{
		"--help": "Run a stack:", "help": "Run a stack:", "help up": "--host-addr CIDR", "up --help": "--host-addr CIDR",
		"help addr add": "ustack addr add CIDR", "help curl": "curl [flags] URL", "help route": "--json",
	} {
		stdout, stderr, code := try(t, strings.Fields(args)...)
		if code != 0 || stderr != "" || !strings.Contains(stdout, want) {
			t.Errorf("%s: code %d, no %q in\n%s%s", args, code, want, stdout, stderr)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if stdout, stderr, code := try(t, "completion", shell); code != 0 || !strings.Contains(stdout, "ustack") {
			t.Errorf("%s: code %d, %s", shell, code, stderr)
		}
	}
}

// The apps get their arguments as they are, whatever they look like.
func TestAppsParseTheirOwnFlags(t *testing.T) {
	for _, app := range []string{"curl", "ping", "nc"} {
		stdout, stderr, code := try(t, app, "--no-such-flag")
		if code == 0 || strings.Contains(stderr, "ustack: unknown flag") {
			t.Errorf("%s: code %d, %q, %q", app, code, stdout, stderr)
		}
		if stdout, stderr, _ := try(t, app, "--help"); strings.Contains(stdout+stderr, "Global Flags") {
			t.Errorf("%s --help is cobra's:\n%s", app, stdout)
		}
	}
}
