package runner

import (
	"context"
	"net/netip"

	"github.com/ustack/ustack/control"
)

// Bytes of the headers of a segment: TCP's with the timestamps that the stack sends, and IP's.
const (
	tcpHeader  = 20 + 12
	ipv4Header = 20
	ipv6Header = 40
)

// loopbackMTU is that of the stack's loopback.
const loopbackMTU = 65536

// answerPath answers by what follows from the MTU of the link that the connection goes over. mu is held.
func (t *tcp) answerPath(c *call, value func(mtu int) int) verdict {
	remote, client := t.remote.Addr(), &t.s.sup.daemon.client
	d := c.detached()
	return c.later(func() verdict { return d.value(intBytes(value(pathMTU(t.s.sup.ctx, client, remote)))) })
}

func pathMTU(ctx context.Context, client *control.Client, remote netip.Addr) int {
	if remote.IsLoopback() {
		return loopbackMTU
	}
	links, _ := client.Links(ctx) // a daemon that is gone has no connection either
	for _, l := range links {
		if l.Kind != "loopback" && l.MTU > 0 {
			return l.MTU
		}
	}
	return 1500
}

// segment is the payload of a full segment to remote.
func segment(remote netip.Addr, mtu int) int {
	if remote.Unmap().Is4() {
		return mtu - ipv4Header - tcpHeader
	}
	return mtu - ipv6Header - tcpHeader
}

// Offsets in struct tcp_info (include/uapi/linux/tcp.h).
const (
	tcpInfoSize    = 104
	tcpInfoState   = 0
	tcpInfoRTO     = 8
	tcpInfoSndMSS  = 16
	tcpInfoRcvMSS  = 20
	tcpInfoPMTU    = 60
	tcpInfoRTT     = 68
	tcpInfoRTTVar  = 72
	tcpInfoSndCwnd = 80
	tcpInfoAdvMSS  = 84
)

// tcpStates in include/net/tcp_states.h.
const (
	linuxEstablished = 1
	linuxSynSent     = 2
	linuxClose       = 7
	linuxListen      = 10
)

// info is TCP_INFO's basics. mu is held.
func (t *tcp) info(c *call) verdict {
	b := make([]byte, tcpInfoSize)
	switch t.state {
	case tcpConnecting:
		b[tcpInfoState] = linuxSynSent
	case tcpListening:
		b[tcpInfoState] = linuxListen
	default:
		b[tcpInfoState] = linuxClose
	}
	if t.state != tcpConnected {
		return c.value(b)
	}
	b[tcpInfoState] = linuxEstablished
	session, flow, remote := t.session, t.flow, t.remote.Addr()
	d := c.detached()
	return c.later(func() verdict {
		mtu := pathMTU(t.s.sup.ctx, &t.s.sup.daemon.client, remote)
		for _, f := range []struct {
			wire string
			at   int
		}{
			{"tcp.info.state", tcpInfoState},
			{"tcp.info.rto", tcpInfoRTO}, {"tcp.info.rtt", tcpInfoRTT}, {"tcp.info.rttvar", tcpInfoRTTVar},
			{"tcp.info.snd_cwnd", tcpInfoSndCwnd},
		} {
			rep, err := session.Call(t.s.sup.ctx, control.Request{Op: "getopt", Flow: flow, Name: f.wire}, -1)
			switch {
			case err != nil:
			case f.at == tcpInfoState:
				b[f.at] = byte(rep.Value)
			default:
				copy(b[f.at:], intBytes(rep.Value))
			}
		}
		for _, at := range []int{tcpInfoSndMSS, tcpInfoRcvMSS, tcpInfoAdvMSS} {
			copy(b[at:], intBytes(segment(remote, mtu)))
		}
		copy(b[tcpInfoPMTU:], intBytes(mtu))
		return d.value(b)
	})
}
