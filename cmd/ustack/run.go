package main

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

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
	own := &upFlags{}
	cmd := &cobra.Command{
		Use:   "run [flags] [--] PROGRAM [ARG...]",
		Short: "run a program on the stack",
		Long: `Runs a program, unmodified, on the stack of the daemon: its TCP, UDP and ping sockets are
the stack's, IPv4 and IPv6. 127.0.0.1 is the stack's own loopback, which all
programs of a daemon share.

The program runs in a network namespace in which the kernel shows the stack's link and
addresses and nothing else, and asks the stack's DNS servers for names: its
/etc/resolv.conf is a private one, which follows the daemon's. For an ordinary user
that takes a user namespace: files of others show nobody as their owner, and
set-user-ID programs stay with the user. With --share-net the program stays in this
network namespace, which needs no user namespace; only root has it ask the stack's
DNS servers then.

With --link, or another flag that says what a stack is like, the program gets a stack
of its own in this process, as 'ustack up' would run it with these flags. It ends with
the program.

The exit code is the program's; 127 if it was not found, 126 if it could not be
started. A program that a signal ended ends this command by the same signal. Signals
go on to the program; SIGKILL kills it, too. What the program leaves running in the
background stays on the stack of the daemon.

It is compatibility, not a sandbox.`,
		Example: `  ustack run curl http://10.0.0.5:8000/
  ustack run -- python3 -m http.server 80
  sudo ustack run --link tap:tap1 --uplink auto -- wget -O /dev/null http://example.org/`,
		Args: cobra.ArbitraryArgs,
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.SortFlags = false
	f.BoolVarP(&cfg.Verbose, "verbose", "v", false, "name calls that are not emulated, and at the end count those passed to the supervisor")
	f.BoolVar(&cfg.ShareNet, "share-net", false, "leave the program in this network namespace")
	ownFlags := registerOwnStack(f, own)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("PROGRAM is missing: write '%s PROGRAM [ARG...]'", cmd.CommandPath())
		}
		cfg.Args, cfg.Socket = args, control.SocketPath(a.socket)
		if slices.ContainsFunc(ownFlags, f.Changed) {
			return a.onOwnStack(cmd.Context(), own, func(socket string) error {
				cfg.Socket = socket
				return a.runProgram(cmd.Context(), cfg)
			})
		}
		err := a.runProgram(cmd.Context(), cfg)
		if errors.Is(err, control.ErrNoDaemon) {
			err = fmt.Errorf("%w; or give the program a stack of its own: %s --link tap:tap0 PROGRAM", err, cmd.CommandPath())
		}
		return err
	}
	return cmd
}

func (a *app) runProgram(ctx context.Context, cfg runner.Config) error {
	name := cfg.Args[0]
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return a.notStarted(name, "", err)
	}
	cfg.Path = path
	cfg.Warn = func(text string) { fmt.Fprintf(a.Stderr, "ustack: %s\n", text) }
	// Signals are the program's; the context of the command line would end with them.
	status, err := runner.Run(context.WithoutCancel(ctx), cfg)
	var le *runner.LaunchError
	switch {
	case errors.As(err, &le):
		if le.Step == "exec" {
			return a.notStarted(name, path, le.Err)
		}
		fmt.Fprintf(a.Stderr, "ustack: %s\n", oneLine(err))
		return exitCode(exitCannotRun)
	case err != nil:
		return err
	case status.Signaled():
		return &endedBySignal{status}
	case status.ExitStatus() != 0:
		return exitCode(status.ExitStatus())
	}
	return nil
}

// An endedBySignal says that the program ended by a signal. This process ends the same way when
// it has cleaned up.
type endedBySignal struct{ runner.Status }

func (e *endedBySignal) Error() string { return "ended by signal " + e.Signal().String() }

// notStarted reports a program that could not be started, with the exit code that env(1) has for it.
func (a *app) notStarted(name, path string, err error) error {
	code := exitCannotRun
	var le *exec.Error
	if errors.As(err, &le) {
		err = le.Err
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		code = exitNotFound
	}
	why := err.Error()
	switch interpreter := interpreterOf(path); {
	case errors.Is(err, fs.ErrNotExist) && interpreter != "":
		why = fmt.Sprintf("its interpreter %s is not there", interpreter)
	case errors.Is(err, syscall.ENOEXEC):
		why = "neither a program of this machine nor a script that begins with #!"
	}
	fmt.Fprintf(a.Stderr, "ustack: run %s: %s\n", name, why)
	return exitCode(code)
}

// interpreterOf is the program that a program's file asks for, as far as it can be read: that of the line
// #! of a script, or the loader of a binary.
func interpreterOf(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, 256) // what the kernel reads (BINPRM_BUF_SIZE)
	n, _ := io.ReadFull(f, head)
	if line, ok := strings.CutPrefix(string(head[:n]), "#!"); ok {
		line, _, _ = strings.Cut(line, "\n")
		if fields := strings.Fields(line); len(fields) > 0 {
			return fields[0]
		}
		return ""
	}
	b, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	for _, p := range b.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			name := make([]byte, p.Filesz)
			if _, err := p.ReadAt(name, 0); err == nil {
				return strings.TrimRight(string(name), "\x00")
			}
		}
	}
	return ""
}
