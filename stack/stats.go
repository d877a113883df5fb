package stack

import (
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/tapendpoint"
)

// A Link is one interface of the stack.
type Link struct {
	Name         string
	Kind         string // the device's, or "loopback"
	Driver       string
	HardwareAddr net.HardwareAddr // the stack's own; nil for loopback
	MTU          int              // bytes without the Ethernet header
	State        string           // "up", "waiting" for the wire's far end (Stats.Waiting), or "gone" once the wire has ended
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
	switch {
	case isClosed(s.ep.Done()):
		wire.State = "gone"
	case wire.Stats.Waiting != "":
		wire.State = "waiting"
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

// DropReasons returns every reason that Link.Stats.Drops can have for the wires of this
// module, sorted.
func DropReasons() []string {
	all := slices.Concat(link.DropReasons(), tapendpoint.DropReasons())
	slices.Sort(all)
	return slices.Compact(all)
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
	out := s.Counters()
	maps.DeleteFunc(out, func(_ string, n uint64) bool { return n == 0 })
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

// Counters returns all of netstack's counters by the names of Stats. Those of the wire
// begin with "nic."; all others are sums over loopback too. It takes no lock of a socket.
func (s *Stack) Counters() map[string]uint64 {
	out := make(map[string]uint64)
	stats := s.ns.Stats()
	collect(reflect.ValueOf(&stats).Elem(), "", out)
	if nic, ok := s.ns.SingleNICInfo(nicID); ok {
		collect(reflect.ValueOf(&nic.Stats).Elem(), "nic.", out)
	}
	return out
}

// collect reads a struct of counters.
func collect(v reflect.Value, path string, out map[string]uint64) {
	walkCounters(v, path, func(name string, c counter) { out[name] = c.Value() })
}

// A counter is a counter of netstack's.
type counter interface{ Value() uint64 }

// A sumCounter is counters by what the wire named: their sum is enough.
type sumCounter struct{ *tcpip.IntegralStatCounterMap }

// Value implements counter.
func (m sumCounter) Value() uint64 {
	var sum uint64
	for _, key := range m.Keys() {
		if n, ok := m.Get(key); ok {
			sum += n.Value()
		}
	}
	return sum
}

// walkCounters calls f with every counter of a struct.
func walkCounters(v reflect.Value, path string, f func(name string, c counter)) {
	if v.Kind() == reflect.Pointer && v.IsNil() || !v.CanInterface() {
		return
	}
	here := v.Interface()
	if v.Kind() != reflect.Pointer && v.CanAddr() {
		here = v.Addr().Interface()
	}
	switch c := here.(type) {
	case *tcpip.StatCounter:
		f(strings.TrimSuffix(path, "."), c)
		return
	case *tcpip.IntegralStatCounterMap:
		f(strings.TrimSuffix(path, "."), sumCounter{c})
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		walkCounters(v.Elem(), path, f)
	case reflect.Struct:
		t := v.Type()
		for i := range t.NumField() {
			if sf := t.Field(i); sf.IsExported() && sf.Name != "NICs" { // the sum over all interfaces, loopback's included
				p := path
				if !sf.Anonymous {
					p += snake(sf.Name) + "."
				}
				walkCounters(v.Field(i), p, f)
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
