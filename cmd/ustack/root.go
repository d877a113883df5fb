package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// environ is what the command line takes from its process, so that tests can
// give it something else.
type environ struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
}

// app is one invocation of the command line.
type app struct {
	environ
	// socket is --socket, shared by every command.
	socket string
	// json is --json, shared by the reading commands.
	json bool
}

// A usageError says that the command line or the configuration file is wrong,
// as opposed to something that did not work.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// An exitCode is an error that has already been reported by whoever returns it.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// run executes one command line and returns the exit code. Errors are printed
// here and nowhere else: one line that begins with "ustack: ".
func run(ctx context.Context, args []string, env environ) int {
	a := &app{environ: env}
	root := a.rootCommand()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	var code exitCode
	var usage *usageError
	var signaled *endedBySignal
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &signaled):
		signaled.Raise()
		return 128 + int(signaled.Signal())
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		fmt.Fprintf(env.Stderr, "ustack: %s (see '%s --help')\n", oneLine(err), cmd.CommandPath())
		return exitUsage
	case errors.Is(err, syscall.EPIPE):
		// Whoever read the output has what it wanted.
		return exitError
	}
	fmt.Fprintf(env.Stderr, "ustack: %s\n", oneLine(err))
	return exitError
}

// oneLine makes an error fit on one line.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// Command groups, in the order of the help text.
const (
	groupRun  = "run"
	groupSee  = "see"
	groupApps = "apps"
)

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "ustack",
		Short: "a user-space TCP/IP stack on a wire that carries Ethernet frames",
		Long: `ustack gives programs a TCP/IP stack of their own, in user space, on any wire
that carries Ethernet frames: first of all a Linux TAP interface.

'ustack up' runs the stack in the foreground. The other commands talk to it over
its control socket: --socket, else $USTACK_SOCKET, else the first that exists of
$XDG_RUNTIME_DIR/ustack.sock and /run/ustack.sock.

Exit codes: 0 done, 1 the thing asked for did not work, 2 wrong usage; curl, ping
and nc have their own.`,
		Example: `  ustack up &                        # tap0: stack 10.0.0.4, host 10.0.0.5
  ustack status
  ustack ping -c 3 10.0.0.5
  ustack curl http://10.0.0.5:8000/
  ustack ss`,
		Args:          cobra.ArbitraryArgs,
		RunE:          a.needCommand,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.Version = versionText()
	root.SetVersionTemplate("ustack {{.Version}}\n")
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.PersistentFlags().StringVar(&a.socket, "socket", "",
		"control socket `PATH` (default $USTACK_SOCKET, else $XDG_RUNTIME_DIR/ustack.sock, else /run/ustack.sock)")
	root.SetFlagErrorFunc(flagError)
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run a stack:"},
		&cobra.Group{ID: groupSee, Title: "See and change a running stack:"},
		&cobra.Group{ID: groupApps, Title: "Use a running stack:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupRun, a.upCommand(), a.bridgeCommand(), a.forwardCommand(), a.demoCommand())
	add(groupSee, a.statusCommand(), a.linkCommand(), a.addrCommand(), a.neighCommand(),
		a.routeCommand(), a.captureCommand(), a.traceCommand(), a.ssCommand(), a.statsCommand(), a.fdbCommand(), a.doctorCommand())
	add(groupApps, a.runCommand(), a.curlCommand(), a.pingCommand(), a.ncCommand())
	root.AddCommand(a.versionCommand(), a.manCommand())
	root.SetHelpCommand(a.helpCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		c.Args, c.RunE = cobra.ArbitraryArgs, a.needCommand
	}
	return root
}

func (a *app) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "explain a command",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 && about.HasAvailableSubCommands() {
				return unknownCommand(about, args[len(args)-len(rest)])
			}
			if about.DisableFlagParsing {
				about.SetContext(cmd.Context())
				return about.RunE(about, []string{"--help"}) // it knows its flags, cobra does not
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// needCommand answers a command that only has subcommands.
func (a *app) needCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("a command is missing: %s", strings.Join(commandNames(cmd), ", "))
	}
	return unknownCommand(cmd, args[0])
}

// unknownCommand names the nearest command.
func unknownCommand(cmd *cobra.Command, name string) error {
	var all []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			all = append(all, c.Name())
			all = append(all, c.Aliases...)
		}
	}
	if len(all) == 0 {
		return usagef("unexpected argument %q: '%s' takes only show", name, cmd.CommandPath())
	}
	if best := nearest(name, all); best != "" {
		return usagef("unknown command %q: did you mean '%s %s'?", name, cmd.CommandPath(), best)
	}
	return usagef("unknown command %q: use one of %s", name, strings.Join(commandNames(cmd), ", "))
}

func commandNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// flagError turns pflag's errors into usage errors that name the nearest flag.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && len(unknown.GetSpecifiedName()) > 1 {
		var all []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { all = append(all, f.Name) })
		if best := nearest(unknown.GetSpecifiedName(), all); best != "" {
			return usagef("unknown flag --%s: did you mean --%s?", unknown.GetSpecifiedName(), best)
		}
	}
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		if want := valueKinds[invalid.GetFlag().Value.Type()]; want != "" {
			return usagef("--%s %q: not %s", invalid.GetFlag().Name, invalid.GetValue(), want)
		}
	}
	return &usageError{err}
}

// valueKinds says in words what the types of flags take.
var valueKinds = map[string]string{"string": "a string", "bool": "true or false", "int": "a whole number"}

// noArgs is cobra.NoArgs with our own words.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usagef("unexpected argument %q: '%s' takes none", args[0], cmd.CommandPath())
}

// exactArgs is cobra.ExactArgs with a name for each argument.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("%s is missing: write '%s %s'", names[len(args)], cmd.CommandPath(), strings.Join(names, " "))
		case len(args) > len(names):
			return usagef("unexpected argument %q: write '%s %s'", args[len(names)], cmd.CommandPath(), strings.Join(names, " "))
		}
		return nil
	}
}
