package stack

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// icmp6Conns are the open ICMPv6 sockets.
type icmp6Conns struct {
	mu sync.Mutex
	m  map[*ICMPConn]struct{}
}

func (o *icmp6Conns) add(c *ICMPConn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.m == nil {
		o.m = make(map[*ICMPConn]struct{})
	}
	o.m[c] = struct{}{}
}

func (o *icmp6Conns) remove(c *ICMPConn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.m, c)
}

// deliver is netstack's handler for ICMPv6 messages that no socket claims. It
// gives those that came in fragments to the ICMP sockets: raw endpoints see only
// packets whose first header is ICMPv6, so not those. It handles nothing.
func (o *icmp6Conns) deliver(_ gstack.TransportEndpointID, pkt *gstack.PacketBuffer) bool {
	ip := header.IPv6(pkt.NetworkHeader().Slice())
	if len(ip) < header.IPv6MinimumSize || ip.NextHeader() == uint8(header.ICMPv6ProtocolNumber) {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.m) == 0 {
		return false
	}
	payload := gstack.PayloadSince(pkt.TransportHeader())
	defer payload.Release()
	m := ICMPMessage{
		Data: payload.AsSlice(), TTL: int(ip.HopLimit()), At: time.Now(),
		From: fromAddress(ip.SourceAddress()), To: fromAddress(ip.DestinationAddress()),
	}
	if len(m.Data) < header.ICMPv6MinimumSize {
		return false
	}
	for c := range o.m {
		c.putLocal(m)
	}
	return false
}
