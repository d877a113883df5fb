package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/link/spec"
	"github.com/ustack/ustack/stack"
)

// inProcess is ustack's stack in the process of the application.
type inProcess struct{ *stack.Stack }

// newInProcess opens the link of a SPEC, in the namespace of the process, for a stack
// with settings other than its own.
func newInProcess(link string, settings []string) (network, error) {
	cfg := stack.Config{Addrs: []netip.Prefix{stackPrefix}}
	for _, set := range settings {
		switch {
		case slices.Contains(stack.CongestionControls, set):
			cfg.CongestionControl = set
		case slices.Contains(stack.LossDetections, set):
			cfg.LossDetection = set
		case strings.HasPrefix(set, "rto="):
			var err error
			if cfg.MinRTO, err = time.ParseDuration(set[len("rto="):]); err != nil {
				return nil, fmt.Errorf("setting %q: %w", set, err)
			}
		case strings.HasPrefix(set, "memory="):
			var err error
			if cfg.Memory, err = strconv.ParseInt(set[len("memory="):], 10, 64); err != nil {
				return nil, fmt.Errorf("setting %q: %w", set, err)
			}
		default:
			return nil, fmt.Errorf("no setting of the stack is called %q", set)
		}
	}
	sp, err := spec.Parse(link)
	if err != nil {
		return nil, err
	}
	dev, err := spec.Open(sp, spec.Env{})
	if err != nil {
		return nil, err
	}
	cfg.Device = dev
	s, err := stack.New(cfg)
	if err != nil {
		dev.Close()
		return nil, err
	}
	return inProcess{s}, nil
}

func (n inProcess) ListenTCP(port int) (net.Listener, error) {
	return n.Listen("tcp4", fmt.Sprintf(":%d", port))
}

func (n inProcess) ListenUDP(port int) (datagrams, error) {
	c, err := n.ListenPacket("udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, err
	}
	return c.(*stack.UDPConn), nil
}

// Counters returns those of TCP.
func (n inProcess) Counters() (map[string]int64, error) {
	all := make(map[string]int64)
	for name, v := range n.Stats() {
		if tcp, ok := strings.CutPrefix(name, "tcp."); ok {
			all[tcp] = int64(v)
		}
	}
	return all, nil
}

// throughDaemon is a stack in another process, through its control socket.
type throughDaemon struct{ *control.Client }

func newThroughDaemon(socket string) (network, error) {
	return throughDaemon{&control.Client{Path: socket}}, nil
}

func (n throughDaemon) ListenTCP(port int) (net.Listener, error) {
	return n.Listen(context.Background(), "tcp4", fmt.Sprintf(":%d", port))
}

func (n throughDaemon) ListenUDP(port int) (datagrams, error) {
	c, err := n.ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, err
	}
	return c.(*control.DatagramConn), nil
}

// openNetwork opens what the server of a role listens on: "kernel", "daemon:SOCKET",
// "naive:TAP", or "ustack:SPEC", where settings of the stack follow as in
// "ustack/cubic/rto=50ms:SPEC".
func openNetwork(text string) (network, error) {
	kind, rest, _ := strings.Cut(text, ":")
	kind, set, _ := strings.Cut(kind, "/")
	switch kind {
	case "kernel":
		return kernelNet{}, nil
	case "daemon":
		return newThroughDaemon(rest)
	case "ustack":
		var settings []string
		if set != "" {
			settings = strings.Split(set, "/")
		}
		return newInProcess(rest, settings)
	case "naive":
		return newNaive(rest)
	}
	return nil, fmt.Errorf("no network is called %q", text)
}
