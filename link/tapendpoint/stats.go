package tapendpoint

import (
	"sync/atomic"

	"github.com/ustack/ustack/link"
)

// The endpoint's own reasons, by their names in Stats.Drops. A frame too short for
// an Ethernet header counts as the device's do.
const (
	rxShort     = "rx_short"
	rxOtherHost = "rx_otherhost"
	rxDetached  = "rx_detached"
	txEnded     = "tx_ended"
)

type counters struct {
	rxShort, rxOtherHost, rxDetached, txEnded atomic.Uint64
}

// Stats returns the device's counters, with the drops of the endpoint added to
// its reasons: "rx_otherhost" for frames to another station's address,
// "rx_detached" for frames before a stack was attached, "tx_ended" for frames
// sent after the device had ended.
func (e *Endpoint) Stats() link.Stats {
	s := e.dev.Stats()
	for name, c := range map[string]*atomic.Uint64{
		rxShort:     &e.stats.rxShort,
		rxOtherHost: &e.stats.rxOtherHost,
		rxDetached:  &e.stats.rxDetached,
		txEnded:     &e.stats.txEnded,
	} {
		if n := c.Load(); n > 0 {
			if s.Drops == nil {
				s.Drops = make(map[string]uint64)
			}
			s.Drops[name] += n
		}
	}
	return s
}

// Info returns what the device states about itself.
func (e *Endpoint) Info() link.Info { return e.info }
