package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ustack/ustack/bench/report"
)

// push sends datagrams to the server and tells how many arrived.
func (in *instance) push(ctx context.Context, j job) (res result, stack time.Duration, arrived int, err error) {
	before, err := in.serve.do(ctx, job{Do: "packets"})
	if err != nil {
		return res, 0, 0, err
	}
	j.Do = "push"
	if res, stack, _, err = in.timed(ctx, j); err != nil {
		return res, 0, 0, err
	}
	after := before
	for range 50 { // until what is on the way has arrived
		last := after.Count
		time.Sleep(20 * time.Millisecond)
		if after, err = in.serve.do(ctx, job{Do: "packets"}); err != nil {
			return res, 0, 0, err
		}
		if after.Count == last || after.Count-before.Count == res.Sent {
			break
		}
	}
	return res, stack, after.Count - before.Count, nil
}

// What the search for the highest rate without loss does: so many steps, so long each,
// every millisecond as many datagrams as are due. What it finds must hold for longer, else
// a share of it, and so on; at last a share of that is offered once more.
const (
	limitSteps = 6
	limitStep  = 200 * time.Millisecond
	limitShare = 0.8
	limitHold  = 500 * time.Millisecond
)

// limitRow finds the highest rate of datagrams at which none is lost, and what is lost
// below it.
func limitRow(s scale, subjects []string, from bool) row {
	id, dir := "udp-to", "to"
	if from {
		id, dir = "udp-from", "from"
	}
	title := "UDP, 64 bytes, " + dir + " the stack: highest rate without loss"
	return row{
		id: id + "-limit", subjects: subjects, rounds: min(s.rounds, 3),
		metrics: []report.Metric{
			{ID: id + "-limit", Title: title, Unit: "/s",
				Goals: []report.Goal{{Subject: native, Against: vethOn, Limit: 0.5}}},
			{ID: id + "-lost", Title: fmt.Sprintf("%s: lost at %g of it, of a million", title, limitShare),
				NoRatios: true, NoChart: true, LowIsGood: true},
		},
		run: func(ctx context.Context, in *instance) (map[string]float64, error) {
			offer := func(rate int, long time.Duration) (sent, arrived int, took time.Duration, err error) {
				j := job{Do: "pull", Addr: in.addr, Time: long, Rate: rate}
				if from {
					r, err := in.dial.do(ctx, j)
					return r.Sent, r.Count, r.Time, err
				}
				r, _, n, err := in.push(ctx, j)
				return r.Sent, n, r.Time, err
			}
			limit, err := highest(limitSteps, func(rate int) (int, bool, error) {
				sent, arrived, took, err := offer(rate, limitStep)
				return int(float64(sent) / took.Seconds()), sent == arrived, err
			})
			if err != nil {
				return nil, err
			}
			for held := false; !held && limit > 0; {
				sent, arrived, _, err := offer(limit, limitHold)
				if err != nil {
					return nil, err
				}
				if held = sent == arrived; !held {
					limit = int(limitShare * float64(limit))
				}
			}
			values := map[string]float64{id + "-limit": float64(limit)}
			if rate := int(limitShare * float64(limit)); rate > 0 {
				sent, arrived, _, err := offer(rate, limitHold)
				if err != nil {
					return nil, err
				}
				values[id+"-lost"] = float64(sent-arrived) / float64(max(sent, 1)) * 1e6
			}
			return values, nil
		},
	}
}

// highest searches, in so many steps, for the highest rate at which offer tells that
// nothing was lost. It first offers rate 0: as much as there can be. offer returns the
// rate that it really reached.
func highest(steps int, offer func(rate int) (reached int, whole bool, err error)) (int, error) {
	most, whole, err := offer(0)
	if err != nil || whole {
		return most, err
	}
	least := 0
	for range steps {
		rate := (least + most) / 2
		if rate == 0 {
			break
		}
		reached, whole, err := offer(rate)
		if err != nil {
			return 0, err
		}
		if whole {
			least = max(least, min(reached, rate))
		} else {
			most = rate
		}
	}
	return least, nil
}
