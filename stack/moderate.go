package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// The receive buffer of a bulk transfer. netstack tunes it to what arrives in one
// round trip, which on a short path is what waits in the wire's queue, ahead of
// everybody else's frames: there it would grow without end. So on a path whose
// round trip is not above longWay it gets shortBuffer bytes instead: half of it,
// the window, fills any such wire (2 MiB cost a tenth of a stream's rate, 4 MiB a
// third more time for round trips beside it). The path is measured after every measureAfter
// bytes.
const (
	longWay      = 1500 * time.Microsecond // netstack measures no less than 1 ms
	shortBuffer  = 3 << 20
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
