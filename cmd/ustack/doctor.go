package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/doctor"
)

// doctorFlags are the flags of doctor.
type doctorFlags struct {
	link    string
	addr    []string
	fix     bool
	program bool
	list    bool
}

func (a *app) doctorCommand() *cobra.Command {
	var f doctorFlags
	cmd := &cobra.Command{
		Use:   "doctor [--link SPEC] [--fix] [flags]",
		Short: "find out what is wrong between a tap and the stack",
		Long: `Looks at a tap from the host's side and from the stack's, has both send probes, and
names what is wrong: the cause, what it was seen by, and what to do. What merely
follows from a cause that was found is not looked for.

The stack is that of the daemon on the link. Where nobody holds the tap, a private
stack takes its place as long as the examination lasts, with the SPEC's options.
Where another program does, its frames are looked at; --program says that it is
meant to hold the tap.

The host's part is looked at, too: bridge, routes, rp_filter, forwarding, firewall,
masquerade. For that the stack asks its name servers and, where the host is its
gateway, pings what the host's default route leads to.

It needs root to send probes from the host's side. Exit code 0 when nothing was
found, 1 with findings, 2 for wrong usage.`,
		Example: `  sudo ustack doctor
  sudo ustack doctor --link tap:tap1,driver=water --fix
  sudo ustack doctor --json | jq -r .[].cause`,
		Args: noArgs,
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.link, "link", "", "tap to examine, as `SPEC` (default: that of the daemon, else "+defaultLink+")")
	fs.StringSliceVar(&f.addr, "addr", nil, "address of a private stack, as `CIDR`; repeatable (default: a free one of the host's network on the tap)")
	fs.BoolVar(&f.program, "program", false, "the tap is held by another program that is meant to: look for what that does wrong")
	fs.BoolVar(&f.fix, "fix", false, "do what is safe to do, print each step, and examine again")
	fs.BoolVar(&f.list, "list", false, "list the causes that are looked for, with what holds where there is none")
	a.jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.list {
			return a.listCauses()
		}
		cfg, err := a.doctorConfig(cmd.Context(), &f)
		if err != nil {
			return err
		}
		return a.examine(cmd.Context(), cfg, f.fix)
	}
	return cmd
}

// listCauses prints what is looked for.
func (a *app) listCauses() error {
	type cause struct {
		Cause string `json:"cause"`
		About string `json:"about"`
	}
	var rows [][]string
	var all []cause
	for _, c := range doctor.Checks() {
		rows = append(rows, []string{c.Cause, c.About})
		all = append(all, cause{c.Cause, c.About})
	}
	if a.json {
		return writeJSON(a.Stdout, all)
	}
	return writeTable(a.Stdout, rows)
}

// doctorConfig turns flags into what package doctor takes.
func (a *app) doctorConfig(ctx context.Context, f *doctorFlags) (cfg doctor.Config, err error) {
	cfg = doctor.Config{Client: a.client(), Program: f.program}
	text := f.link
	if text == "" {
		if text, err = a.daemonTap(ctx, cfg.Client); err != nil {
			return cfg, err
		}
	}
	var hostIf string
	if cfg.Link, hostIf, err = parseLink(text, 0); err != nil {
		return cfg, usagef("--link: %w", err)
	}
	if hostIf == "" {
		return cfg, usagef("--link %s: only a tap can be examined, such as tap:tap0", text)
	}
	for _, text := range f.addr {
		p, err := parseInterfacePrefix(text)
		if err != nil {
			return cfg, usagef("--addr %q: %w", text, err)
		}
		cfg.Addrs = append(cfg.Addrs, p)
	}
	cfg.HardwareAddr = stableMAC(cfg.Link.Name)
	cfg.LastEnd = readLastEnd(cfg.Client.Path, cfg.Link.Name)
	return cfg, nil
}

// daemonTap returns the tap of the daemon, else the default one: that no daemon answers,
// or not in time, is a matter for the examination.
func (a *app) daemonTap(ctx context.Context, client *control.Client) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	links, err := client.Links(ctx)
	if err != nil {
		return defaultLink, nil
	}
	other := ""
	for _, l := range links {
		switch l.Kind {
		case kindTap:
			return kindTap + ":" + l.Name, nil
		case loopbackKind:
		default:
			other = l.Name + " (" + l.Kind + ")"
		}
	}
	if other != "" {
		return "", fmt.Errorf("the daemon's link is %s, and only a tap can be examined: name one with --link tap:NAME", other)
	}
	return defaultLink, nil
}

// examine prints what is wrong, and with fix does what can be done about it.
func (a *app) examine(ctx context.Context, cfg doctor.Config, fix bool) error {
	report, err := doctor.Examine(ctx, cfg)
	if err != nil {
		return err
	}
	if fix && report.Fixable() {
		out := a.Stdout
		if a.json {
			out = a.Stderr // standard output is for what is left
		}
		if err := a.fix(ctx, out, cfg, report); err != nil {
			return err
		}
		if report, err = doctor.Examine(ctx, cfg); err != nil {
			return err
		}
	}
	if a.json {
		err = report.WriteJSON(a.Stdout)
	} else {
		err = report.WriteText(a.Stdout)
	}
	if err == nil && len(report.Findings()) > 0 {
		err = exitCode(exitError)
	}
	return err
}

// fix prints what was found and each step against it.
func (a *app) fix(ctx context.Context, out io.Writer, cfg doctor.Config, report *doctor.Report) error {
	if err := report.WriteText(out); err != nil {
		return err
	}
	var lost []error
	err := doctor.Fix(ctx, cfg, report, func(s doctor.Step, err error) {
		came := "done"
		if err != nil {
			came = err.Error()
		}
		_, err = fmt.Fprintf(out, "fix    %s: %s\n", s.Command, printable(came))
		lost = append(lost, err)
	})
	return errors.Join(append(lost, err)...)
}
