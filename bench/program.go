package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"github.com/ustack/ustack/bench/report"
	"github.com/ustack/ustack/internal/netns"
)

// programRows are those of programs that know nothing of ustack.
func programRows(s scale) []row {
	return []row{
		iperf3Row(s, true, 0.5),
		iperf3Row(s, false, 0.4),
		dialRow(s),
		curlRow(s),
		startRow(s),
	}
}

// setUp are the calls that make and end connections, and tell of them: what else is passed
// to the supervisor moves data or waits for it.
var setUp = []string{
	"socket", "connect", "bind", "listen", "accept", "accept4", "getsockname", "getpeername", "setsockopt", "getsockopt",
}

// dataCalls counts the others.
func dataCalls(calls map[string]int) (n int) {
	for name, count := range calls {
		if !slices.Contains(setUp, name) {
			n += count
		}
	}
	return n
}

func sum(calls map[string]int) (n int) {
	for _, count := range calls {
		n += count
	}
	return n
}

// iperf3Row moves one stream with iperf3, whose client is on the stack.
func iperf3Row(s scale, to bool, limit float64) row {
	id, title := "iperf3-from", "iperf3, one stream from the stack"
	if to {
		id, title = "iperf3-to", "iperf3, one stream to the stack"
	}
	const port = "7100"
	return row{
		id: id, subjects: []string{vethOn, underRun, pasta}, needs: "iperf3",
		metrics: []report.Metric{
			{ID: id, Title: title, Unit: "Gbit/s", Goals: []report.Goal{
				{Subject: underRun, Against: vethOn, Limit: limit}, {Subject: underRun, Against: pasta, Limit: 4}}},
			{ID: id + "-data-calls", Title: title + ": calls that move data or wait, passed to the supervisor", LowIsGood: true, NoRatios: true, NoChart: true,
				Goals: []report.Goal{{Subject: underRun, Limit: 0}}},
			{ID: id + "-calls", Title: title + ": all calls passed to the supervisor", LowIsGood: true, NoRatios: true, NoChart: true},
		},
		run: func(ctx context.Context, in *instance) (map[string]float64, error) {
			srv, err := in.peerServer(ctx, "listening on "+port, "iperf3", "-s", "-1", "-4", "--forceflush", "-p", port)
			if err != nil {
				return nil, err
			}
			defer srv.stop()
			seconds := max(patience[in.subject]/2, 1) // iperf3 takes whole ones
			args := []string{"-c", in.out().target, "-p", port, "-J", "-t", strconv.Itoa(int(seconds))}
			if to {
				args = append(args, "-R")
			}
			got, err := in.program(ctx, 20*time.Second, "iperf3", args...)
			if err != nil {
				return nil, err
			}
			rate, err := parseIperf3(got.stdout)
			if err != nil {
				return nil, err
			}
			m := map[string]float64{id: rate / 1e9}
			if got.calls != nil {
				m[id+"-data-calls"], m[id+"-calls"] = float64(dataCalls(got.calls)), float64(sum(got.calls))
			}
			return m, nil
		},
	}
}

// parseIperf3 returns the receiver's rate in bits a second, from what `iperf3 -J` prints.
func parseIperf3(out []byte) (float64, error) {
	var r struct {
		Error string
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return 0, fmt.Errorf("what iperf3 printed: %w", err)
	}
	if r.Error != "" || r.End.Received.Rate <= 0 {
		return 0, fmt.Errorf("iperf3: %q; rate of the receiver %v", r.Error, r.End.Received.Rate)
	}
	return r.End.Received.Rate, nil
}

// dialRow makes connections from a program on the stack.
func dialRow(s scale) row {
	return row{
		id: "dials", subjects: []string{vethOn, underRun, pasta},
		metrics: []report.Metric{
			{ID: "dials", Title: "connections made by a program: connect, 1 byte, close; 16 at once", Unit: "/s",
				Goals: []report.Goal{{Subject: underRun, Against: vethOn, Limit: 0.2}}},
		},
		run: func(ctx context.Context, in *instance) (map[string]float64, error) {
			o := in.out()
			res, err := o.dial.do(ctx, job{Do: "connects", Addr: o.target, Time: s.time, Parallel: 16})
			if err != nil {
				return nil, err
			}
			if res.Errors > 0 {
				err = fmt.Errorf("%d of %d connections failed: %s", res.Errors, res.Errors+res.Count, res.First)
			}
			return map[string]float64{"dials": float64(res.Count) / res.Time.Seconds()}, err
		},
	}
}

// curlRow lets curl fetch from many connections at once.
func curlRow(s scale) row {
	const (
		many    = 200
		longest = 10 * time.Second
	)
	title := fmt.Sprintf("curl --parallel, %d transfers at once of %d KiB", many, webBody>>10)
	return row{
		id: "curl", subjects: []string{vethOn, underRun, pasta}, needs: "curl",
		metrics: []report.Metric{
			{ID: "curl", Title: title, Unit: "ms", LowIsGood: true, NoChart: true},
			{ID: "curl-slowest", Title: title + ": the slowest of them", Unit: "ms", LowIsGood: true, NoChart: true,
				Goals: []report.Goal{{Subject: underRun, Limit: 1000}}},
			{ID: "curl-failed", Title: title + fmt.Sprintf(": failed, or not done in %v", longest), LowIsGood: true, NoRatios: true, NoChart: true,
				Goals: []report.Goal{{Subject: underRun, Limit: 0}}},
		},
		run: func(ctx context.Context, in *instance) (map[string]float64, error) {
			o := in.out()
			web, err := startProcess(ctx, o.outside, nil, nil, "web")
			if err != nil {
				return nil, err
			}
			defer web.stop()
			began := time.Now()
			got, err := in.program(ctx, longest+10*time.Second, "curl", "--silent", "--show-error", "--parallel", "--parallel-immediate",
				"--parallel-max", strconv.Itoa(many), "--max-time", strconv.Itoa(int(longest.Seconds())), "--noproxy", "*",
				"--output", "/dev/null", "--write-out", "%{http_code} %{size_download} %{time_total}\n",
				fmt.Sprintf("http://%s:%d/[1-%d]", o.target, webPort, many))
			took := time.Since(began)
			if err != nil && !errors.Is(err, errFailed) {
				return nil, err
			}
			good, slowest := parseCurl(got.stdout)
			m := map[string]float64{"curl-failed": float64(many - good)}
			if good == many {
				m["curl"], m["curl-slowest"] = float64(took)/float64(time.Millisecond), float64(slowest)/float64(time.Millisecond)
			}
			return m, err
		},
	}
}

// parseCurl counts the transfers that have their whole body, and finds the slowest.
func parseCurl(out []byte) (good int, slowest time.Duration) {
	for line := range bytes.Lines(out) {
		var code, size int
		var seconds float64
		if n, err := fmt.Sscan(string(line), &code, &size, &seconds); n != 3 || err != nil || code != 200 || size != webBody {
			continue
		}
		good++
		slowest = max(slowest, time.Duration(seconds*float64(time.Second)))
	}
	return good, slowest
}

// startRow compares the time that true(1) takes under `ustack run` with that of true alone.
func startRow(s scale) row {
	return row{
		id: "run-start", subjects: []string{underRun},
		metrics: []report.Metric{
			{ID: "run-start", Title: "`true`: what `ustack run` adds from its start to its end", Unit: "ms", LowIsGood: true, NoRatios: true, NoChart: true,
				Goals: []report.Goal{{Subject: underRun, Limit: 15}}},
			{ID: "run-start-plain", Title: "`true` alone", Unit: "ms", LowIsGood: true, NoRatios: true, NoChart: true},
		},
		run: func(ctx context.Context, in *instance) (map[string]float64, error) {
			o := in.out()
			program, err := exec.LookPath("true")
			if err != nil {
				return nil, err
			}
			under := slices.DeleteFunc(slices.Clone(o.under), func(arg string) bool { return arg == "-v" })
			var plain, run []float64
			for range s.starts {
				for _, turn := range []struct {
					argv  []string
					times *[]float64
				}{{[]string{program}, &plain}, {append(under, program), &run}} {
					took, err := startAndEnd(ctx, o.inside, turn.argv)
					if err != nil {
						return nil, err
					}
					*turn.times = append(*turn.times, float64(took)/float64(time.Millisecond))
				}
			}
			alone := report.Summarise(plain).Median
			return map[string]float64{"run-start": report.Summarise(run).Median - alone, "run-start-plain": alone}, nil
		},
	}
}

// startAndEnd tells how long a program takes that says nothing.
func startAndEnd(ctx context.Context, ns *netns.NS, argv []string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	began := time.Now()
	if err := ns.Start(cmd); err != nil {
		return 0, err
	}
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("%q: %w", argv, err)
	}
	return time.Since(began), nil
}
