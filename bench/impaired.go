package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ustack/ustack/bench/report"
)

// A path is an impaired link.
type path struct {
	rate    uint64        // Mbit/s
	rtt     time.Duration // both ways together
	loss    float64       // percent, each way
	reorder float64       // percent, each way
}

// options are those of a SPEC.
func (p path) options() string {
	// The link holds what is on the way, and as much again waits before it.
	frames := 2*int(float64(p.rate)*1e6*p.rtt.Seconds()/2/8/1514) + 100
	o := fmt.Sprintf(",rate=%dmbit,delay=%dus,limit=%d", p.rate, (p.rtt / 2).Microseconds(), frames)
	if p.loss > 0 {
		o += fmt.Sprintf(",loss=%g%%", p.loss)
	}
	if p.reorder > 0 {
		o += fmt.Sprintf(",reorder=%g%%", p.reorder)
	}
	return o
}

func (p path) title() string {
	t := fmt.Sprintf("%d Mbit/s × %v", p.rate, p.rtt)
	if p.rate%1000 == 0 {
		t = fmt.Sprintf("%d Gbit/s × %v", p.rate/1000, p.rtt)
	}
	if p.loss > 0 {
		t += fmt.Sprintf(", %g %% lost", p.loss)
	}
	if p.reorder > 0 {
		t += fmt.Sprintf(", %g %% reordered", p.reorder)
	}
	return t
}

// impairedRows compare the stack's goodput with that of the kernel over links that the
// same code impairs the same way. The rows of the group "grid" do so for settings of the
// stack, and count what TCP had to repair.
func impairedRows(s scale) []row {
	all := []row{wideRow(s, "wide-to", false), wideRow(s, "wide-from", true)}
	cells := lossCells()
	if !s.grid {
		cells = cells[:1]
	}
	for _, c := range cells {
		all = append(all, lossRow(s, c))
	}
	for _, c := range cells {
		all = append(all, gridRow(s, c))
	}
	return all
}

func wideRow(s scale, id string, from bool) row {
	p := path{rate: 1000, rtt: 40 * time.Millisecond}
	r := impairedRow(id, p, from, 4*s.time, kernelReno, []string{kernelReno, kernelCubic, native, nativeCeiling})
	r.metrics[0].Goals = append(r.metrics[0].Goals, report.Goal{Subject: nativeCeiling, Against: kernelReno, Limit: 0.9})
	r.rounds = min(s.rounds, 3)
	return r
}

// A lossCell is a lossy path, and how it is measured: random loss needs many rounds,
// and long ones where there is little on the way.
type lossCell struct {
	path
	time    time.Duration
	rounds  int
	abreast int // so many rounds at once, of all subjects; 0: one subject after the other
}

func lossCells() []lossCell {
	const ms = time.Millisecond
	cells := []lossCell{
		{path{loss: 1, rtt: 20 * ms}, 10 * time.Second, 6, 6},
		{path{loss: 0.1, rtt: ms}, 3 * time.Second, 5, 0},
		{path{loss: 1, rtt: ms}, 5 * time.Second, 6, 1},
		{path{loss: 3, rtt: ms}, 8 * time.Second, 6, 2},
		{path{loss: 0.1, rtt: 20 * ms}, 8 * time.Second, 6, 2},
		{path{loss: 3, rtt: 20 * ms}, 10 * time.Second, 6, 6},
		{path{loss: 0.1, rtt: 100 * ms}, 12 * time.Second, 12, 6},
		{path{loss: 1, rtt: 100 * ms}, 12 * time.Second, 6, 6},
		{path{loss: 3, rtt: 100 * ms}, 12 * time.Second, 6, 6},
		{path{loss: 0.1, rtt: 20 * ms, reorder: 1}, 8 * time.Second, 6, 2},
		// Nothing is lost but what finds the queue full: slow start ends with many
		// losses at once.
		{path{rate: 20, rtt: 50 * ms}, 8 * time.Second, 6, 6},
		{path{rate: 100, rtt: 20 * ms}, 6 * time.Second, 4, 1},
	}
	for i := range cells {
		if cells[i].rate == 0 {
			cells[i].rate = 1000
		}
	}
	return cells
}

func (c lossCell) id(group string) string {
	if c.loss == 0 {
		return fmt.Sprintf("%s-overflow-%dmbit-%v", group, c.rate, c.rtt)
	}
	id := fmt.Sprintf("%s-%g-%v", group, c.loss, c.rtt)
	if c.reorder > 0 {
		id += "-reorder"
	}
	return id
}

func lossRow(s scale, c lossCell) row {
	r := impairedRow(c.id("loss"), c.path, true, c.time, kernelCubic, []string{kernelReno, kernelCubic, native})
	r.fresh, r.rounds, r.together, r.abreast = true, c.rounds, c.abreast > 0, c.abreast
	if !s.grid {
		r.rounds = min(r.rounds, s.rounds)
	}
	return r
}

// gridRow is lossRow for the stack with several settings.
func gridRow(s scale, c lossCell) row {
	id := c.id("grid")
	if c.abreast > 1 {
		c.abreast /= 2 // twice as many subjects
	}
	r := lossRow(s, c)
	measure, loss := r.run, r.id
	r.id, r.extra = id, true
	r.subjects = []string{kernelReno, kernelCubic, native, nativeRACK, nativeRTO, nativeCubic, nativeCubicRACK}
	r.metrics[0].ID = id
	title := r.metrics[0].Title
	r.metrics = append(r.metrics,
		report.Metric{ID: id + "-timeouts", Title: title + ": timeouts", Unit: "/s", LowIsGood: true, NoRatios: true, NoChart: true},
		report.Metric{ID: id + "-resent", Title: title + ": segments sent again", Unit: "/s", LowIsGood: true, NoRatios: true, NoChart: true})
	r.run = func(ctx context.Context, in *instance) (map[string]float64, error) {
		before, err := in.serve.do(ctx, job{Do: "counters"})
		if err != nil {
			return nil, err
		}
		began := time.Now()
		values, err := measure(ctx, in)
		if err != nil {
			return nil, err
		}
		after, err := in.serve.do(ctx, job{Do: "counters"})
		if err != nil {
			return nil, err
		}
		took := time.Since(began).Seconds()
		each := func(kernels, netstacks string) float64 {
			n := 0.0
			for _, name := range []string{kernels, netstacks} { // each has one of them
				n += float64(after.Counters[name] - before.Counters[name])
			}
			return n / took
		}
		return map[string]float64{
			id:               values[loss],
			id + "-timeouts": each("TcpExtTCPTimeouts", "timeouts"),
			id + "-resent":   each("TcpRetransSegs", "retransmits"),
		}, nil
	}
	return r
}

func impairedRow(id string, p path, from bool, long time.Duration, base string, subjects []string) row {
	j := job{Do: "stream", Write: 128 << 10, From: from, Time: long}
	dir := "to"
	if from {
		dir = "from"
	}
	check := j
	check.Total = 128 << 10
	return row{
		id: id, path: p.options(), subjects: subjects, verify: &check,
		metrics: []report.Metric{{
			ID: id, Title: "one stream " + dir + ", " + p.title(), Unit: "Mbit/s", Base: base,
			Goals: []report.Goal{{Subject: native, Against: base, Limit: 0.9}},
		}},
		run: func(ctx context.Context, in *instance) (map[string]float64, error) {
			j := j
			j.Addr = in.addr
			switch in.subject {
			case kernelReno:
				j.Congestion = "reno"
			case kernelCubic:
				j.Congestion = "cubic"
			}
			res, err := in.dial.do(ctx, j)
			if err != nil {
				return nil, err
			}
			return map[string]float64{id: float64(res.Bytes) * 8 / 1e6 / res.Time.Seconds()}, nil
		},
	}
}
