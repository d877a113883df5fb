package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ustack/ustack/bench/report"
)

// A row is one workload that subjects do in turns.
type row struct {
	id       string
	subjects []string
	pinned   bool // kernel's side on processor 0, stack's side on 1
	fresh    bool // a new instance for each measurement
	rounds   int  // 0: as many as the run says
	// together measures all subjects at once, where that leaves the processors idle, and
	// abreast so many rounds; 0 is one.
	together bool
	abreast  int
	// extra rows are done only when -only is given.
	extra bool
	// path impairs the link, as options of a SPEC; "" does not.
	path string
	// needs is a program of the peers without which there is nothing to measure; "" is none.
	needs string
	// verify is done once by each subject, before the rounds; nil where run itself
	// sees every byte.
	verify *job
	// run measures once. It returns one value for each of metrics, by its ID; with an
	// error too where that only has to be told.
	run     func(ctx context.Context, in *instance) (map[string]float64, error)
	metrics []report.Metric // without Series
}

// A scale says how long things take in a run.
type scale struct {
	rounds, echoRounds int
	time               time.Duration // of one measurement
	connections        int           // of the long row of connections
	open               int           // connections held open
	verify             uint64        // bytes
	starts             int           // of a program, by turns with the plain one
	grid               bool          // all lossy paths
}

var (
	wholeRun = scale{rounds: 5, echoRounds: 9, time: 500 * time.Millisecond, connections: 100_000, open: 10_000, verify: 32 << 20, starts: 10, grid: true}
	quickRun = scale{rounds: 2, echoRounds: 2, time: 150 * time.Millisecond, connections: 5_000, open: 1_000, verify: 8 << 20, starts: 5}
)

// rows are all workloads, in the order in which they are done.
func rows(s scale) []row {
	everyone := []string{vethOn, vethOff, native, daemon, water, pasta, slirp, naiveTap}
	main := []string{vethOn, native, daemon}
	all := []row{
		streamRow(s, "stream-to", "one stream to the stack", everyone, job{Write: 128 << 10}, true,
			report.Goal{Subject: native, Against: vethOn, Limit: 0.9}, report.Goal{Subject: native, Against: naiveTap, Limit: 15},
			report.Goal{Subject: native, Against: pasta, Limit: 5}, report.Goal{Subject: daemon, Against: vethOn, Limit: 0.6},
			report.Goal{Subject: daemon, Against: pasta, Limit: 5}, report.Goal{Subject: water, Against: naiveTap, Limit: 2}),
		streamRow(s, "stream-from", "one stream from the stack", everyone, job{Write: 128 << 10, From: true}, true,
			report.Goal{Subject: native, Against: vethOn, Limit: 0.75}, report.Goal{Subject: native, Against: naiveTap, Limit: 15},
			report.Goal{Subject: native, Against: pasta, Limit: 5}, report.Goal{Subject: daemon, Against: vethOn, Limit: 0.45},
			report.Goal{Subject: daemon, Against: pasta, Limit: 3.5}, report.Goal{Subject: water, Against: naiveTap, Limit: 2}),
		streamRow(s, "stream-to-16k", "one stream to, 16 KiB writes", main, job{Write: 16 << 10}, false),
		streamRow(s, "stream-from-16k", "one stream from, 16 KiB writes", main, job{Write: 16 << 10, From: true}, false),
		streamRow(s, "stream-to-1k", "one stream to, 1 KiB writes", main, job{Write: 1 << 10}, false),
		streamRow(s, "stream-from-1k", "one stream from, 1 KiB writes", main, job{Write: 1 << 10, From: true}, false),
		streamRow(s, "streams8-to", "8 streams to the stack", main, job{Write: 128 << 10, Streams: 8}, false),
		streamRow(s, "streams8-from", "8 streams from the stack", main, job{Write: 128 << 10, Streams: 8, From: true}, false),
		echoRow(s, "echo", "1-byte round trip", []string{vethOn, native, daemon, underRun, water, pasta, slirp, naiveTap}, nil,
			map[string][2]float64{native: {1.8, 3}, daemon: {2.8, 3}, underRun: {4, 0}}),
		unpinned(echoRow(s, "echo-unpinned", "1-byte round trip, not pinned", main, nil, nil)),
		echoRow(s, "echo-bulk-to", "1-byte round trip beside a stream to the stack", main, &job{Write: 128 << 10},
			map[string][2]float64{native: {3, 0}, daemon: {3, 0}}),
		echoRow(s, "echo-bulk-from", "1-byte round trip beside a stream from the stack", main, &job{Write: 128 << 10, From: true},
			map[string][2]float64{native: {3, 0}, daemon: {3, 0}}),
		connectRow(s, []string{vethOn, native, daemon, underRun, pasta, slirp, naiveTap}),
		manyConnectsRow(s, main),
		pushRow(s, []string{vethOn, native, daemon, pasta, slirp, naiveTap}),
		pullRow(s, []string{vethOn, native, daemon, pasta, slirp, naiveTap}),
		limitRow(s, main, false),
		limitRow(s, main, true),
		openRow(s, main),
		captureRow(s),
	}
	all = append(all, switchRows(s)...)
	all = append(all, programRows(s)...)
	return append(all, impairedRows(s)...)
}

// patience is how many times longer streams of a subject take that needs long to reach
// its rate: pasta's window opens over seconds.
var patience = map[string]time.Duration{pasta: 4}

// streamRow moves bytes over TCP; detail adds the processor time of both sides.
func streamRow(s scale, id, title string, subjects []string, j job, detail bool, goals ...report.Goal) row {
	j.Do, j.Time = "stream", s.time
	check := j
	check.Total = s.verify / uint64(max(j.Streams, 1))
	r := row{id: id, subjects: subjects, verify: &check}
	cpu := []report.Goal{{Subject: native, Against: vethOn, Limit: 1.5}, {Subject: daemon, Against: vethOn, Limit: 1.5}}
	r.metrics = []report.Metric{
		{ID: id, Title: title, Unit: "Gbit/s", Goals: goals},
		{ID: id + "-cpu", Title: title + ": processor, stack's side", Unit: "s/GB", LowIsGood: true, NoChart: true, Goals: cpu},
		{ID: id + "-cpu-both", Title: title + ": processor, both sides", Unit: "s/GB", LowIsGood: true, Goals: cpu},
	}
	if !detail {
		r.metrics = r.metrics[:2]
		r.metrics[1].Goals = nil
	}
	r.run = func(ctx context.Context, in *instance) (map[string]float64, error) {
		j := j
		j.Time *= max(patience[in.subject], 1)
		res, stack, all, err := in.timed(ctx, j)
		if err != nil {
			return nil, err
		}
		gb := float64(res.Bytes) / 1e9
		return map[string]float64{
			id:               gb * 8 / res.Time.Seconds(),
			id + "-cpu":      stack.Seconds() / gb,
			id + "-cpu-both": all.Seconds() / gb,
		}, nil
	}
	return r
}

// timed does a job and tells what processor time it took: of the stack's side, and of
// both.
func (in *instance) timed(ctx context.Context, j job) (res result, stack, all time.Duration, err error) {
	j.Addr = in.addr
	stack0, err := in.stackTime()
	if err != nil {
		return res, 0, 0, err
	}
	all0, err := in.allTime()
	if err != nil {
		return res, 0, 0, err
	}
	if res, err = in.dial.do(ctx, j); err != nil {
		return res, 0, 0, err
	}
	if stack, err = in.stackTime(); err != nil {
		return res, 0, 0, err
	}
	all, err = in.allTime()
	return res, stack - stack0, all - all0, err
}

// echoRow times one byte there and back, beside a stream if bulk says which. limits
// are the goals for p50 and p99 as ratios to veth; 0 is none.
func echoRow(s scale, id, title string, subjects []string, bulk *job, limits map[string][2]float64) row {
	p50 := report.Metric{ID: id + "-p50", Title: title + ", p50", Unit: "µs", LowIsGood: true}
	p99 := report.Metric{ID: id + "-p99", Title: title + ", p99", Unit: "µs", LowIsGood: true}
	for _, subject := range subjects {
		for i, m := range []*report.Metric{&p50, &p99} {
			if l := limits[subject][i]; l > 0 {
				m.Goals = append(m.Goals, report.Goal{Subject: subject, Against: vethOn, Limit: l})
			}
		}
	}
	r := row{id: id, subjects: subjects, pinned: true, rounds: s.echoRounds, metrics: []report.Metric{p50, p99}}
	if bulk != nil {
		r.rounds = s.rounds
		r.metrics = append(r.metrics, report.Metric{ID: id + "-rate", Title: title + ": rate of the stream", Unit: "Gbit/s", NoChart: true})
	}
	r.run = func(ctx context.Context, in *instance) (map[string]float64, error) {
		var load chan error
		var beside result
		if bulk != nil {
			j := *bulk
			j.Do, j.Addr, j.Time = "stream", in.addr, s.time+400*time.Millisecond
			load = make(chan error, 1)
			go func() {
				var err error
				beside, err = in.beside.do(ctx, j)
				load <- err
			}()
			time.Sleep(200 * time.Millisecond) // until the stream is at full speed
		}
		res, err := in.dial.do(ctx, job{Do: "echo", Addr: in.addr, Time: s.time})
		if load != nil {
			if lerr := <-load; err == nil {
				err = lerr
			}
		}
		if err != nil {
			return nil, err
		}
		m := map[string]float64{id + "-p50": micros(res.P50), id + "-p99": micros(res.P99)}
		if bulk != nil {
			m[id+"-rate"] = float64(beside.Bytes) * 8 / 1e9 / beside.Time.Seconds()
		}
		return m, nil
	}
	return r
}

// unpinned lets a row's processes run wherever the kernel puts them.
func unpinned(r row) row {
	r.pinned, r.rounds = false, 0
	return r
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func connectRow(s scale, subjects []string) row {
	return row{
		id: "connects", subjects: subjects,
		metrics: []report.Metric{
			{ID: "connects", Title: "connections: connect, 1 byte, close; 16 at once", Unit: "/s",
				Goals: []report.Goal{{Subject: native, Against: vethOn, Limit: 0.65}, {Subject: underRun, Against: vethOn, Limit: 0.2}}},
			{ID: "connects-cpu", Title: "connections: processor, stack's side", Unit: "µs each", LowIsGood: true, NoChart: true},
		},
		run: func(ctx context.Context, in *instance) (map[string]float64, error) {
			res, stack, _, err := in.timed(ctx, job{Do: "connects", Time: s.time, Parallel: 16})
			if err != nil {
				return nil, err
			}
			if res.Errors > 0 {
				err = fmt.Errorf("%d of %d connections failed: %s", res.Errors, res.Errors+res.Count, res.First)
			}
			return map[string]float64{
				"connects":     float64(res.Count) / res.Time.Seconds(),
				"connects-cpu": micros(stack) / float64(max(res.Count, 1)),
			}, err
		},
	}
}

// manyConnectsRow makes so many connections that addresses and ports repeat while the
// server still has the old ones in TIME-WAIT.
func manyConnectsRow(s scale, subjects []string) row {
	goals := func(limit float64) []report.Goal {
		return []report.Goal{{Subject: native, Limit: limit}, {Subject: daemon, Limit: limit}}
	}
	title := fmt.Sprintf("%d connections", s.connections)
	return row{
		id: "many-connects", subjects: subjects, fresh: true, rounds: 1,
		metrics: []report.Metric{
			{ID: "many-connects", Title: title, Unit: "s", LowIsGood: true, Goals: goals(60)},
			{ID: "many-connects-errors", Title: title + ": errors, and not done in 60 s", LowIsGood: true, NoRatios: true, Goals: goals(0)},
			{ID: "many-connects-even", Title: title + ": rate of the slowest tenth over the mean", NoRatios: true, Goals: goals(0.7)},
		},
		run: func(ctx context.Context, in *instance) (map[string]float64, error) {
			res, err := in.dial.do(ctx, job{Do: "connects", Addr: in.addr, Time: time.Minute, Count: s.connections, Parallel: 16})
			if err != nil {
				return nil, err
			}
			if res.First != "" {
				var srv result
				srv, err = in.serve.do(ctx, job{Do: "packets"})
				err = errors.Join(err, fmt.Errorf("%d errors, the first: %s; the server's: %q", res.Errors, res.First, srv.First))
			}
			return map[string]float64{
				"many-connects":        res.Time.Seconds(),
				"many-connects-errors": float64(s.connections - res.Count),
				"many-connects-even":   res.Slowest,
			}, err
		},
	}
}

func pushRow(s scale, subjects []string) row {
	return row{
		id: "udp-to", subjects: subjects,
		metrics: []report.Metric{
			{ID: "udp-to", Title: "UDP, 64 bytes, to the stack: arrived", Unit: "/s",
				Goals: []report.Goal{{Subject: native, Against: vethOn, Limit: 0.5}}},
			{ID: "udp-to-cpu", Title: "UDP, 64 bytes, to the stack: processor, stack's side", Unit: "µs each", LowIsGood: true, NoChart: true},
			{ID: "udp-to-kept", Title: "UDP, 64 bytes, to the stack: arrived of sent", NoRatios: true},
		},
		run: func(ctx context.Context, in *instance) (map[string]float64, error) {
			res, stack, n, err := in.push(ctx, job{Time: s.time})
			if err != nil {
				return nil, err
			}
			return map[string]float64{
				"udp-to":      float64(n) / res.Time.Seconds(),
				"udp-to-cpu":  micros(stack) / float64(max(n, 1)),
				"udp-to-kept": float64(n) / float64(res.Sent),
			}, nil
		},
	}
}

func pullRow(s scale, subjects []string) row {
	return row{
		id: "udp-from", subjects: subjects,
		metrics: []report.Metric{
			{ID: "udp-from", Title: "UDP, 64 bytes, from the stack: arrived", Unit: "/s",
				Goals: []report.Goal{{Subject: native, Against: vethOn, Limit: 0.5}}},
			{ID: "udp-from-cpu", Title: "UDP, 64 bytes, from the stack: processor, stack's side", Unit: "µs each sent", LowIsGood: true, NoChart: true},
			{ID: "udp-from-kept", Title: "UDP, 64 bytes, from the stack: arrived of sent", NoRatios: true},
		},
		run: func(ctx context.Context, in *instance) (map[string]float64, error) {
			res, stack, _, err := in.timed(ctx, job{Do: "pull", Time: s.time})
			if err != nil {
				return nil, err
			}
			n := float64(res.Count)
			return map[string]float64{
				"udp-from":      n / res.Time.Seconds(),
				"udp-from-cpu":  micros(stack) / float64(res.Sent),
				"udp-from-kept": n / float64(res.Sent),
			}, nil
		},
	}
}

// openRow holds many connections: what each costs in memory, and what they cost
// those that work.
func openRow(s scale, subjects []string) row {
	const few = 10
	each := func(id, title string, goals ...report.Goal) report.Metric {
		return report.Metric{ID: id, Title: fmt.Sprintf("%d idle connections: %s", s.open, title), Unit: "KB each",
			LowIsGood: true, NoRatios: true, Goals: goals}
	}
	return row{
		id: "open", subjects: subjects, fresh: true, rounds: min(s.rounds-1, 3),
		metrics: []report.Metric{
			each("open-rss", "memory of application and stack",
				report.Goal{Subject: native, Limit: 12}, report.Goal{Subject: daemon, Limit: 40}),
			each("open-rss-free", "the same, application's garbage returned"),
			{ID: "open-cpu", Title: fmt.Sprintf("round trip among %d connections over among %d: processor, stack's side", s.open, few),
				LowIsGood: true, NoRatios: true, Goals: []report.Goal{{Subject: native, Limit: 1.5}, {Subject: daemon, Limit: 1.5}}},
		},
		run: func(ctx context.Context, in *instance) (map[string]float64, error) {
			cpu := func() (float64, error) {
				res, stack, _, err := in.timed(ctx, job{Do: "cycle", Count: max(s.open, 5000), Parallel: few, Time: 20 * time.Second})
				return micros(stack) / float64(max(res.Count, 1)), err
			}
			hold := func(n int) error {
				_, err := in.dial.do(ctx, job{Do: "hold", Addr: in.addr, Count: n, Parallel: 16, Time: 30 * time.Second})
				return err
			}
			if err := hold(few); err != nil {
				return nil, err
			}
			// Once to warm up: the first round pays for memory that stays.
			if _, err := cpu(); err != nil {
				return nil, err
			}
			cpuFew, err := cpu()
			if err != nil {
				return nil, err
			}
			if _, err := in.serve.do(ctx, job{Do: "free"}); err != nil {
				return nil, err
			}
			before, err := in.stackRSS()
			if err != nil {
				return nil, err
			}
			if err := hold(s.open - few); err != nil {
				return nil, err
			}
			after, err := in.stackRSS()
			if err != nil {
				return nil, err
			}
			if _, err := in.serve.do(ctx, job{Do: "free"}); err != nil {
				return nil, err
			}
			freed, err := in.stackRSS()
			if err != nil {
				return nil, err
			}
			cpuMany, err := cpu()
			if err != nil {
				return nil, err
			}
			kb := float64(s.open-few) * 1000
			return map[string]float64{
				"open-rss":      float64(after-before) / kb,
				"open-rss-free": float64(freed-before) / kb,
				"open-cpu":      cpuMany / cpuFew,
			}, nil
		},
	}
}

// stackRSS is the memory of the stack's side in bytes.
func (in *instance) stackRSS() (sum int64, err error) {
	for _, p := range append([]*process{in.serve}, in.between...) {
		n, err := p.rss()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
