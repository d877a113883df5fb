package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/ustack/ustack/control"
)

// noStack is the control.Backend of a daemon that only switches frames: whatever needs a stack
// answers ENETDOWN, as a kernel without an interface does.
type noStack struct {
	*points
	fabric  *fabric
	started time.Time
}

var (
	_ control.Backend  = (*noStack)(nil)
	_ control.Switch   = (*noStack)(nil)
	_ control.Capturer = (*noStack)(nil)
)

func without(what string) error {
	return fmt.Errorf("%s: this daemon only switches frames: use one with a stack, of 'ustack up': %w", what, syscall.ENETDOWN)
}

func (*noStack) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, without("dial")
}
func (*noStack) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return nil, without("resolve")
}
func (*noStack) Socket(string) (control.Socket, error) { return nil, without("socket") }
func (*noStack) UDP(string, netip.AddrPort, netip.AddrPort, map[string]int) (control.PacketConn, error) {
	return nil, without("socket")
}
func (*noStack) ICMP(string) (control.ICMPConn, error)          { return nil, without("socket") }
func (*noStack) AddAddr(context.Context, netip.Prefix) error    { return without("add address") }
func (*noStack) DelAddr(context.Context, netip.Prefix) error    { return without("delete address") }
func (*noStack) AddRoute(context.Context, control.Route) error  { return without("add route") }
func (*noStack) DelRoute(context.Context, control.Route) error  { return without("delete route") }
func (*noStack) DelNeighbour(context.Context, netip.Addr) error { return without("delete neighbour") }
func (*noStack) AddNeighbour(context.Context, control.Neighbour) error {
	return without("add neighbour")
}

func (*noStack) Links() []control.Link           { return nil }
func (*noStack) Addrs() []control.Addr           { return nil }
func (*noStack) Routes() []control.Route         { return nil }
func (*noStack) Neighbours() []control.Neighbour { return nil }
func (*noStack) Sockets() []control.SocketInfo   { return nil }

// FDB implements control.Switch.
func (b *noStack) FDB() (control.FDB, bool) { return b.fabric.FDB(), true }

// Status implements control.Backend.
func (b *noStack) Status() control.Status {
	return control.Status{
		Version: versionText(), PID: os.Getpid(), Started: b.started, Uptime: time.Since(b.started),
		DNS: []string{}, Warnings: b.fabric.conditions(),
	}
}

// Stats implements control.Backend.
func (b *noStack) Stats() control.Stats {
	return control.Stats{Counters: map[string]uint64{}, Goroutines: runtime.NumGoroutine(), Descriptors: descriptors(), RSS: residentBytes()}
}

// conditions returns what is wrong with the ports, for Status.
func (f *fabric) conditions() []string {
	var all []string
	for _, p := range f.states() {
		if p.State != "forwarding" {
			all = append(all, fmt.Sprintf("port %s is %s: %s", p.Name, p.State, p.Why))
		}
	}
	return all
}
