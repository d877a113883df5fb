package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ustack/ustack/bridge"
	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/metrics"
)

// bridgeFlags are the settings of bridge and forward as they were written.
type bridgeFlags struct {
	ports         []string
	ageing        time.Duration
	stations      int
	groupMask     string
	socketGroup   string
	socketMode    string
	stateDir      string
	logLevel      string
	verbose, wire bool
}

func (f *bridgeFlags) register(fs *pflag.FlagSet) {
	fs.SortFlags = false
	if !f.wire {
		fs.StringArrayVar(&f.ports, "port", nil, "wire to join, as `SPEC` KIND:NAME[,option[=value]]..., of the switch: "+portOptions+"; repeatable")
		fs.DurationVar(&f.ageing, "ageing", bridge.DefaultAgeing, "`TIME` after which a station that says nothing is forgotten")
		fs.IntVar(&f.stations, "stations", bridge.DefaultMaxStations, "most stations to know, `N`")
		fs.StringVar(&f.groupMask, "group-fwd-mask", "0", "`MASK` of the reserved addresses 01:80:c2:00:00:0N to pass on, bit N for each: 0x4000 for LLDP")
	}
	fs.StringVar(&f.socketGroup, "socket-group", "", "`GROUP` that may use the control socket")
	fs.StringVar(&f.socketMode, "socket-mode", "", "permissions `MODE` of the control socket, in octal (default "+defaultSocketMode+", 0660 with --socket-group)")
	fs.StringVar(&f.stateDir, "state-dir", "", "`DIR` for the record of what was changed on the host (default /run/ustack as root, else $XDG_RUNTIME_DIR/ustack)")
	fs.StringVar(&f.logLevel, "log-level", defaultLogLevel, "least `LEVEL` to log on standard error: debug, info, warn, error")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "short for --log-level debug")
}

// config returns what the flags say of the switch itself.
func (f *bridgeFlags) config(log *slog.Logger) (bridge.Config, error) {
	cfg := bridge.Config{Wire: f.wire, Ageing: f.ageing, MaxStations: f.stations, Logger: log}
	if f.wire {
		return cfg, nil
	}
	mask, err := strconv.ParseUint(f.groupMask, 0, 16)
	switch {
	case err != nil:
		return cfg, usagef("--group-fwd-mask %q: not a mask of 16 bits: write one such as 0x4000", f.groupMask)
	case f.ageing < time.Second || f.ageing > 1e6*time.Second:
		return cfg, usagef("--ageing %v: out of range: use 1s to 1000000s", f.ageing)
	case f.stations < 1 || f.stations > 1<<24:
		return cfg, usagef("--stations %d: out of range: use 1 to %d", f.stations, 1<<24)
	}
	cfg.GroupForwardMask = uint16(mask)
	return cfg, nil
}

func (a *app) bridgeCommand() *cobra.Command {
	f := &bridgeFlags{}
	cmd := &cobra.Command{
		Use:   "bridge --port SPEC --port SPEC...",
		Short: "join wires by a learning switch, in the foreground",
		Long: `Joins wires by a learning switch, in the foreground, until SIGTERM or SIGINT. A frame
goes to the port where its destination was last heard of, else to all others.
Super-frames pass whole between ports that take them. Nobody waits for a port: one
that is full drops and counts. 'ustack fdb' shows ports, counters and stations.

Kinds of wires, for SPEC:
` + wireKinds + `
A port's SPEC may have options of the switch among those of the wire:
  isolated       reaches only ports that are not isolated
  storm=FRAMES   floods at most so many frames a second
  stations=N     at most so many stations are known at the port (default ` + strconv.Itoa(bridge.DefaultPortStations) + `)

A port whose frames come back by another port, or by itself, is shut for a minute, and
longer each time. The host's interface behind a port is brought up, and that is undone
at the end.`,
		Example: `  ustack bridge --port tap:tap0 --port tap:tap1
  ustack bridge --port tap:tap0,isolated --port tap:tap1,isolated,storm=1000 --port tap:up0
  ustack fdb`,
		Args: noArgs,
	}
	f.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(f.ports) < 2 {
			return usagef("--port is missing: a switch joins two wires at least: ustack bridge --port SPEC --port SPEC")
		}
		return a.runSwitch(cmd.Context(), f, true)
	}
	return cmd
}

// wireKinds names the kinds of wires, for help.
const wireKinds = `  tap:tap0                    a tap of this host
  chardev:/dev/xtun,dev=xtun  a character device of one frame for each read or write
  packet:eth0                 an interface of this host, beside the host (AF_PACKET)
  macinmac:eth0,isid=N        frames inside of frames of an interface (IEEE 802.1ah, or
                              ethertype=0xNNNN,header=BYTES)
  vxlan:IP[+IP]...,vni=N      frames over UDP to other endpoints (RFC 7348)
  stream:PATH|HOST:PORT       QEMU's framing over a stream socket; listen waits for the peer
  dgram:local=A,remote=B      one frame a datagram, as QEMU's -netdev dgram
  fd:N                        an inherited descriptor: tap or socket
Every kind takes delay=, jitter=, loss=, duplicate=, reorder=, corrupt=, rate= and limit=.
`

func (a *app) forwardCommand() *cobra.Command {
	f := &bridgeFlags{wire: true}
	cmd := &cobra.Command{
		Use:   "forward SPEC SPEC",
		Short: "join two wires to one, in the foreground",
		Long: `Joins two wires to one, in the foreground, until SIGTERM or SIGINT, or until one of
them is gone: whatever comes in at one leaves by the other, nothing is learned, and
nothing is filtered. With --socket, 'ustack fdb' shows the counters of both.

Kinds of wires, for SPEC:
` + wireKinds,
		Example: `  ustack forward tap:tap0 tap:tap1,delay=20ms
  ustack forward tap:tap0 macinmac:eth0,ethertype=0x88b5,header=10`,
		Args: exactArgs("SPEC", "SPEC"),
	}
	f.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f.ports = args
		return a.runSwitch(cmd.Context(), f, a.socket != "")
	}
	return cmd
}

// runSwitch joins the wires until a signal, and answers at the control socket if that is wanted.
func (a *app) runSwitch(ctx context.Context, f *bridgeFlags, answers bool) (err error) {
	common := upFlags{socketGroup: f.socketGroup, socketMode: f.socketMode, logLevel: f.logLevel, verbose: f.verbose}
	set := &settings{}
	if err := errors.Join(common.resolveSocket(set, nil), common.resolveLog(set, nil)); err != nil {
		return &usageError{err}
	}
	log := slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: set.logLevel}))
	cfg, err := f.config(log)
	if err != nil {
		return err
	}
	ports, err := parsePorts(f.ports)
	if err != nil {
		return err
	}
	stop, hurry, release := endSignals(ctx, log)
	defer release()

	backend := &noStack{points: new(points), started: time.Now()}
	var server *control.Server
	if answers {
		path, isDefault, err := control.ListenPath(a.socket)
		if err != nil {
			return err
		}
		server = control.NewServer(control.ServerConfig{
			Backend: backend, Path: path, DefaultPath: isDefault, Mode: set.socketMode, Group: set.socketGroup, Logger: log,
			// Both are there before anybody is served.
			Metrics: metrics.NewHandler(metrics.Config{
				Ports:   func() []control.Port { return backend.fabric.states() },
				Control: func() control.Counts { return server.Counts() },
				Version: versionText(),
			}, log),
		})
		if err := server.Listen(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Close()) }()
	}
	fabric, err := newFabric(cfg, ports, f.stateDir, backend.points)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fabric.Close()) }()
	backend.fabric = fabric
	served, where := make(chan error, 1), ""
	if server != nil {
		where = "; socket " + server.Addr()
		go func() { served <- server.Serve() }()
		defer func() {
			_ = server.Shutdown(hurry) // what was answered matters, not whether all could be
			<-served
		}()
	}
	line := fmt.Sprintf("joined %s%s", fabric.names(), where)
	if _, err := fmt.Fprintf(a.Stdout, "ustack: %s\n", line); err != nil {
		log.Warn("the ready line could not be printed", "err", err)
	}
	if _, err := sd.SdNotify(false, sd.SdNotifyReady+"\nSTATUS="+line); err != nil {
		log.Warn("systemd could not be notified", "err", err)
	}
	return fabric.wait(stop, f.wire)
}

// wait returns when stop ends, or what the ports are joined for has: a wire when one of its ends is
// gone, a switch when less than two ports are left.
func (f *fabric) wait(stop context.Context, wire bool) error {
	gone := make(chan *fabricPort)
	for _, p := range f.ports {
		go func() {
			select {
			case <-p.Done():
				select {
				case gone <- p:
				case <-stop.Done():
				}
			case <-stop.Done():
			}
		}()
	}
	for left := len(f.ports); ; {
		select {
		case <-stop.Done():
			return nil
		case p := <-gone:
			if left--; wire || left < 2 {
				return fmt.Errorf("the port %s ended: %w: start again once it is back", p.Name(), p.Err())
			}
		}
	}
}
