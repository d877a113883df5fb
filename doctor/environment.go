package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/link/spec"
)

// A Mode says who reads and writes the tap's frames.
type Mode string

// The Modes of an Environment.
const (
	ModeDaemon  Mode = "daemon"  // a ustack daemon that answers
	ModeOwn     Mode = "own"     // nobody: a private stack takes its place
	ModeProgram Mode = "program" // a program of which only the frames are seen
)

// An Environment is all that the checks look at: a snapshot of both sides, and what the
// probes saw. It can be made up for tests.
type Environment struct {
	// Link is the tap's name.
	Link string
	Mode Mode
	// Holders are the processes that have a descriptor of the tap.
	Holders []Holder
	// Detached are the processes with a descriptor of a tap that is attached to none.
	Detached []Holder
	// LastEnd and Program are the Config's.
	LastEnd string
	Program bool
	// Wanted are the addresses that Config.Addrs says somebody on the tap should have.
	Wanted []netip.Addr

	// Links are the interfaces of the tap's namespace, with their counters before the
	// probes.
	Links      []netlink.Link
	Ethtool    map[string]Ethtool // by name: the tap and its neighbours in a bridge or bond
	Addrs      []netlink.Addr
	Routes     []netlink.Route // of all tables
	Neighbours []netlink.Neigh
	// Network is the host's side of what lies beyond the tap.
	Network Network

	// Stack is the stack's side; nil for ModeProgram, and where it was not started
	// as the path is broken.
	Stack *Stack
	// OpenErr says why the tap could not be opened for a private stack.
	OpenErr error
	// Observed is what the probes saw; nil where none were sent.
	Observed *Observed
	// Notes say what could not be looked at.
	Notes []string
}

// A Holder is a process with a descriptor of the clone device.
type Holder struct {
	PID     int
	Program string
	// State is what /proc says of it: "S (sleeping)", "T (stopped)".
	State string
	// Elsewhere says that it is in another network namespace: it may hold a tap of the
	// same name there.
	Elsewhere bool
}

func (h Holder) String() string { return fmt.Sprintf("pid %d (%s)", h.PID, h.Program) }

// An Ethtool is what ETHTOOL_GSET and its like say of an interface.
type Ethtool struct {
	Known bool
	// Speed is in Mbit/s, 0 where it is not known.
	Speed uint32
	// Duplex is "full", "half" or "unknown".
	Duplex string
	// TxChecksum and TSO are whether the reader of a tap gets frames with a checksum
	// left to it, and super-frames.
	TxChecksum, TSO bool
}

// A Stack is the stack's side of the wire.
type Stack struct {
	PID        int // 0 for a private one
	Link       control.Link
	Addrs      []control.Addr
	Routes     []control.Route
	Neighbours []control.Neighbour
	DNS        []netip.AddrPort
	Counters   map[string]uint64
}

// Interface returns an interface by its name, nil if there is none.
func (e *Environment) Interface(name string) netlink.Link {
	for _, l := range e.Links {
		if l.Attrs().Name == name {
			return l
		}
	}
	return nil
}

// names lists the interfaces.
func (e *Environment) names() string {
	all := make([]string, len(e.Links))
	for i, l := range e.Links {
		all[i] = l.Attrs().Name
	}
	return strings.Join(all, ", ")
}

// ByIndex returns an interface by its index, nil if there is none.
func (e *Environment) ByIndex(index int) netlink.Link {
	for _, l := range e.Links {
		if l.Attrs().Index == index {
			return l
		}
	}
	return nil
}

// Tap returns the tap, nil if there is no interface of its name or if that is none.
func (e *Environment) Tap() *netlink.Tuntap {
	t, _ := e.Interface(e.Link).(*netlink.Tuntap)
	if t == nil || t.Mode != netlink.TUNTAP_MODE_TAP {
		return nil
	}
	return t
}

// Master returns the bridge or bond that the tap is a port of, nil without one.
func (e *Environment) Master() netlink.Link {
	if t := e.Tap(); t != nil && t.MasterIndex != 0 {
		return e.ByIndex(t.MasterIndex)
	}
	return nil
}

// Ports returns the ports of a bridge or bond.
func (e *Environment) Ports(master netlink.Link) (ports []netlink.Link) {
	for _, l := range e.Links {
		if l.Attrs().MasterIndex == master.Attrs().Index {
			ports = append(ports, l)
		}
	}
	return ports
}

// Host returns the interface that has the host's addresses on the tap's network: the
// bridge that the tap is a port of, else the tap. It is nil if the tap is.
func (e *Environment) Host() netlink.Link {
	if m := e.Master(); m != nil {
		return m
	}
	if t := e.Tap(); t != nil {
		return t
	}
	return nil
}

// HostAddrs returns the addresses of Host, link-local ones last.
func (e *Environment) HostAddrs() (all []netip.Prefix) {
	host := e.Host()
	if host == nil {
		return nil
	}
	for _, a := range e.Addrs {
		if a.LinkIndex != host.Attrs().Index {
			continue
		}
		if p, ok := prefixOf(a.IPNet); ok {
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b netip.Prefix) int {
		return boolInt(a.Addr().IsLinkLocalUnicast()) - boolInt(b.Addr().IsLinkLocalUnicast())
	})
	return all
}

// Holder returns who holds the tap in words, "" if nobody does.
func (e *Environment) Holder() string {
	all := make([]string, len(e.Holders))
	for i, h := range e.Holders {
		all[i] = h.String()
	}
	return strings.Join(all, ", ")
}

// who says in words who reads and writes the tap's frames.
func (e *Environment) who() string {
	switch {
	case e.Mode == ModeDaemon && e.Stack != nil:
		return fmt.Sprintf("the ustack daemon, pid %d", e.Stack.PID)
	case e.Mode == ModeProgram:
		return e.Holder()
	}
	return ""
}

// impaired reports whether the stack's SPEC has an option that disturbs frames on
// purpose.
func (e *Environment) impaired(option string) bool {
	if e.Stack == nil {
		return false
	}
	s, err := spec.Parse(e.Stack.Link.Spec)
	return err == nil && slices.ContainsFunc(s.Options, func(o spec.Option) bool { return o.Name == option })
}

// notef adds to Notes.
func (e *Environment) notef(format string, args ...any) {
	e.Notes = append(e.Notes, fmt.Sprintf(format, args...))
}

// summary says what is examined, in one line.
func (e *Environment) summary() string {
	s := fmt.Sprintf("%s, held by %s", e.Link, orNobody(e.who()))
	if e.Stack != nil {
		s += fmt.Sprintf("; stack %s at %s", orNone(addrList(e.Stack.prefixes())), e.Stack.Link.HardwareAddr)
	}
	if host := e.Host(); host != nil {
		s += fmt.Sprintf("; host %s at %s", orNone(addrList(e.HostAddrs())), host.Attrs().HardwareAddr)
		if m := e.Master(); m != nil {
			s += fmt.Sprintf(" (%s %s)", m.Type(), m.Attrs().Name)
		}
	}
	return s
}

// prefixes returns the stack's addresses on the wire, link-local ones last.
func (s *Stack) prefixes() (all []netip.Prefix) {
	for _, local := range []bool{false, true} {
		for _, a := range s.Addrs {
			if a.Origin != "loopback" && a.Prefix.Addr().IsLinkLocalUnicast() == local {
				all = append(all, a.Prefix)
			}
		}
	}
	return all
}

// mac returns the stack's own address, nil if it has none.
func (s *Stack) mac() net.HardwareAddr {
	mac, err := net.ParseMAC(s.Link.HardwareAddr)
	if err != nil {
		return nil
	}
	return mac
}

func addrList(all []netip.Prefix) string {
	words := make([]string, len(all))
	for i, p := range all {
		words[i] = p.String()
	}
	return strings.Join(words, ", ")
}

func orNone(s string) string {
	if s == "" {
		return "without an address"
	}
	return s
}

func orNobody(s string) string {
	if s == "" {
		return "nobody"
	}
	return s
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(ip.Unmap(), ones), true
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
