package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/stack"
)

// The addresses of the demo. The far ones are for documentation (RFC 5737).
const (
	stackAddr  = "10.0.0.4/24"
	routerAddr = "10.0.0.5/24"
	wanAddr    = "203.0.113.1/24"
	dnsAddr    = "203.0.113.53/24"
	siteAddr   = "203.0.113.80/24"
)

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }
func addr(text string) netip.Addr     { return prefix(text).Addr() }

// stackMAC is the stack's hardware address, readable in the ARP lines.
var stackMAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x04}

// A world is everything around the stack: a wire with a router, a DNS server and
// a web server behind it.
type world struct {
	// dev is the stack's end of the wire. newStack takes it.
	dev link.Device
	// command is how the daemon would be started on this wire.
	command string
	// picture shows the world, one line each.
	picture []string
	// seenAs is the address under which the web server knows the stack.
	seenAs netip.Addr
	// why says why this is not the kernel's world, if it is not.
	why string

	closers []func() error
}

// onClose registers what close does, last one first.
func (w *world) onClose(f func() error) { w.closers = append(w.closers, f) }

func (w *world) close() error {
	var errs []error
	for _, f := range slices.Backward(w.closers) {
		errs = append(errs, f())
	}
	w.closers = nil
	return errors.Join(errs...)
}

// newStack puts the demo's stack on a device, recorded.
func newStack(dev link.Device, log *slog.Logger) (*stack.Stack, *recorder, error) {
	rec := newRecorder(dev)
	s, err := stack.New(stack.Config{
		Device:       rec,
		HardwareAddr: stackMAC,
		Addrs:        []netip.Prefix{prefix(stackAddr)},
		Gateways:     []netip.Addr{addr(routerAddr)},
		DNS:          []netip.AddrPort{netip.AddrPortFrom(addr(dnsAddr), 53)},
		Logger:       log,
	})
	return s, rec, err
}

// pipeWorld is the world where the kernel's is not to be had: the router and the
// servers are a second stack at the other end of a wire in memory. That one logs
// nothing: its wire is gone as soon as the first one ends.
func pipeWorld(why string) (w *world, err error) {
	near, far := link.Pipe(link.PipeConfig{Names: [2]string{"pipe0", "pipe1"}})
	w = &world{
		dev:     near,
		seenAs:  addr(stackAddr),
		why:     why,
		command: "ustack up",
		picture: []string{
			"ustack 10.0.0.4 ── pipe in memory ── 10.0.0.5 a second ustack, with a DNS server 203.0.113.53",
			"                                               and a web server 203.0.113.80",
		},
	}
	w.onClose(near.Close)
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	s, err := stack.New(stack.Config{
		Device:       far,
		HardwareAddr: net.HardwareAddr{0x02, 0, 0, 0, 0, 0x05},
		Addrs:        []netip.Prefix{prefix(routerAddr), prefix(dnsAddr), prefix(siteAddr)},
	})
	if err != nil {
		far.Close()
		return w, err
	}
	w.onClose(s.Close)
	udp, err := s.ListenPacket("udp4", fmt.Sprintf("%s:53", addr(dnsAddr)))
	if err != nil {
		return w, err
	}
	tcp, err := s.Listen("tcp4", fmt.Sprintf("%s:80", addr(siteAddr)))
	if err != nil {
		udp.Close()
		return w, err
	}
	internet, err := serve(udp, tcp, addr(siteAddr))
	if err != nil {
		tcp.Close()
		return w, err
	}
	w.onClose(internet.close)
	return w, nil
}

// listenFar opens the servers' sockets in the calling thread's namespace.
func listenFar(ctx context.Context) (udp net.PacketConn, tcp net.Listener, err error) {
	var cfg net.ListenConfig
	udp, err = cfg.ListenPacket(ctx, "udp4", fmt.Sprintf("%s:53", addr(dnsAddr)))
	if err != nil {
		return nil, nil, err
	}
	// Multipath TCP, which package net asks for first, would only add options.
	cfg.SetMultipathTCP(false)
	tcp, err = cfg.Listen(ctx, "tcp4", fmt.Sprintf("%s:80", addr(siteAddr)))
	if err != nil {
		udp.Close()
		return nil, nil, err
	}
	return udp, tcp, nil
}
