package stack

import (
	"net"
	"reflect"
	"strings"
	"unicode"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/ustack/ustack/link"
)

// A Link is one interface of the stack.
type Link struct {
	Name         string
	Kind         string // the device's, or "loopback"
	Driver       string
	HardwareAddr net.HardwareAddr // the stack's own; nil for loopback
	MTU          int              // bytes without the Ethernet header
	State        string           // "up", or "gone" once the wire has ended
	Queues       int
	RX, TX       link.Offloads
	Stats        link.Stats
}

// Links returns the stack's interfaces: its wire, and loopback.
func (s *Stack) Links() []Link {
	info := s.ep.Info()
	wire := Link{
		Name: s.name, Kind: info.Kind, Driver: info.Driver, State: "up",
		HardwareAddr: s.HardwareAddr(),
		MTU:          int(s.ep.MTU()),
		Queues:       s.ep.Queues(),
		RX:           info.RX, TX: info.TX,
		Stats: s.ep.Stats(),
	}
	if isClosed(s.ep.Done()) {
		wire.State = "gone"
	}
	lo := Link{Name: loName, Kind: "loopback", State: "up"}
	if nic, ok := s.ns.SingleNICInfo(loID); ok {
		lo.MTU = int(nic.MTU)
		lo.Stats = link.Stats{
			RxFrames: nic.Stats.Rx.Packets.Value(), RxBytes: nic.Stats.Rx.Bytes.Value(),
			TxFrames: nic.Stats.Tx.Packets.Value(), TxBytes: nic.Stats.Tx.Bytes.Value(),
		}
	}
	return []Link{wire, lo}
}

// HardwareAddr returns the stack's own MAC.
func (s *Stack) HardwareAddr() net.HardwareAddr {
	return net.HardwareAddr(s.ep.LinkAddress())
}

// Name returns the name of the stack's interface on the wire.
func (s *Stack) Name() string { return s.name }

// Stats returns netstack's counters that are not zero, by their path in
// tcpip.Stats in snake case: "ip.packets_received", "tcp.retransmits"; and under
// "memory." what MemoryInfo holds.
func (s *Stack) Stats() map[string]uint64 {
	out := make(map[string]uint64)
	stats := s.ns.Stats()
	collect(reflect.ValueOf(&stats).Elem(), "", out)
	if nic, ok := s.ns.SingleNICInfo(nicID); ok {
		collect(reflect.ValueOf(&nic.Stats).Elem(), "nic.", out)
	}
	mem := s.Memory()
	for name, n := range map[string]uint64{
		"ceiling": uint64(mem.Ceiling), "booked": uint64(mem.Booked), "queued": uint64(mem.Queued),
		"refused": mem.Refused, "shrunk": mem.Shrunk,
	} {
		if n != 0 {
			out["memory."+name] = n
		}
	}
	return out
}

// collect walks a struct of counters.
func collect(v reflect.Value, path string, out map[string]uint64) {
	if v.CanAddr() && v.Addr().CanInterface() {
		switch c := v.Addr().Interface().(type) {
		case *tcpip.StatCounter:
			if n := c.Value(); n != 0 {
				out[strings.TrimSuffix(path, ".")] = n
			}
			return
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() || !v.CanInterface() {
			return
		}
		if c, ok := v.Interface().(*tcpip.StatCounter); ok {
			if n := c.Value(); n != 0 {
				out[strings.TrimSuffix(path, ".")] = n
			}
			return
		}
		collect(v.Elem(), path, out)
	case reflect.Struct:
		t := v.Type()
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && f.Name != "NICs" { // the sum over all interfaces, loopback's included
				p := path
				if !f.Anonymous {
					p += snake(f.Name) + "."
				}
				collect(v.Field(i), p, out)
			}
		}
	}
}

// snake turns a Go name into snake case: "ICMPv4PacketsSent" into
// "icmpv4_packets_sent".
func snake(name string) string {
	var b strings.Builder
	r := []rune(name)
	for i, c := range r {
		if unicode.IsUpper(c) && i > 0 &&
			(!unicode.IsUpper(r[i-1]) || i+1 < len(r) && unicode.IsLower(r[i+1]) && !(r[i+1] == 'v' && i+2 < len(r) && unicode.IsDigit(r[i+2]))) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}
