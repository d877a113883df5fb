package stack

import (
	"net/netip"
	"slices"
	"sort"
	"sync"
	"time"

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

// A SocketCount is how many sockets of a network are in a state, both named as in
// SocketInfo; ICMP sockets are "icmp", "UNCONN".
type SocketCount struct {
	Network, State string
	Count          int
}

// SocketCounts counts the sockets in every state there is, in an order that stays the
// same. It is for those who ask often: it takes no lock of a connection, as Sockets does, and
// with more than a thousand sockets no more than a hundredth of the time: until then it
// answers what it found last.
func (s *Stack) SocketCounts() []SocketCount {
	c := &s.counted
	c.mu.Lock()
	defer c.mu.Unlock()
	if begin := time.Now(); begin.After(c.until) {
		c.counts = s.countSockets()
		c.until = holdUntil(c.counts, begin, time.Now())
	}
	return slices.Clone(c.counts)
}

// A lastCount is what SocketCounts found last. netstack lists its sockets under a lock that
// new connections wait for.
type lastCount struct {
	mu     sync.Mutex
	counts []SocketCount
	until  time.Time
}

// holdUntil says how long a count is good that was made between two times.
func holdUntil(counts []SocketCount, begin, end time.Time) time.Time {
	n := 0
	for _, c := range counts {
		n += c.Count
	}
	if n <= 1000 {
		return time.Time{}
	}
	return end.Add(100 * end.Sub(begin))
}

func (s *Stack) countSockets() []SocketCount {
	var all []SocketCount
	at := make(map[[2]string]int)
	add := func(network, state string) {
		if _, ok := at[[2]string{network, state}]; !ok {
			at[[2]string{network, state}] = len(all)
			all = append(all, SocketCount{Network: network, State: state})
		}
	}
	for _, state := range []tcp.EndpointState{
		tcp.StateListen, tcp.StateSynSent, tcp.StateSynRecv, tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2,
		tcp.StateCloseWait, tcp.StateLastAck, tcp.StateClosing, tcp.StateTimeWait,
	} {
		add("tcp", tcpStates[state].name)
	}
	add("udp", "UNCONN")
	add("udp", "ESTAB")
	add("icmp", "UNCONN")
	for _, te := range s.endpoints() {
		switch ep := te.(type) {
		case *tcp.Endpoint:
			if state := ep.EndpointState(); listed(state) {
				add("tcp", tcpStates[state].name)
				all[at[[2]string{"tcp", tcpStates[state].name}]].Count++
			}
		case tcpip.Endpoint:
			if info, ok := ep.Info().(*gstack.TransportEndpointInfo); ok && info.TransProto == udp.ProtocolNumber {
				all[at[[2]string{"udp", udpState(info)}]].Count++
			}
		}
	}
	all[at[[2]string{"icmp", "UNCONN"}]].Count = int(s.icmpOpen.Load())
	return all
}

// listed reports whether ss(8) would list a connection in this state.
func listed(state tcp.EndpointState) bool {
	return state != tcp.StateInitial && state != tcp.StateClose && state != tcp.StateError
}

func udpState(info *gstack.TransportEndpointInfo) string {
	if info.ID.RemotePort != 0 {
		return "ESTAB"
	}
	return "UNCONN"
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
			k.Network, k.State = "udp", udpState(info)
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
