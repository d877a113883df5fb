// Package metrics shows a stack, a switch, and the control socket that they are offered on, to
// Prometheus.
//
// A Collector reads counters where they are; nothing is counted for it. Names follow
// https://prometheus.io/docs/practices/naming, and every one begins with "ustack_". How many
// series there are depends on the links and on words of this module, never on what a wire or a
// client sends, and they are all there from the first scrape on, so that rates see the first event.
package metrics

import (
	"runtime"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/stack"
)

// A Config says what is shown; what is nil is left out.
type Config struct {
	Stack *stack.Stack
	// Ports returns the ports of a switch.
	Ports func() []control.Port
	// Control returns the figures of the control socket, as control.Server.Counts does.
	Control func() control.Counts
	// IsUp reports whether a link carries frames, for what the stack cannot know itself, such as
	// an interface that was brought down on the host. nil believes Link.State.
	IsUp func(stack.Link) bool
	// Version of the program, for ustack_build_info.
	Version string
}

// A collector implements prometheus.Collector.
type collector struct {
	cfg      Config
	d        descs
	counters []counterDesc
}

// A counterDesc is a counter of netstack's.
type counterDesc struct {
	counter
	desc *prometheus.Desc
}

// NewCollector returns a Collector. It may be used until the stack is closed, and afterwards, when
// some series are gone.
func NewCollector(cfg Config) prometheus.Collector {
	c := &collector{cfg: cfg, d: newDescs()}
	for _, n := range netstackCounters() {
		c.counters = append(c.counters, counterDesc{n, newDesc(n.name, n.help, n.labels...)})
	}
	return c
}

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ustack_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range c.d.all() {
		to <- d
	}
	for _, n := range c.counters {
		to <- n.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	s := sink{to}
	s.gauge(c.d.build, 1, c.cfg.Version, runtime.Version())
	if c.cfg.Stack != nil {
		c.links(s)
		c.netstack(s)
		c.connects(s)
		c.sockets(s)
		c.neighbours(s)
		c.memory(s)
	}
	c.switchPorts(s)
	c.control(s)
}

// A sink takes metrics.
type sink struct{ to chan<- prometheus.Metric }

func (s sink) send(m prometheus.Metric, d *prometheus.Desc, err error) {
	if err != nil {
		m = prometheus.NewInvalidMetric(d, err)
	}
	s.to <- m
}

func (s sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s.value(d, prometheus.GaugeValue, v, labels)
}

func (s sink) count(d *prometheus.Desc, n uint64, labels ...string) {
	s.value(d, prometheus.CounterValue, float64(n), labels)
}

func (s sink) value(d *prometheus.Desc, t prometheus.ValueType, v float64, labels []string) {
	for i, l := range labels { // the name of an interface is any bytes
		labels[i] = strings.ToValidUTF8(l, "\uFFFD")
	}
	m, err := prometheus.NewConstMetric(d, t, v, labels...)
	s.send(m, d, err)
}

func (c *collector) links(s sink) {
	reasons := stack.DropReasons()
	for _, l := range c.cfg.Stack.Links() {
		up := l.State == "up"
		if up && c.cfg.IsUp != nil {
			up = c.cfg.IsUp(l)
		}
		s.gauge(c.d.linkUp, float64(btoi(up)), l.Name)
		s.gauge(c.d.linkMTU, float64(l.MTU), l.Name)
		s.gauge(c.d.linkInfo, 1, l.Name, l.Kind, l.Driver, l.HardwareAddr.String(), l.RX.String(), l.TX.String())
		s.count(c.d.linkRxFrames, l.Stats.RxFrames, l.Name)
		s.count(c.d.linkRxBytes, l.Stats.RxBytes, l.Name)
		s.count(c.d.linkTxFrames, l.Stats.TxFrames, l.Name)
		s.count(c.d.linkTxBytes, l.Stats.TxBytes, l.Name)
		if l.Queues == 0 { // loopback: it has no queue and drops nothing
			continue
		}
		s.gauge(c.d.linkQueues, float64(l.Queues), l.Name)
		for _, reason := range reasons {
			s.count(c.d.linkDrops, l.Stats.Drops[reason], l.Name, reason)
		}
		for reason, n := range l.Stats.Drops { // of a Device that is not of this module
			if _, known := slices.BinarySearch(reasons, reason); !known {
				s.count(c.d.linkDrops, n, l.Name, reason)
			}
		}
	}
}

func (c *collector) netstack(s sink) {
	values := c.cfg.Stack.Counters()
	for _, n := range c.counters {
		for _, series := range n.series {
			if v, ok := values[series.path]; ok { // those of the link go with it
				s.count(n.desc, v, slices.Clone(series.labels)...)
			}
		}
	}
}

func (c *collector) connects(s sink) {
	for _, t := range c.cfg.Stack.ConnectTimes() {
		buckets := make(map[float64]uint64, len(t.Buckets))
		for _, b := range t.Buckets {
			buckets[b.Bound.Seconds()] = b.Count
		}
		m, err := prometheus.NewConstHistogram(c.d.connects, t.Count, t.Sum.Seconds(), buckets, t.Outcome)
		s.send(m, c.d.connects, err)
	}
}

func (c *collector) sockets(s sink) {
	for _, n := range c.cfg.Stack.SocketCounts() {
		s.gauge(c.d.sockets, float64(n.Count), n.Network, strings.ToLower(n.State))
	}
}

func (c *collector) neighbours(s sink) {
	type key struct{ link, version, state string }
	counts := make(map[key]int)
	for _, version := range []string{"4", "6"} {
		for _, state := range stack.NeighbourStates() {
			counts[key{c.cfg.Stack.Name(), version, state}] = 0
		}
	}
	for _, n := range c.cfg.Stack.Neighbours() {
		version := "6"
		if n.IP.Is4() {
			version = "4"
		}
		counts[key{n.Link, version, n.State}]++
	}
	for k, n := range counts {
		s.gauge(c.d.neighbours, float64(n), k.link, k.version, k.state)
	}
}

func (c *collector) memory(s sink) {
	m := c.cfg.Stack.MemoryBooked()
	s.gauge(c.d.memoryCeiling, float64(m.Ceiling))
	s.gauge(c.d.memoryBooked, float64(m.Booked))
	s.count(c.d.memoryRefused, m.Refused)
	s.count(c.d.memoryShrunk, m.Shrunk)
}

func (c *collector) control(s sink) {
	if c.cfg.Control == nil {
		return
	}
	n := c.cfg.Control()
	s.gauge(c.d.clients, float64(n.Clients))
	s.count(c.d.accepted, n.Accepted)
	s.gauge(c.d.flows, float64(n.Flows))
	for _, r := range n.Requests {
		s.count(c.d.requests, r.OK, r.Kind, r.Request, "ok")
		s.count(c.d.requests, r.Failed, r.Kind, r.Request, "error")
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
