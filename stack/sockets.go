package stack

import (
	"net/netip"
	"sort"

	"gvisor.dev/gvisor/pkg/tcpip"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// A SocketInfo is one socket of the stack, as ss(8) shows it.
type SocketInfo struct {
	Network string // "tcp" or "udp"
	State   string // ss's word: "ESTAB", "LISTEN", "TIME-WAIT", "UNCONN" …
	Local   netip.AddrPort
	// Remote is the zero AddrPort for a socket that is not connected.
	Remote netip.AddrPort
	// RecvQ and SendQ are bytes not yet read, and not yet acknowledged. For UDP, RecvQ
	// includes what is needed to keep datagrams, as in ss.
	RecvQ, SendQ int
}

// A tcpState is a state's name in ss(8) and its number in Linux
// (include/net/tcp_states.h).
type tcpState struct {
	name   string
	number int
}

var tcpStates = map[tcp.EndpointState]tcpState{
	tcp.StateInitial:     {"CLOSED", 7},
	tcp.StateBound:       {"BOUND", 7},
	tcp.StateListen:      {"LISTEN", 10},
	tcp.StateConnecting:  {"SYN-SENT", 2},
	tcp.StateSynSent:     {"SYN-SENT", 2},
	tcp.StateSynRecv:     {"SYN-RECV", 3},
	tcp.StateEstablished: {"ESTAB", 1},
	tcp.StateFinWait1:    {"FIN-WAIT-1", 4},
	tcp.StateFinWait2:    {"FIN-WAIT-2", 5},
	tcp.StateTimeWait:    {"TIME-WAIT", 6},
	tcp.StateCloseWait:   {"CLOSE-WAIT", 8},
	tcp.StateLastAck:     {"LAST-ACK", 9},
	tcp.StateClosing:     {"CLOSING", 11},
	tcp.StateError:       {"CLOSED", 7},
	tcp.StateClose:       {"CLOSED", 7},
}

// Sockets returns the TCP and UDP sockets of the stack, those included that were
// closed and still deliver or wait in TIME-WAIT.
func (s *Stack) Sockets() []SocketInfo {
	var all []SocketInfo
	inboxes := s.mem.inboxes()
	for _, te := range s.endpoints() {
		ep, ok := te.(tcpip.Endpoint)
		if !ok {
			continue
		}
		info, ok := ep.Info().(*gstack.TransportEndpointInfo)
		if !ok {
			continue
		}
		k := SocketInfo{
			Local: fromFull(tcpip.FullAddress{Addr: info.ID.LocalAddress, Port: info.ID.LocalPort}, info.NetProto),
		}
		if local, terr := ep.GetLocalAddress(); terr == nil { // of a connected UDP socket only this knows it
			k.Local = fromFull(local, info.NetProto)
		}
		if info.ID.RemotePort != 0 {
			k.Remote = fromFull(tcpip.FullAddress{Addr: info.ID.RemoteAddress, Port: info.ID.RemotePort}, info.NetProto)
		}
		switch info.TransProto {
		case tcp.ProtocolNumber:
			k.Network = "tcp"
			state := tcp.EndpointState(ep.State())
			if state == tcp.StateClose || state == tcp.StateError {
				continue
			}
			k.State = tcpStates[state].name
		case udp.ProtocolNumber:
			k.Network, k.State = "udp", "UNCONN"
			if k.Remote.IsValid() {
				k.State = "ESTAB"
			}
		default:
			continue
		}
		if n, terr := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); terr == nil {
			k.RecvQ = n
		}
		if in := inboxes[ep]; in != nil {
			k.RecvQ = in.queued()
		}
		if n, terr := ep.GetSockOptInt(tcpip.SendQueueSizeOption); terr == nil {
			k.SendQ = n
		}
		all = append(all, k)
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := all[i], all[j]
		if a.Network != b.Network {
			return a.Network < b.Network
		}
		if c := a.Local.Compare(b.Local); c != 0 {
			return c < 0
		}
		return a.Remote.Compare(b.Remote) < 0
	})
	return all
}
