package stack

import (
	"slices"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// options are the options of a socket by name, with setsockopt's values: integers
// in the unit of the option that the name is taken from, and 0 or 1 for switches.
type options struct {
	ep      tcpip.Endpoint
	account *account // what its buffers are booked on; nil for sockets without
}

// An option is how one name is read and set; a nil set means read only.
type option struct {
	get func(ep tcpip.Endpoint) (int, tcpip.Error)
	set func(ep tcpip.Endpoint, v int) tcpip.Error
}

// The options of tcp(7), socket(7), ip(7) and ipv6(7) that netstack can do.
var socketOptions = map[string]option{
	"so.reuseaddr":       boolOption((*tcpip.SocketOptions).GetReuseAddress, (*tcpip.SocketOptions).SetReuseAddress),
	"so.reuseport":       boolOption((*tcpip.SocketOptions).GetReusePort, (*tcpip.SocketOptions).SetReusePort),
	"so.keepalive":       boolOption((*tcpip.SocketOptions).GetKeepAlive, (*tcpip.SocketOptions).SetKeepAlive),
	"so.broadcast":       boolOption((*tcpip.SocketOptions).GetBroadcast, (*tcpip.SocketOptions).SetBroadcast),
	"so.rcvbuf":          {getReceiveBuffer, setReceiveBuffer},
	"so.sndbuf":          {getSendBuffer, setSendBuffer},
	"so.linger":          {getLinger, setLinger}, // seconds; -1 is off
	"so.error":           {getError, nil},        // an errno; reading clears it
	"so.acceptconn":      {getAcceptConn, nil},
	"tcp.nodelay":        {getNoDelay, setNoDelay},
	"tcp.cork":           boolOption((*tcpip.SocketOptions).GetCorkOption, (*tcpip.SocketOptions).SetCorkOption),
	"tcp.quickack":       boolOption((*tcpip.SocketOptions).GetQuickAck, (*tcpip.SocketOptions).SetQuickAck),
	"tcp.keepidle":       {getKeepIdle, setKeepIdle}, // seconds
	"tcp.keepintvl":      {getKeepInterval, setKeepInterval},
	"tcp.keepcnt":        intOption(tcpip.KeepaliveCountOption, 1, 127),
	"tcp.maxseg":         intOption(tcpip.MaxSegOption, 88, 32767),
	"tcp.syncnt":         intOption(tcpip.TCPSynCountOption, 1, 127),
	"tcp.user_timeout":   {getUserTimeout, setUserTimeout}, // milliseconds
	"tcp.info.state":     {getTCPState, nil},               // include/net/tcp_states.h
	"tcp.info.rtt":       {tcpInfo(func(i *tcpip.TCPInfoOption) int { return int(i.RTT.Microseconds()) }), nil},
	"tcp.info.rttvar":    {tcpInfo(func(i *tcpip.TCPInfoOption) int { return int(i.RTTVar.Microseconds()) }), nil},
	"tcp.info.rto":       {tcpInfo(func(i *tcpip.TCPInfoOption) int { return int(i.RTO.Microseconds()) }), nil},
	"tcp.info.snd_cwnd":  {tcpInfo(func(i *tcpip.TCPInfoOption) int { return int(i.SndCwnd) }), nil},
	"ip.ttl":             {getTTL, setTTL},
	"ip.tos":             intOption(tcpip.IPv4TOSOption, 0, 255),
	"ip.mtu_discover":    {getMTUDiscover, setMTUDiscover}, // IP_PMTUDISC_*
	"ipv6.mtu_discover":  {getMTUDiscover, setMTUDiscover},
	"ip.multicast_ttl":   intOption(tcpip.MulticastTTLOption, 0, 255),
	"ip.multicast_loop":  boolOption((*tcpip.SocketOptions).GetMulticastLoop, (*tcpip.SocketOptions).SetMulticastLoop),
	"ipv6.unicast_hops":  intOption(tcpip.IPv6HopLimitOption, -1, 255),
	"ipv6.tclass":        intOption(tcpip.IPv6TrafficClassOption, 0, 255),
	"ipv6.v6only":        boolOption((*tcpip.SocketOptions).GetV6Only, (*tcpip.SocketOptions).SetV6Only),
	"ustack.recv_queued": {getInt(tcpip.ReceiveQueueSizeOption), nil}, // bytes
	"ustack.send_queued": {getInt(tcpip.SendQueueSizeOption), nil},
}

// OptionNames returns the names that SetOption and Option know, sorted.
func OptionNames() []string {
	names := make([]string, 0, len(socketOptions))
	for name := range socketOptions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// SetOption sets an option by name, see OptionNames. An unknown or read-only one
// is ENOPROTOOPT.
func (o options) SetOption(name string, value int) error {
	opt, ok := socketOptions[name]
	if !ok || opt.set == nil {
		return opErr("set "+name, "ustack", nil, nil, syscall.ENOPROTOOPT)
	}
	switch a := o.account; {
	case a != nil && name == "so.rcvbuf":
		a.fix(true, int64(min(max(value, receiveBuffers.Min), receiveBuffers.Max)))
		return nil
	case a != nil && name == "so.sndbuf" && a.send.Load() > 0: // UDP's is not booked: nothing waits in it
		a.fix(false, int64(min(max(value, sendBuffers.Min), mostSend)))
		return nil
	}
	if terr := opt.set(o.ep, value); terr != nil {
		return opErr("set "+name, "ustack", nil, nil, sysErr("setsockopt", terr))
	}
	return nil
}

// Option returns an option's value by name, see OptionNames. An unknown one is
// ENOPROTOOPT.
func (o options) Option(name string) (int, error) {
	opt, ok := socketOptions[name]
	if !ok {
		return 0, opErr("get "+name, "ustack", nil, nil, syscall.ENOPROTOOPT)
	}
	v, terr := opt.get(o.ep)
	if terr != nil {
		return 0, opErr("get "+name, "ustack", nil, nil, sysErr("getsockopt", terr))
	}
	return v, nil
}

func boolOption(get func(*tcpip.SocketOptions) bool, set func(*tcpip.SocketOptions, bool)) option {
	return option{
		get: func(ep tcpip.Endpoint) (int, tcpip.Error) { return btoi(get(ep.SocketOptions())), nil },
		set: func(ep tcpip.Endpoint, v int) tcpip.Error { set(ep.SocketOptions(), v != 0); return nil },
	}
}

// intOption is an option of values from low to high, which Linux too refuses to
// leave.
func intOption(opt tcpip.SockOptInt, low, high int) option {
	return option{
		get: getInt(opt),
		set: func(ep tcpip.Endpoint, v int) tcpip.Error {
			if v < low || v > high {
				return &tcpip.ErrInvalidOptionValue{}
			}
			return ep.SetSockOptInt(opt, v)
		},
	}
}

func getInt(opt tcpip.SockOptInt) func(tcpip.Endpoint) (int, tcpip.Error) {
	return func(ep tcpip.Endpoint) (int, tcpip.Error) { return ep.GetSockOptInt(opt) }
}

// getTTL and setTTL have -1 for the default, as ip(7) does.
func getTTL(ep tcpip.Endpoint) (int, tcpip.Error) {
	v, terr := ep.GetSockOptInt(tcpip.IPv4TTLOption)
	if v == tcpip.UseDefaultIPv4TTL {
		v = ipv4.DefaultTTL
	}
	return v, terr
}

func setTTL(ep tcpip.Endpoint, v int) tcpip.Error {
	switch {
	case v == -1:
		v = tcpip.UseDefaultIPv4TTL
	case v < 1 || v > 255:
		return &tcpip.ErrInvalidOptionValue{}
	}
	return ep.SetSockOptInt(tcpip.IPv4TTLOption, v)
}

func tcpInfo(field func(*tcpip.TCPInfoOption) int) func(tcpip.Endpoint) (int, tcpip.Error) {
	return func(ep tcpip.Endpoint) (int, tcpip.Error) {
		var info tcpip.TCPInfoOption
		terr := ep.GetSockOpt(&info)
		return field(&info), terr
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// The sizes of buffers are held within the stack's bounds, as Linux does it
// (SO_RCVBUF in socket(7)); netstack leaves that to its caller.

func getReceiveBuffer(ep tcpip.Endpoint) (int, tcpip.Error) {
	return int(ep.SocketOptions().GetReceiveBufferSize()), nil
}

func setReceiveBuffer(ep tcpip.Endpoint, v int) tcpip.Error {
	ep.SocketOptions().SetReceiveBufferSize(int64(min(max(v, receiveBuffers.Min), receiveBuffers.Max)), true)
	return nil
}

func getSendBuffer(ep tcpip.Endpoint) (int, tcpip.Error) {
	return int(ep.SocketOptions().GetSendBufferSize()), nil
}

func setSendBuffer(ep tcpip.Endpoint, v int) tcpip.Error {
	ep.SocketOptions().SetSendBufferSize(int64(min(max(v, sendBuffers.Min), mostSend)), true)
	return nil
}

func getLinger(ep tcpip.Endpoint) (int, tcpip.Error) {
	l := ep.SocketOptions().GetLinger()
	if !l.Enabled {
		return -1, nil
	}
	return int(l.Timeout / time.Second), nil
}

func setLinger(ep tcpip.Endpoint, v int) tcpip.Error {
	ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: v >= 0, Timeout: time.Duration(max(v, 0)) * time.Second})
	return nil
}

func getError(ep tcpip.Endpoint) (int, tcpip.Error) {
	terr := ep.LastError()
	if terr == nil {
		return 0, nil
	}
	n, _ := errno(terr).(syscall.Errno)
	return int(n), nil
}

func getAcceptConn(ep tcpip.Endpoint) (int, tcpip.Error) {
	return btoi(ep.SocketOptions().GetAcceptConn()), nil
}

func getNoDelay(ep tcpip.Endpoint) (int, tcpip.Error) {
	return btoi(!ep.SocketOptions().GetDelayOption()), nil
}

func setNoDelay(ep tcpip.Endpoint, v int) tcpip.Error {
	ep.SocketOptions().SetDelayOption(v == 0)
	return nil
}

func getKeepIdle(ep tcpip.Endpoint) (int, tcpip.Error) {
	var v tcpip.KeepaliveIdleOption
	terr := ep.GetSockOpt(&v)
	return int(time.Duration(v) / time.Second), terr
}

func setKeepIdle(ep tcpip.Endpoint, v int) tcpip.Error {
	if v < 1 || v > 32767 { // MAX_TCP_KEEPIDLE
		return &tcpip.ErrInvalidOptionValue{}
	}
	opt := tcpip.KeepaliveIdleOption(time.Duration(v) * time.Second)
	return ep.SetSockOpt(&opt)
}

func getKeepInterval(ep tcpip.Endpoint) (int, tcpip.Error) {
	var v tcpip.KeepaliveIntervalOption
	terr := ep.GetSockOpt(&v)
	return int(time.Duration(v) / time.Second), terr
}

func setKeepInterval(ep tcpip.Endpoint, v int) tcpip.Error {
	if v < 1 || v > 32767 { // MAX_TCP_KEEPINTVL
		return &tcpip.ErrInvalidOptionValue{}
	}
	opt := tcpip.KeepaliveIntervalOption(time.Duration(v) * time.Second)
	return ep.SetSockOpt(&opt)
}

func getUserTimeout(ep tcpip.Endpoint) (int, tcpip.Error) {
	var v tcpip.TCPUserTimeoutOption
	terr := ep.GetSockOpt(&v)
	return int(time.Duration(v) / time.Millisecond), terr
}

func setUserTimeout(ep tcpip.Endpoint, v int) tcpip.Error {
	if v < 0 {
		return &tcpip.ErrInvalidOptionValue{}
	}
	opt := tcpip.TCPUserTimeoutOption(time.Duration(v) * time.Millisecond)
	return ep.SetSockOpt(&opt)
}

// getTCPState returns a state's number in Linux (include/net/tcp_states.h).
func getTCPState(ep tcpip.Endpoint) (int, tcpip.Error) {
	if _, ok := ep.(*tcp.Endpoint); !ok {
		return 0, &tcpip.ErrUnknownProtocolOption{}
	}
	return tcpStates[tcp.EndpointState(ep.State())].number, nil
}

// The values of IP_MTU_DISCOVER (include/uapi/linux/in.h); netstack numbers the
// first two the other way round.
const (
	pmtuDont = 0
	pmtuWant = 1
	pmtuDo   = 2
)

func getMTUDiscover(ep tcpip.Endpoint) (int, tcpip.Error) {
	v, terr := ep.GetSockOptInt(tcpip.MTUDiscoverOption)
	switch tcpip.PMTUDStrategy(v) {
	case tcpip.PMTUDiscoveryWant:
		v = pmtuWant
	case tcpip.PMTUDiscoveryDont:
		v = pmtuDont
	}
	return v, terr
}

func setMTUDiscover(ep tcpip.Endpoint, v int) tcpip.Error {
	switch v {
	case pmtuDont:
		v = int(tcpip.PMTUDiscoveryDont)
	case pmtuWant:
		v = int(tcpip.PMTUDiscoveryWant)
	case pmtuDo:
	default:
		return &tcpip.ErrInvalidOptionValue{}
	}
	return ep.SetSockOptInt(tcpip.MTUDiscoverOption, v)
}
