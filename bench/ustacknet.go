package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/link/spec"
	"github.com/ustack/ustack/stack"
)

// inProcess is ustack's stack in the process of the application.
type inProcess struct{ *stack.Stack }

// newInProcess opens the link of a SPEC, in the namespace of the process.
func newInProcess(link string) (network, error) {
	sp, err := spec.Parse(link)
	if err != nil {
		return nil, err
	}
	dev, err := spec.Open(sp, spec.Env{})
	if err != nil {
		return nil, err
	}
	s, err := stack.New(stack.Config{Device: dev, Addrs: []netip.Prefix{stackPrefix}})
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
// "naive:TAP", or "ustack:SPEC".
func openNetwork(text string) (network, error) {
	kind, rest, _ := strings.Cut(text, ":")
	switch kind {
	case "kernel":
		return kernelNet{}, nil
	case "daemon":
		return newThroughDaemon(rest)
	case "ustack":
		return newInProcess(rest)
	case "naive":
		return newNaive(rest)
	}
	return nil, fmt.Errorf("no network is called %q", text)
}
