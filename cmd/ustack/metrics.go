package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/ustack/ustack/metrics"
	"github.com/ustack/ustack/stack"
)

// resolveMetrics checks HOST:PORT of --metrics.
func (f *upFlags) resolveMetrics(s *settings, from origins) error {
	if f.metrics == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(f.metrics)
	if err != nil {
		return usagef("%s %q: not HOST:PORT: write one such as 127.0.0.1:9100 or [::1]:9100, or :9100 for every address of the host", from.of("metrics"), f.metrics)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return usagef("%s %q: not a port: write a number up to 65535, or 0 for any free one", from.of("metrics"), f.metrics)
	}
	if _, err := netip.ParseAddr(host); host != "" && err != nil && !isDomain(host) {
		return usagef("%s %q: not an address of this host: write one such as 127.0.0.1:9100, or :9100 for all of them", from.of("metrics"), f.metrics)
	}
	s.metrics = f.metrics
	return nil
}

// listenMetrics opens the port of --metrics. Clients wait until there is a stack.
func (d *daemon) listenMetrics() (err error) {
	if d.set.metrics == "" {
		return nil
	}
	d.metricsTCP, err = metrics.Listen(d.set.metrics, d.log)
	if err == nil {
		return nil
	}
	hint := "use an address of this host, such as 127.0.0.1:9100"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "another program listens there: use another port, or 0 for any free one"
	case errors.Is(err, syscall.EACCES):
		hint = "use a port above 1023"
	}
	return fmt.Errorf("metrics on %s: %w: %s", d.set.metrics, errnoOf(err), hint)
}

// errnoOf is what went wrong without where.
func errnoOf(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// serveMetrics makes the handler of both ways to the metrics, once there is a stack.
func (d *daemon) serveMetrics() {
	cfg := metrics.Config{
		Stack:   d.stack,
		Control: d.server.Counts,
		IsUp:    func(l stack.Link) bool { return l.Kind != kindTap || !isDown(l.Name) },
		Version: versionText(),
	}
	if d.fabric != nil {
		cfg.Ports = d.fabric.states
	}
	d.metrics = metrics.NewHandler(cfg, d.log)
	if d.metricsTCP != nil {
		d.metricsTCP.Serve(d.metrics)
	}
}

// metricsHandler answers on the control socket, which serves nobody before serveMetrics.
func (d *daemon) metricsHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.metrics.ServeHTTP(w, r) })
}
