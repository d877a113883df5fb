package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/ustack/ustack/bridge"
	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/hostnet"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/metrics"
	"github.com/ustack/ustack/stack"
)

// How long the end may take: drainFlows for open connections to finish, up to
// drainTCP for what they wrote to be delivered, and endLimit for everything.
const (
	drainFlows = 2500 * time.Millisecond
	drainTCP   = 3 * time.Second
	endLimit   = 4500 * time.Millisecond
)

// A daemon is one run of up. It composes the packages and owns what they open.
type daemon struct {
	set *settings
	log *slog.Logger
	out io.Writer

	backend *backend
	server  *control.Server
	served  chan error // the result of server.Serve, once it was started
	device  link.Device
	// observers are told what becomes of frames, while there are any.
	observers *link.Observers
	fabric    *fabric // nil unless --port
	host      *hostnet.Host
	stack     *stack.Stack
	dhcp      *stack.DHCPClient // nil unless --dhcp
	probes    *probes
	usable    func()       // called instead of telling the user and systemd, if not nil
	metrics   http.Handler // set before the server serves
	// metricsTCP is nil unless --metrics.
	metricsTCP *metrics.Server
}

func newDaemon(set *settings, log *slog.Logger, out io.Writer) *daemon {
	return &daemon{set: set, log: log, out: out, backend: newBackend(set.link, log), observers: new(link.Observers)}
}

// run brings everything up, serves until stop ends or the link does, and releases
// whatever was opened, in whatever way it ends. The context hurry ends the
// draining.
func (d *daemon) run(stop, hurry context.Context) (err error) {
	defer func() {
		if end := d.end(hurry); err == nil {
			err = end
		} else if end != nil {
			d.log.Error("while ending", "err", end)
		}
	}()
	for _, step := range []func(context.Context) error{
		d.listen, d.openLink, d.setUpHost, d.startStack, d.serve, d.waitUsable, d.ready,
	} {
		if stop.Err() != nil {
			return nil
		}
		if err := step(stop); err != nil {
			if stop.Err() != nil && errors.Is(err, context.Canceled) {
				return nil // ended by a signal before it was ready
			}
			return err
		}
	}
	select {
	case <-stop.Done():
		return nil
	case <-d.stack.Done():
		if err := leaveLastEnd(d.set.socket, d.device.Info().Name, d.stack.Err()); err != nil {
			d.log.Debug("why the link ended is not left for doctor", "err", err)
		}
		return fmt.Errorf("the link %s ended: %w: start ustack again once it is back", d.device.Info().Name, d.stack.Err())
	case err := <-d.served:
		d.served = nil
		return fmt.Errorf("the control socket %s ended: %w", d.set.socket, err)
	}
}

// listen makes the control socket first of all: a second daemon on the same path
// fails before it touches the link. Clients wait until there is a stack.
func (d *daemon) listen(context.Context) error {
	path, isDefault, err := control.ListenPath(d.set.socket)
	if err != nil {
		return err
	}
	d.set.socket = path
	server := control.NewServer(control.ServerConfig{
		Backend: d.backend, Path: path, DefaultPath: isDefault,
		Mode: d.set.socketMode, Group: d.set.socketGroup, Logger: d.log,
		Observers: d.observers,
		Metrics:   d.metricsHandler(),
	})
	if err := server.Listen(); err != nil {
		return err
	}
	d.server = server
	if err := forgetLastEnd(path); err != nil {
		d.log.Debug("the end of the last link is still there for doctor", "err", err)
	}
	return d.listenMetrics()
}

// openLink opens the wire. A tap that was there before keeps its MTU for now: the
// host's side changes it, so that it can be undone.
func (d *daemon) openLink(context.Context) (err error) {
	if len(d.set.ports) > 0 {
		if d.fabric, err = newFabric(bridge.Config{Logger: d.log}, d.set.ports, d.set.stateDir, &d.backend.points); err != nil {
			return err
		}
		d.backend.fabric = d.fabric
		d.device, err = d.fabric.stackPort()
		return err
	}
	sp := d.set.spec
	if d.set.hostIf != "" && sp.Kind == kindTap {
		if _, err := net.InterfaceByName(d.set.hostIf); err == nil {
			sp = withoutMTU(sp)
		}
	}
	d.device, err = openLink(sp, d.log)
	return err
}

// reopenLink opens the wire again if its MTU has been changed: a Device states its
// MTU only once.
func (d *daemon) reopenLink() (err error) {
	was := d.device.Info()
	now, err := net.InterfaceByName(was.Name)
	if err != nil || now.MTU == was.MTU {
		return err
	}
	if err := d.device.Close(); err != nil {
		return err
	}
	d.device = nil
	d.device, err = openLink(withoutMTU(d.set.spec), d.log)
	return err
}

// setUpHost brings the host's side up before the first frame.
func (d *daemon) setUpHost(context.Context) (err error) {
	if d.set.hostIf == "" {
		return nil
	}
	networks := d.set.addrs
	if len(networks) == 0 {
		networks = d.set.hostAddrs // where DHCP or SLAAC will put the stack
	}
	d.host, err = hostnet.Setup(hostnet.Config{
		Tap:      d.device.Info().Name,
		Addrs:    d.set.hostAddrs,
		Explicit: d.set.hostExplicit,
		MTU:      d.set.mtu,
		Uplink:   d.set.uplink,
		Bridge:   d.set.bridge,
		Networks: networks,
		StateDir: d.set.stateDir,
		Logger:   d.log,
	})
	if errors.Is(err, hostnet.ErrConfig) {
		return &usageError{err}
	}
	if err != nil {
		return err
	}
	d.backend.warn(d.host.Warnings()...)
	return d.reopenLink()
}

func (d *daemon) startStack(context.Context) error {
	servers, search := d.set.dns, d.set.search
	// A station that gets its address from the network gets its servers there too.
	if servers == nil && !d.set.dhcp && (!d.set.slaac || len(d.set.addrs) > 0) {
		r, err := hostnet.Resolvers("", "")
		if err != nil {
			d.backend.warn(fmt.Sprintf("no DNS server: %v: name one with --dns", err))
		}
		d.backend.warn(r.Warnings...)
		servers, d.backend.borrowed = r.Servers, r.Servers
		if search == nil {
			search = r.Search
		}
	}
	mac, station := d.set.mac, d.device.Info().Station
	switch {
	case mac == nil && station != nil:
		mac = station
	case mac == nil:
		mac = stableMAC(d.device.Info().Name)
	case station != nil && !slices.Equal(mac, station):
		d.backend.warn(fmt.Sprintf("%s delivers frames to %v only: leave out --mac", d.device.Info().Name, station))
	}
	d.device = d.backend.points.add(d.device)
	s, err := stack.New(stack.Config{
		Device:            d.device,
		HardwareAddr:      mac,
		MTU:               d.set.mtu,
		Addrs:             d.set.addrs,
		Gateways:          d.set.gateways,
		DNS:               servers,
		Search:            search,
		SLAAC:             d.set.slaac,
		Logger:            d.log,
		CongestionControl: d.set.congestion,
		LossDetection:     d.set.lossDetection,
		Memory:            d.set.memory,
		Observers:         d.observers,
	})
	if err != nil {
		return err
	}
	d.stack = s
	d.backend.Stack = s
	d.backend.points.lookup = s.LookupNetIP
	return nil
}

// serve answers clients. The stack may still wait for its addresses: its state can be
// seen, and what cannot be reached yet is answered as such.
func (d *daemon) serve(context.Context) error {
	d.backend.await(d.awaited()...)
	d.serveMetrics()
	served := make(chan error, 1)
	go func() { served <- d.server.Serve() }()
	d.served = served
	return nil
}

// ready says that everything is.
func (d *daemon) ready(context.Context) error {
	if d.usable != nil {
		d.usable()
		return nil
	}
	line := d.readyLine()
	if _, err := fmt.Fprintf(d.out, "ustack: %s\n", line); err != nil {
		d.log.Warn("the ready line could not be printed", "err", err)
	}
	if _, err := sd.SdNotify(false, sd.SdNotifyReady+"\nSTATUS="+line); err != nil {
		d.log.Warn("systemd could not be notified", "err", err)
	}
	d.probes = startProbes(d.stack, d.set, d.backend.warnWhile)
	d.probes.tellDrops(d.device, d.log)
	return nil
}

// readyLine says on what the stack is usable.
func (d *daemon) readyLine() string {
	var addrs []string
	mac := ""
	for _, l := range d.backend.Links() {
		if l.Kind != loopbackKind {
			mac = l.HardwareAddr
		}
	}
	for _, a := range d.backend.Addrs() {
		if a.Origin != "loopback" && a.Origin != "link-local" {
			addrs = append(addrs, a.Prefix.String())
		}
	}
	if len(addrs) == 0 {
		addrs = []string{"no address yet"}
	}
	line := fmt.Sprintf("ready on %s: %s, %s; socket %s", d.device.Info().Name, strings.Join(addrs, ", "), mac, d.set.socket)
	if d.metricsTCP != nil {
		line += "; metrics " + d.metricsTCP.URL()
	}
	return line
}

// end releases what was opened, in reverse, within endLimit.
func (d *daemon) end(hurry context.Context) error {
	if d.usable == nil {
		// What notify returns says only that there is no systemd any more.
		sd.SdNotify(false, sd.SdNotifyStopping)
	}
	var errs []error
	if d.probes != nil {
		d.probes.stop()
	}
	begin := time.Now()
	hurry, cancel := context.WithCancel(hurry)
	defer cancel()
	if d.stack != nil && d.stack.Err() != nil {
		cancel() // the link is gone: nothing can be delivered any more
	}
	if d.server != nil {
		ctx, cancel := context.WithDeadline(hurry, begin.Add(drainFlows))
		if d.served == nil {
			errs = append(errs, d.server.Close())
		} else {
			errs = append(errs, ignoreDrain(d.server.Shutdown(ctx)))
			<-d.served
		}
		cancel()
	}
	if d.metricsTCP != nil {
		errs = append(errs, d.metricsTCP.Close())
	}
	if d.dhcp != nil {
		errs = append(errs, d.dhcp.Close())
	}
	if d.stack != nil {
		ctx, cancel := context.WithDeadline(hurry, begin.Add(drainTCP))
		// The host's side is undone below even if netstack should not come back.
		errs = append(errs, within(begin.Add(endLimit), "close the stack", func() error { return ignoreDrain(d.stack.Shutdown(ctx)) }))
		cancel()
	} else if d.device != nil {
		errs = append(errs, d.device.Close())
	}
	if d.fabric != nil {
		errs = append(errs, d.fabric.Close())
	}
	if d.host != nil {
		errs = append(errs, d.host.Close())
	}
	return errors.Join(errs...)
}

// ignoreDrain drops the error of a drain that ran out of time, which is what its
// limit is for.
func ignoreDrain(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// within runs f and gives up waiting for it at the deadline. The process is about
// to end then.
func within(deadline time.Time, what string, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("%s: not done in time, given up", what)
	}
}
