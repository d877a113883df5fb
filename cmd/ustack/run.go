package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/runner"
)

// Exit codes of a program that was not started, as env(1) and the shells have them.
const (
	exitCannotRun = 126
	exitNotFound  = 127
)

func (a *app) runCommand() *cobra.Command {
	var cfg runner.Config
	cmd := &cobra.Command{
		Use:   "run [flags] [--] PROGRAM [ARG...]",
		Short: "run a program on the stack",
		Long: `Runs a program, unmodified, on the stack of the daemon: its TCP, UDP and
ping sockets are the stack's, IPv4 and IPv6. 127.0.0.1 is the stack's own loopback, which
all programs of a daemon share.

The exit code is the program's; 127 if it was not found, 126 if it could not be
started. A program that a signal ended ends this command by the same signal. What the
program leaves running in the background stays on the stack.

It is compatibility, not a sandbox. Set-user-ID programs keep their own user only
under root.`,
		Example: `  ustack run curl http://10.0.0.5:8000/
  ustack run python3 -m http.server 80
  ustack run -v -- wget -O /dev/null http://10.0.0.5:8000/`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("PROGRAM is missing: write '%s PROGRAM [ARG...]'", cmd.CommandPath())
			}
			cfg.Args, cfg.Socket = args, control.SocketPath(a.socket)
			return a.runProgram(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&cfg.Verbose, "verbose", "v", false, "name calls that are not emulated, and at the end count those passed to the supervisor")
	f.BoolVar(&cfg.ShareNet, "share-net", false, "leave the program in this network namespace")
	return cmd
}

func (a *app) runProgram(ctx context.Context, cfg runner.Config) error {
	path, err := exec.LookPath(cfg.Args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return a.notStarted(cfg.Args[0], err)
	}
	cfg.Path = path
	cfg.Warn = func(text string) { fmt.Fprintf(a.Stderr, "ustack: %s\n", text) }
	// Signals are the program's; the context of the command line would end with them.
	status, err := runner.Run(context.WithoutCancel(ctx), cfg)
	var le *runner.LaunchError
	switch {
	case errors.As(err, &le) && le.Step == "exec":
		return a.notStarted(cfg.Args[0], le.Err)
	case err != nil:
		return err
	case status.Signaled():
		status.Raise()
		return exitCode(128 + int(status.Signal()))
	case status.ExitStatus() != 0:
		return exitCode(status.ExitStatus())
	}
	return nil
}

// notStarted reports a program that could not be started, with the exit code that env(1) has for it.
func (a *app) notStarted(name string, err error) error {
	code := exitCannotRun
	var le *exec.Error
	if errors.As(err, &le) {
		err = le.Err
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		code = exitNotFound
	}
	fmt.Fprintf(a.Stderr, "ustack: run %s: %v\n", name, err)
	return exitCode(code)
}
