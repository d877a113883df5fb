package stack

import (
	"net/netip"
	"reflect"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// An Account reads the counters that tell what netstack made of the frames of the wire.
// They are those of Stats by their names, but only the wire's, where netstack keeps
// them apart from loopback's: the interface's, IP's, ICMP's and ARP's, not UDP's and TCP's.
type Account struct {
	names    []string
	counters []counter
}

// Account returns the stack's. The two families of IP have counters of the same names.
func (s *Stack) Account() *Account {
	a := new(Account)
	if nic, ok := s.ns.NICInfo()[nicID]; ok {
		a.add(reflect.ValueOf(&nic.Stats).Elem(), "nic.")
		if st, ok := nic.NetworkStats[arp.ProtocolNumber].(*arp.Stats); ok {
			a.add(reflect.ValueOf(&st.ARP).Elem(), "arp.")
		}
		if st, ok := nic.NetworkStats[ipv4.ProtocolNumber].(*ipv4.Stats); ok {
			a.add(reflect.ValueOf(&st.IP).Elem(), "ip.")
			a.add(reflect.ValueOf(&st.ICMP).Elem(), "icmp.v4.")
			a.add(reflect.ValueOf(&st.IGMP).Elem(), "igmp.")
		}
		if st, ok := nic.NetworkStats[ipv6.ProtocolNumber].(*ipv6.Stats); ok {
			a.add(reflect.ValueOf(&st.IP).Elem(), "ip.")
			a.add(reflect.ValueOf(&st.ICMP).Elem(), "icmp.v6.")
		}
	}
	stats := s.ns.Stats()
	a.add(reflect.ValueOf(&stats.UDP).Elem(), "udp.")
	a.add(reflect.ValueOf(&stats.TCP).Elem(), "tcp.")
	a.names = append(a.names, CounterICMPFull)
	a.counters = append(a.counters, stats.DroppedPackets)
	return a
}

func (a *Account) add(v reflect.Value, prefix string) {
	walkCounters(v, prefix, func(name string, c counter) {
		a.names, a.counters = append(a.names, name), append(a.counters, c)
	})
}

// Names returns the names of what Read reads, in its order.
func (a *Account) Names() []string { return a.names }

// Read appends the values of the counters to dst.
func (a *Account) Read(dst []uint64) []uint64 {
	for _, c := range a.counters {
		dst = append(dst, c.Value())
	}
	return dst
}

// A TCPView is a TCP socket as the frames for it see it.
type TCPView struct {
	Local netip.AddrPort
	// Remote is the zero AddrPort for a listener.
	Remote netip.AddrPort
	State  string // as in SocketInfo
	// Segments is how many were taken for the socket, the others those that were not.
	Segments, Malformed, Checksum, QueueFull, SynOverflow, AckOverflow uint64
	// Arrived counts the peer's bytes that came in order, from a number that stays the
	// same as long as there are observers.
	Arrived uint64
}

// TCPSocket returns the socket that a segment from remote to local is for.
func (s *Stack) TCPSocket(local, remote netip.AddrPort) (TCPView, bool) {
	ep := s.tcpEndpoint(local, remote)
	if ep == nil {
		return TCPView{}, false
	}
	v := TCPView{Local: local, State: tcpStates[ep.EndpointState()].name}
	if info, ok := ep.Info().(*gstack.TransportEndpointInfo); ok {
		id := &info.ID
		v.Local = fromFull(tcpip.FullAddress{Addr: id.LocalAddress, Port: id.LocalPort}, info.NetProto)
		if id.RemotePort != 0 {
			v.Remote = fromFull(tcpip.FullAddress{Addr: id.RemoteAddress, Port: id.RemotePort}, info.NetProto)
		}
	}
	if st, ok := ep.Stats().(*tcp.Stats); ok {
		v.Segments = st.SegmentsReceived.Value()
		v.Malformed = st.ReceiveErrors.MalformedPacketsReceived.Value()
		v.Checksum = st.ReceiveErrors.ChecksumErrors.Value()
		v.QueueFull = st.ReceiveErrors.SegmentQueueDropped.Value()
		v.SynOverflow = st.ReceiveErrors.ListenOverflowSynDrop.Value()
		v.AckOverflow = st.ReceiveErrors.ListenOverflowAckDrop.Value()
	}
	if c := s.conns.of(ep); c != nil {
		v.Arrived = c.arrived()
	} else if n, terr := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); terr == nil {
		v.Arrived = uint64(n)
	}
	return v, true
}

// HasSocket reports whether there is a socket for packets from remote to local; network is
// "tcp" or "udp".
func (s *Stack) HasSocket(network string, local, remote netip.AddrPort) bool {
	proto := udp.ProtocolNumber
	if network == "tcp" {
		proto = tcp.ProtocolNumber
	}
	return s.ns.FindTransportEndpoint(protocolOf(local.Addr()), proto, endpointID(local, remote), nicID) != nil
}

func endpointID(local, remote netip.AddrPort) gstack.TransportEndpointID {
	return gstack.TransportEndpointID{
		LocalAddress: toAddress(local.Addr()), LocalPort: local.Port(),
		RemoteAddress: toAddress(remote.Addr()), RemotePort: remote.Port(),
	}
}

func (s *Stack) tcpEndpoint(local, remote netip.AddrPort) *tcp.Endpoint {
	ep, _ := s.ns.FindTransportEndpoint(protocolOf(local.Addr()), tcp.ProtocolNumber, endpointID(local, remote), nicID).(*tcp.Endpoint)
	return ep
}

// of returns the connection of an endpoint that was accepted or dialled and is not closed.
func (c *conns) of(ep tcpip.Endpoint) *TCPConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open[ep]
}

// A drain waits until netstack's processors have done what was queued for them.
type drain struct {
	mu   sync.Mutex    // held by the one that waits
	done chan struct{} // of the last drain; closed when it has come to its end
}

// DrainTCP waits until the segments that were queued to the socket of such a segment have been
// worked on, at most limit, and reports whether they have. Only one that is delivering frames may
// call it: Close waits for those.
func (s *Stack) DrainTCP(local, remote netip.AddrPort, limit time.Duration) bool {
	s.drain.mu.Lock()
	defer s.drain.mu.Unlock()
	late := time.NewTimer(limit)
	defer late.Stop()
	if s.drain.done != nil {
		select {
		case <-s.drain.done:
		case <-late.C:
			return false
		}
	}
	done := make(chan struct{})
	s.drain.done = done
	ep, all := s.tcpEndpoint(local, remote), s.ns.TransportProtocolInstance(tcp.ProtocolNumber)
	go func() {
		defer close(done)
		if ep != nil {
			// Segments that come while a user holds the lock are queued to a processor when
			// that is over.
			ep.LockUser()
			ep.UnlockUser()
		}
		all.Pause() // which it does when it has nothing left to do
		all.Resume()
	}()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}

// end waits for the last drain.
func (d *drain) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done != nil {
		<-d.done
	}
}
