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

// A drop is a reason of the endpoint's own, and its counter.
type drop struct {
	reason string
	count  *atomic.Uint64
}

func (c *counters) drops() []drop {
	return []drop{
		{rxShort, &c.rxShort},
		{rxOtherHost, &c.rxOtherHost},
		{rxDetached, &c.rxDetached},
		{txEnded, &c.txEnded},
	}
}

// DropReasons returns the reasons that the endpoint adds to those of link; "rx_short" is
// one of both.
func DropReasons() []string {
	var all []string
	for _, d := range new(counters).drops() {
		all = append(all, d.reason)
	}
	return all
}

// Stats returns the device's counters, with the drops of the endpoint added to
// its reasons: "rx_otherhost" for frames to another station's address,
// "rx_detached" for frames before a stack was attached, "tx_ended" for frames
// sent after the device had ended.
func (e *Endpoint) Stats() link.Stats {
	s := e.dev.Stats()
	for _, d := range e.stats.drops() {
		if n := d.count.Load(); n > 0 {
			if s.Drops == nil {
				s.Drops = make(map[string]uint64)
			}
			s.Drops[d.reason] += n
		}
	}
	return s
}

// Info returns what the device states about itself.
func (e *Endpoint) Info() link.Info { return e.info }
