package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func (a *app) upCommand() *cobra.Command {
	f := &upFlags{}
	cmd := &cobra.Command{
		Use:   "up [flags]",
		Short: "run the stack on a link, in the foreground",
		Long: `Runs the stack on a link, in the foreground, until SIGTERM or SIGINT. When it is
usable it prints one line on standard output and notifies systemd; the log goes to
standard error. With --dhcp that is when it holds a lease, with --slaac when a router
has given it a prefix; for both it waits at most 30 s, and meanwhile 'ustack status'
says so.

Without flags the link is tap0, the stack has ` + defaultAddr + `, and the host has
` + defaultHostAddr + ` on the other side, as the stack's gateway. The addresses of
the default are used only if none of --addr, --host-addr, --dhcp, --slaac and
--bridge is given and the link has an interface on this host. With --addr the
gateway is the --host-addr in its network, and without one there is none unless
--gateway names it.

What is changed on the host (the tap's address, forwarding, masquerade) is undone
at the end, and after SIGKILL at the next start. A first signal drains open
connections for at most 3 s, a second one ends at once.

SPEC is KIND:NAME[,option[=value]]..., such as tap:tap0, tap:tap0,queues=2,persist
or tap:tap0,driver=water. Kinds of wires:
` + wireKinds + `

Needs CAP_NET_ADMIN to make or configure a tap; none on a tap that was made for
the user: ip tuntap add tap0 mode tap user NAME.`,
		Example: `  ustack up
  ustack up --uplink auto                     # out to the Internet through the host
  ustack up --addr 192.168.7.2/24 --host-addr 192.168.7.1/24
  ustack up --bridge br0 --dhcp --slaac       # a station in the host's network
  ustack up --config /etc/ustack.toml --log-level debug`,
		Args: noArgs,
	}
	f.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f.socket = a.socket
		var from origins
		if f.config != "" {
			var err error
			if from, err = loadConfig(f.config, cmd.Flags()); err != nil {
				return err
			}
			f.socket = a.socket
		}
		set, err := f.resolve(from)
		if err != nil {
			return err
		}
		log := slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: set.logLevel}))
		stop, hurry, release := endSignals(cmd.Context(), log)
		defer release()
		redirectNetstackLog(log)
		return newDaemon(set, log, a.Stdout).run(stop, hurry)
	}
	return cmd
}

// endSignals returns a context that the first signal to end cancels, or parent,
// and one that the second signal cancels. A signal that was ignored when the
// process started, as nohup and a shell's & do it, stays ignored.
//
// SIGPIPE is ignored from here on: whoever reads the ready line or the log may go
// away, and that must not keep the host from being put back in order.
func endSignals(parent context.Context, log *slog.Logger) (stop, hurry context.Context, release func()) {
	signal.Ignore(syscall.SIGPIPE)
	stop, cancelStop := context.WithCancel(parent)
	hurry, cancelHurry := context.WithCancel(context.WithoutCancel(parent))
	signals := make(chan os.Signal, 4)
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for _, cancel := range []context.CancelFunc{cancelStop, cancelHurry} {
			select {
			case s := <-signals:
				log.Info("ending", "signal", s.String())
				cancel()
			case <-done:
				return
			}
		}
		<-done
	}()
	return stop, hurry, func() {
		signal.Stop(signals)
		close(done)
		<-ended
		cancelStop()
		cancelHurry()
	}
}
