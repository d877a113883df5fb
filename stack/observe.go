package stack

import (
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/ustack/ustack/link"
)

// Counters of Stats under which a socket's datagrams are dropped that were for it.
const (
	CounterUDPFull  = "udp.receive_buffer_errors"
	CounterICMPFull = "dropped_packets"
)

// Observers returns Config.Observers.
func (s *Stack) Observers() *link.Observers { return s.observers }

// A readSeen counts what was read of a connection while somebody watched, so that what
// arrived is known although a reader takes it away meanwhile.
type readSeen struct {
	mu    sync.Mutex // held while the endpoint is being read
	bytes uint64
}

func (c *TCPConn) beginRead() { c.seen.mu.Lock() }

func (c *TCPConn) endRead(w *link.Watching, n int) {
	c.seen.bytes += uint64(max(n, 0))
	c.seen.mu.Unlock()
	if n > 0 {
		w.Observe(&link.Event{
			Step: link.StepSocketRead, Network: "tcp", Local: c.local, Remote: c.remote, Bytes: n,
		})
	}
}

// arrived returns how many bytes of the peer's have come in order, from some number on that
// is the same as long as somebody watches.
func (c *TCPConn) arrived() uint64 {
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	queued, terr := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	if terr != nil {
		queued = 0
	}
	return c.seen.bytes + uint64(queued)
}

// observeWrite tells of n bytes that are about to be written. writeMu is held.
func (c *TCPConn) observeWrite(n int) {
	if w := c.conns.observers.Watching(); w != nil && n > 0 {
		w.Observe(&link.Event{
			Step: link.StepSocketWrite, Network: "tcp", Local: c.local, Remote: c.remote, Bytes: n,
			Offset: uint64(c.written),
		})
	}
}

// observeArrival returns what to call with the datagrams that arrive, or nil.
func (c *UDPConn) observeArrival() func(m UDPMessage, number uint64) {
	w := c.s.observers.Watching()
	if w == nil {
		return nil
	}
	return func(m UDPMessage, number uint64) {
		ev := link.Event{
			Step: link.StepSocketIn, Network: "udp", Local: c.localFor(m.To), Remote: m.From, Bytes: m.N,
			Socket: c, Number: number,
		}
		if number == 0 {
			ev.Drop = CounterUDPFull
		}
		w.Observe(&ev)
	}
}

// observeTaken tells of the datagram that was read last. readMu is held.
func (c *UDPConn) observeTaken(m UDPMessage) {
	if w := c.s.observers.Watching(); w != nil {
		w.Observe(&link.Event{
			Step: link.StepSocketRead, Network: "udp", Local: c.localFor(m.To), Remote: m.From, Bytes: m.N,
			Socket: c, Number: c.inbox.taken(),
		})
	}
}

// observeSend tells of a datagram that is about to be sent, from an address unless that
// is not valid.
func (c *UDPConn) observeSend(n int, to net.Addr, from netip.Addr) {
	w := c.s.observers.Watching()
	if w == nil {
		return
	}
	remote, _ := addrPort(to)
	w.Observe(&link.Event{
		Step: link.StepSocketWrite, Network: "udp", Bytes: n, Local: c.localFor(from),
		Remote: netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port()),
	})
}

// localFor returns the socket's own address: ip, if that is known, and its port.
func (c *UDPConn) localFor(ip netip.Addr) netip.AddrPort {
	f, terr := c.ep.GetLocalAddress()
	if terr != nil {
		return netip.AddrPortFrom(ip, 0)
	}
	local := fromFull(f, c.proto)
	if ip.IsValid() {
		local = netip.AddrPortFrom(ip, local.Port())
	}
	return local
}

// observe tells of an ICMP message, and its number if it was queued.
func (c *ICMPConn) observe(step link.Step, n int, local, remote netip.Addr, number uint64, drop string) {
	w := c.s.observers.Watching()
	if w == nil {
		return
	}
	w.Observe(&link.Event{
		Step: step, Network: "icmp", Bytes: n, Drop: drop, Socket: c, Number: number,
		Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(remote, 0),
	})
}
