package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/demo"
	"github.com/ustack/ustack/stack"
)

// demoInside is set in the environment of the demo that runs in a user namespace.
const demoInside = "USTACK_DEMO_INSIDE"

func (a *app) demoCommand() *cobra.Command {
	var memory, verbose bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "show a round trip, frame by frame, in private namespaces",
		Long: `Shows a round trip, frame by frame: ARP, a ping, DNS and a page from a web server.
In private network namespaces it makes a tap, the stack, a router with NAT, and a
DNS and a web server on kernel sockets; all of it is gone at the end, and nothing
of this machine is touched. It needs no configuration, and no root where user
namespaces are permitted.

Where /dev/net/tun or namespaces are not permitted it does the same over a wire in
memory, between two stacks, and says why.`,
		Example: "  ustack demo",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := slog.LevelError
			if verbose {
				level = slog.LevelDebug
			}
			log := slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: level}))
			// Whoever reads the screen may go away, and that must not keep the demo from
			// cleaning up.
			signal.Ignore(syscall.SIGPIPE)
			cfg := demo.Config{
				Out: a.Stdout,
				Backend: func(s *stack.Stack) control.Backend {
					b := newBackend("", log)
					b.Stack = s
					return b
				},
				Logger: log,
			}
			if memory {
				cfg.Memory = "--memory asks for it"
			} else if a.Getenv(demoInside) == "" {
				cfg.Again = func(ctx context.Context) *exec.Cmd { return a.demoAgain(ctx, verbose) }
			}
			err := demo.Run(cmd.Context(), cfg)
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				return exitCode(exitError)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&memory, "memory", false, "use the wire in memory in any case")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log on standard error what happens")
	return cmd
}

// demoAgain is the command that runs the demo once more, inside of a user
// namespace.
func (a *app) demoAgain(ctx context.Context, verbose bool) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "demo", fmt.Sprintf("--verbose=%v", verbose))
	// Time to clean up before it is killed.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 3 * time.Second
	cmd.Env = append(os.Environ(), demoInside+"=1")
	cmd.Stdout, cmd.Stderr = a.Stdout, a.Stderr
	return cmd
}
