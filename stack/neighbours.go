package stack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sort"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/ustack/ustack/link/tapendpoint"
)

// A Neighbour is an entry of the ARP table (RFC 826) or of the NDP one (RFC 4861).
type Neighbour struct {
	Link         string
	IP           netip.Addr
	HardwareAddr net.HardwareAddr // nil while it is not known
	State        string           // iproute2's word: "reachable", "stale", "permanent" …
	Updated      time.Time
}

var neighbourStates = map[gstack.NeighborState]string{
	gstack.Unknown:     "none",
	gstack.Incomplete:  "incomplete",
	gstack.Reachable:   "reachable",
	gstack.Stale:       "stale",
	gstack.Delay:       "delay",
	gstack.Probe:       "probe",
	gstack.Static:      "permanent",
	gstack.Unreachable: "failed",
}

// NeighbourStates returns every state that a Neighbour can have, sorted.
func NeighbourStates() []string {
	return slices.Sorted(maps.Values(neighbourStates))
}

// Neighbours returns the entries of both tables.
func (s *Stack) Neighbours() []Neighbour {
	var all []Neighbour
	now, mono := time.Now(), s.ns.Clock().NowMonotonic()
	for _, proto := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		entries, terr := s.ns.Neighbors(nicID, proto)
		if terr != nil { // the interface was removed
			continue
		}
		for _, e := range entries {
			n := Neighbour{
				Link:    s.name,
				IP:      fromAddress(e.Addr),
				State:   neighbourStates[e.State],
				Updated: now.Add(-mono.Sub(e.UpdatedAt)),
			}
			if len(e.LinkAddr) > 0 {
				n.HardwareAddr = net.HardwareAddr(e.LinkAddr)
			}
			all = append(all, n)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].IP.Less(all[j].IP) })
	return all
}

// AddNeighbour makes a permanent entry, replacing what is there.
func (s *Stack) AddNeighbour(_ context.Context, ip netip.Addr, mac net.HardwareAddr) error {
	if err := tapendpoint.CheckHardwareAddr(mac); err != nil {
		return fmt.Errorf("stack: add neighbour %v: %w: %w", ip, err, syscall.EINVAL)
	}
	if !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("stack: add neighbour %v: not a station's address: %w", ip, syscall.EINVAL)
	}
	terr := s.ns.AddStaticNeighbor(nicID, protocolOf(ip), toAddress(ip), tcpip.LinkAddress(mac))
	if terr != nil {
		return fmt.Errorf("stack: add neighbour %v: %w", ip, errno(terr))
	}
	return nil
}

// DelNeighbour removes an entry. ENOENT if there is none.
func (s *Stack) DelNeighbour(_ context.Context, ip netip.Addr) error {
	if !ip.IsValid() {
		return fmt.Errorf("stack: delete neighbour: no address: %w", syscall.EINVAL)
	}
	terr := s.ns.RemoveNeighbor(nicID, protocolOf(ip), toAddress(ip))
	if terr == nil {
		return nil
	}
	err := errno(terr)
	if errors.Is(err, syscall.EFAULT) { // netstack's word for an entry that is not there
		err = syscall.ENOENT
	}
	return fmt.Errorf("stack: delete neighbour %v: %w", ip, err)
}
