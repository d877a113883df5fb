package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/ustack/ustack/link/tapendpoint"
)

// superPayload is the most payload that netstack puts into one super-frame, in
// bytes: tapendpoint's GSO size less the room it keeps for all headers
// (TCPTotalHeaderMaximumSize and one, in transport/tcp/snd.go).
const superPayload = tapendpoint.GSOMaxSize - header.TCPTotalHeaderMaximumSize - 1

// cut returns how much of b to hand to netstack at once. It makes a segment of
// every write and merges only whole ones, so that a bulk transfer in blocks of any
// other size leaves in super-frames that are not full. Blocks end where a full
// one does; small writes stay whole.
func (c *TCPConn) cut(b []byte) []byte {
	if room := superPayload - c.phase; len(b) > room && len(b) >= superPayload/4 {
		return b[:room]
	}
	return b
}

// The receive buffer of a bulk transfer. netstack tunes it to what arrives in one
// round trip, which on a short path is what waits in the wire's queue, ahead of
// everybody else's frames: there it would grow without end. So on a path whose
// round trip is not above longWay it gets shortBuffer bytes instead: half of it,
// the window, fills any such wire. The path is measured after every measureAfter
// bytes.
const (
	longWay      = 1500 * time.Microsecond // netstack measures no less than 1 ms
	shortBuffer  = 2 << 20
	measureAfter = 1 << 20
)

// moderate tunes the receive buffer after n bytes were read. readMu is held.
func (c *TCPConn) moderate(n int) {
	if c.longWay {
		c.ep.ModerateRecvBuf(n)
	}
	if c.taken += n; c.taken < measureAfter {
		return
	}
	c.taken = 0
	var info tcpip.TCPInfoOption
	if terr := c.ep.GetSockOpt(&info); terr != nil {
		return
	}
	c.longWay = info.RTT > longWay
	opts := c.ep.SocketOptions()
	if !c.longWay && opts.GetReceiveBufferSize() == int64(receiveBuffers.Default) {
		opts.SetReceiveBufferSize(shortBuffer, false)
	}
}
