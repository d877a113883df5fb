package tapendpoint

import (
	"sync/atomic"

	"github.com/ustack/ustack/link"
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
		"rx_short":     &e.stats.rxShort,
		"rx_otherhost": &e.stats.rxOtherHost,
		"rx_detached":  &e.stats.rxDetached,
		"tx_ended":     &e.stats.txEnded,
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
