package metrics

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ustack/ustack/bridge"
	"github.com/ustack/ustack/link"
)

// portDescs are the metrics of a switch's ports. "Received" is by the switch.
type portDescs struct {
	state, stations                      *prometheus.Desc
	rxFrames, rxBytes, txFrames, txBytes *prometheus.Desc
	drops, flooded, moves, unlearned     *prometheus.Desc
}

// portStates are those of control.Port.
var portStates = []string{"forwarding", "looping", "waiting", "gone"}

func newPortDescs() portDescs {
	port := func(name, help string, more ...string) *prometheus.Desc {
		return newDesc("bridge_port_"+name, help, append([]string{"port"}, more...)...)
	}
	return portDescs{
		state:     port("state", "1 for the state that the port is in, 0 for the others: looping is shut for a while, waiting has nobody at the far end.", "state"),
		stations:  port("stations", "Number of stations that were heard of at the port."),
		rxFrames:  port("frames_received_total", "Number of Ethernet frames that came in at the port."),
		rxBytes:   port("received_bytes_total", "Bytes that came in at the port, Ethernet headers included."),
		txFrames:  port("frames_sent_total", "Number of Ethernet frames that left by the port."),
		txBytes:   port("sent_bytes_total", "Bytes that left by the port, Ethernet headers included."),
		drops:     port("frames_dropped_total", "Number of Ethernet frames that were not passed on, by the reason that 'ustack fdb' shows: switch_ is what the switch had against one that came in.", "reason"),
		flooded:   port("frames_flooded_total", "Number of Ethernet frames that came in at the port and went to all others."),
		moves:     port("stations_moved_total", "Number of times that a station came to the port from another one."),
		unlearned: port("frames_unlearned_total", "Number of Ethernet frames from stations that there was no room to remember."),
	}
}

func (d *portDescs) all() []*prometheus.Desc {
	return []*prometheus.Desc{d.state, d.stations, d.rxFrames, d.rxBytes, d.txFrames, d.txBytes, d.drops, d.flooded, d.moves, d.unlearned}
}

func (c *collector) switchPorts(s sink) {
	if c.cfg.Ports == nil {
		return
	}
	d := &c.d.port
	for _, p := range c.cfg.Ports() {
		for _, state := range portStates {
			s.gauge(d.state, float64(btoi(p.State == state)), p.Name, state)
		}
		s.gauge(d.stations, float64(p.Stations), p.Name)
		s.count(d.rxFrames, p.RxFrames, p.Name)
		s.count(d.rxBytes, p.RxBytes, p.Name)
		s.count(d.txFrames, p.TxFrames, p.Name)
		s.count(d.txBytes, p.TxBytes, p.Name)
		s.count(d.flooded, p.Flooded, p.Name)
		s.count(d.moves, p.Moves, p.Name)
		s.count(d.unlearned, p.Unlearned, p.Name)
		drops := make(map[string]uint64)
		for _, reason := range slices.Concat(link.DropReasons(), bridge.DropReasons()) {
			drops[reason] = 0
		}
		maps.Copy(drops, p.Drops)
		for reason, n := range drops {
			s.count(d.drops, n, p.Name, reason)
		}
	}
}
