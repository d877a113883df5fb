package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/stack"
)

// backend offers a stack.Stack as the control.Backend of a Server.
type backend struct {
	// Stack answers what has the same signature on both sides. It is set before
	// the server serves.
	*stack.Stack
	points
	link     string           // as given to --link
	fabric   *fabric          // the switch that the stack is a port of, or nil; set before the server serves
	borrowed []netip.AddrPort // the host's name servers, where they are the stack's
	started  time.Time
	log      *slog.Logger

	mu       sync.Mutex
	warnings []warning // guarded by mu
	awaited  []string  // what the stack is not usable before; guarded by mu
}

// A warning is a condition that the user should know of.
type warning struct {
	text string
	// stands reports whether it still matters; nil means that it always does.
	stands func() bool
}

var (
	_ control.Backend  = (*backend)(nil)
	_ control.Switch   = (*backend)(nil)
	_ control.Capturer = (*backend)(nil)
)

func newBackend(link string, log *slog.Logger) *backend {
	return &backend{link: link, started: time.Now(), log: log}
}

// warn logs conditions that the user should know of, and keeps them for Status.
func (b *backend) warn(texts ...string) {
	for _, text := range texts {
		b.warnWhile(nil, text)
	}
}

// warnWhile is warn for what Status only tells while stands returns true.
func (b *backend) warnWhile(stands func() bool, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.ContainsFunc(b.warnings, func(w warning) bool { return w.text == text }) {
		b.warnings = append(b.warnings, warning{text, stands})
		b.log.Warn(text)
	}
}

// await says what the stack is not usable before, for Status; nothing ends it.
func (b *backend) await(what ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.awaited = what
}

// conditions returns what Status warns of.
func (b *backend) conditions() []string {
	b.mu.Lock()
	known, awaited := slices.Clone(b.warnings), b.awaited
	b.mu.Unlock()
	var all []string
	for _, w := range known {
		if w.stands == nil || w.stands() {
			all = append(all, w.text)
		}
	}
	all = append(all, b.Stack.Warnings()...)
	if b.fabric != nil {
		all = append(all, b.fabric.conditions()...)
	}
	switch {
	case len(awaited) > 0:
		all = append(all, fmt.Sprintf("not ready yet: waiting for %s, at most %v", strings.Join(awaited, " and "), usableLimit))
	case !b.hasAddress():
		all = append(all, noAddress)
	}
	return all
}

// Socket implements control.Backend.
func (b *backend) Socket(network string) (control.Socket, error) {
	s, err := b.Stack.Socket(network)
	if err != nil {
		return nil, err
	}
	return socket{s}, nil
}

// UDP implements control.Backend.
func (b *backend) UDP(network string, local, remote netip.AddrPort, options map[string]int) (control.PacketConn, error) {
	c, err := b.Stack.UDPOptions(network, local, remote, options)
	if err != nil {
		return nil, err
	}
	return udpConn{c}, nil
}

// ICMP implements control.Backend.
func (b *backend) ICMP(network string) (control.ICMPConn, error) {
	c, err := b.Stack.ICMP(network)
	if err != nil {
		return nil, err
	}
	return icmpConn{c}, nil
}

// Status implements control.Backend. The server adds what only it knows.
func (b *backend) Status() control.Status {
	servers, search := b.DNS()
	dns := make([]string, 0, len(servers))
	for _, s := range servers {
		dns = append(dns, s.String())
	}
	warnings := b.conditions()
	links := b.Links()
	for _, l := range links {
		switch l.State {
		case "down":
			warnings = append(warnings, fmt.Sprintf("%s is down on the host, so nothing gets through: ip link set %s up", l.Name, l.Name))
		case "waiting":
			warnings = append(warnings, fmt.Sprintf("%s: nothing gets through: %s", l.Name, l.Why))
		}
	}
	return control.Status{
		Version:     versionText(),
		PID:         os.Getpid(),
		Started:     b.started,
		Uptime:      time.Since(b.started),
		Links:       links,
		Addrs:       b.Addrs(),
		Routes:      b.Routes(),
		DNS:         dns,
		DNSBorrowed: len(servers) > 0 && slices.Equal(servers, b.borrowed),
		Search:      search,
		Warnings:    warnings,
		Sockets:     len(b.Stack.Sockets()),
	}
}

// noAddress is the warning of a stack that can reach nobody.
const noAddress = "the stack has no address: give it one with 'ustack addr add CIDR', with --addr, or by --dhcp or --slaac from the network"

// hasAddress reports whether the stack has an address beyond those that every
// stack has.
func (b *backend) hasAddress() bool {
	return slices.ContainsFunc(b.Stack.Addrs(), func(a stack.Addr) bool {
		return a.Origin != stack.OriginLoopback && a.Origin != stack.OriginLinkLocal
	})
}

// Links implements control.Backend.
func (b *backend) Links() []control.Link {
	return convert(b.Stack.Links(), func(l stack.Link) control.Link {
		out := control.Link{
			Name: l.Name, Kind: l.Kind, Driver: l.Driver, HardwareAddr: l.HardwareAddr.String(),
			MTU: l.MTU, State: l.State, Why: l.Stats.Waiting, Queues: l.Queues,
			RxFrames: l.Stats.RxFrames, RxBytes: l.Stats.RxBytes,
			TxFrames: l.Stats.TxFrames, TxBytes: l.Stats.TxBytes, Drops: l.Stats.Drops,
		}
		if l.Kind == kindTap && l.State == "up" && isDown(l.Name) {
			out.State = "down"
		}
		if l.Kind != loopbackKind {
			out.Spec, out.OffloadsRX, out.OffloadsTX = b.link, l.RX.String(), l.TX.String()
		}
		return out
	})
}

// isDown reports whether the host's interface behind a tap has been brought down:
// every frame written to it is lost then.
func isDown(name string) bool {
	i, err := net.InterfaceByName(name)
	return err == nil && i.Flags&net.FlagUp == 0
}

// FDB implements control.Switch.
func (b *backend) FDB() (fdb control.FDB, ok bool) {
	if b.fabric == nil {
		return fdb, false
	}
	return b.fabric.FDB(), true
}

// Addrs implements control.Backend.
func (b *backend) Addrs() []control.Addr {
	return convert(b.Stack.Addrs(), func(a stack.Addr) control.Addr { return control.Addr(a) })
}

// Routes implements control.Backend.
func (b *backend) Routes() []control.Route {
	return convert(b.Stack.Routes(), func(r stack.Route) control.Route { return control.Route(r) })
}

// Neighbours implements control.Backend.
func (b *backend) Neighbours() []control.Neighbour {
	return convert(b.Stack.Neighbours(), func(n stack.Neighbour) control.Neighbour {
		return control.Neighbour{
			Link: n.Link, IP: n.IP, HardwareAddr: n.HardwareAddr.String(), State: n.State, Updated: n.Updated,
		}
	})
}

// Sockets implements control.Backend.
func (b *backend) Sockets() []control.SocketInfo {
	return convert(b.Stack.Sockets(), func(s stack.SocketInfo) control.SocketInfo {
		out := control.SocketInfo{
			Network: s.Network, State: s.State, Local: s.Local.String(), RecvQ: s.RecvQ, SendQ: s.SendQ,
		}
		if s.Remote.IsValid() {
			out.Remote = s.Remote.String()
		}
		return out
	})
}

// Stats implements control.Backend. The server adds the number of flows.
func (b *backend) Stats() control.Stats {
	return control.Stats{Counters: b.Stack.Stats(), Goroutines: runtime.NumGoroutine(), Descriptors: descriptors(), RSS: residentBytes()}
}

// descriptors returns how many this process has open.
func descriptors() int {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(fds) - 1 // without the one that reads the directory
}

// residentBytes returns the resident memory of this process: the second field of
// /proc/self/statm (proc_pid_statm(5)), which counts pages.
func residentBytes() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var total, resident uint64
	if _, err := fmt.Sscan(string(text), &total, &resident); err != nil {
		return 0
	}
	return resident * uint64(os.Getpagesize())
}

// AddRoute implements control.Backend.
func (b *backend) AddRoute(ctx context.Context, r control.Route) error {
	return b.Stack.AddRoute(ctx, stack.Route(r))
}

// DelRoute implements control.Backend.
func (b *backend) DelRoute(ctx context.Context, r control.Route) error {
	return b.Stack.DelRoute(ctx, stack.Route(r))
}

// AddNeighbour implements control.Backend.
func (b *backend) AddNeighbour(ctx context.Context, n control.Neighbour) error {
	mac, err := net.ParseMAC(n.HardwareAddr)
	if err != nil {
		return fmt.Errorf("add neighbour %s: hardware address %q: %w", n.IP, n.HardwareAddr, syscall.EINVAL)
	}
	return b.Stack.AddNeighbour(ctx, n.IP, mac)
}

// loopbackKind is the kind of the stack's own loopback interface.
const loopbackKind = "loopback"

// convert applies f to every element.
func convert[From, To any](list []From, f func(From) To) []To {
	out := make([]To, 0, len(list))
	for _, v := range list {
		out = append(out, f(v))
	}
	return out
}

// socket is a stack.Socket whose results are control's interfaces.
type socket struct{ *stack.Socket }

func (s socket) Connect(ctx context.Context, remote netip.AddrPort) (control.Conn, error) {
	c, err := s.Socket.Connect(ctx, remote)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (s socket) Listen(backlog int) (control.Listener, error) {
	l, err := s.Socket.Listen(backlog)
	if err != nil {
		return nil, err
	}
	return listener{l}, nil
}

// listener is a stack.TCPListener that accepts control.Conns.
type listener struct{ *stack.TCPListener }

func (l listener) Accept() (control.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// TryAccept implements control.TryListener.
func (l listener) TryAccept() (control.Conn, error) {
	c, err := l.TryAcceptTCP()
	if c == nil || err != nil {
		return nil, err
	}
	return c, nil
}

// udpConn is a stack.UDPConn that receives control's messages.
type udpConn struct{ *stack.UDPConn }

func (c udpConn) ReadMessage(b []byte) (control.DatagramInfo, error) {
	m, err := c.UDPConn.ReadMessage(b)
	return control.DatagramInfo(m), err
}

// ReceiveInfo implements control.PacketConn: the stack tells all in any case.
func (udpConn) ReceiveInfo() {}

// icmpConn is a stack.ICMPConn that receives control's messages.
type icmpConn struct{ *stack.ICMPConn }

func (c icmpConn) ReadICMP() (control.ICMPMessage, error) {
	m, err := c.ICMPConn.ReadICMP()
	return control.ICMPMessage(m), err
}
