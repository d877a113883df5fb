package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ustack/ustack/bench/report"
)

// A path is an impaired link.
type path struct {
	rate    uint64        // Gbit/s
	rtt     time.Duration // both ways together
	loss    float64       // percent, each way
	reorder float64       // percent, each way
}

// options are those of a SPEC.
func (p path) options() string {
	// The link holds what is on the way, and as much again waits before it.
	frames := 2*int(float64(p.rate)*1e9*p.rtt.Seconds()/2/8/1514) + 100
	o := fmt.Sprintf(",rate=%dgbit,delay=%dus,limit=%d,seed=1", p.rate, (p.rtt / 2).Microseconds(), frames)
	if p.loss > 0 {
		o += fmt.Sprintf(",loss=%g%%", p.loss)
	}
	if p.reorder > 0 {
		o += fmt.Sprintf(",reorder=%g%%", p.reorder)
	}
	return o
}

func (p path) title() string {
	t := fmt.Sprintf("%d Gbit/s × %v", p.rate, p.rtt)
	if p.loss > 0 {
		t += fmt.Sprintf(", %g %% lost", p.loss)
	}
	if p.reorder > 0 {
		t += fmt.Sprintf(", %g %% reordered", p.reorder)
	}
	return t
}

// impairedRows compare the stack's goodput with that of the kernel over links that the
// same code impairs the same way.
func impairedRows(s scale) []row {
	wide := path{rate: 1, rtt: 40 * time.Millisecond}
	all := []row{
		impairedRow(s, "wide-to", wide, false, kernelReno),
		impairedRow(s, "wide-from", wide, true, kernelReno),
		impairedRow(s, "reorder-20ms", path{rate: 1, rtt: 20 * time.Millisecond, loss: 0.1, reorder: 1}, true, kernelCubic),
	}
	losses := []float64{0.1, 1, 3} // percent
	rtts := []time.Duration{time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond}
	if !s.grid {
		losses, rtts = losses[1:2], rtts[1:2]
	}
	for _, loss := range losses {
		for _, rtt := range rtts {
			id := fmt.Sprintf("loss-%g-%v", loss, rtt)
			all = append(all, impairedRow(s, id, path{rate: 1, rtt: rtt, loss: loss}, true, kernelCubic))
		}
	}
	return all
}

func impairedRow(s scale, id string, p path, from bool, base string) row {
	j := job{Do: "stream", Write: 128 << 10, From: from, Time: 4 * s.time}
	dir := "to"
	if from {
		dir = "from"
	}
	check := j
	check.Total = 128 << 10
	lossy := p.loss > 0 && p.rtt >= 20*time.Millisecond // some 10 Mbit/s
	rounds := s.rounds
	switch {
	case p.loss == 0:
		rounds = min(rounds, 3)
	case !lossy:
		j.Time = 2 * s.time
	}
	return row{
		id: id, path: p.options(), subjects: []string{kernelReno, kernelCubic, native}, rounds: rounds, together: lossy, verify: &check,
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
