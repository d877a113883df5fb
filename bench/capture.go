package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/ustack/ustack/bench/report"
)

// captures are the ways to capture that captureRow compares with none.
var captures = []struct {
	id, title string
	args      []string
}{
	{"", "whole frames", nil},
	{"-headers", "128 bytes of each frame", []string{"-s", "128"}},
}

// captureRow measures a stream with and without `ustack capture -w FILE` beside it, one after the
// other: what part of the rate is left, and what part of the frames is in the file. The file
// is one of two that are used by turns, so that no disk is filled.
func captureRow(s scale) row {
	r := row{id: "capture", subjects: []string{daemon}}
	ways := []struct {
		id, title string
		from      bool
	}{{"to", "to", false}, {"from", "from", true}}
	for _, way := range ways {
		for _, c := range captures {
			id, title := "capture-"+way.id+c.id, "a stream "+way.title+" the stack, "+c.title+" captured to a file: "
			r.metrics = append(r.metrics,
				report.Metric{ID: id + "-rate", Title: title + "rate over that without", NoRatios: true, NoChart: true},
				report.Metric{ID: id + "-recorded", Title: title + "frames recorded of all", NoRatios: true, NoChart: true})
		}
	}
	r.run = func(ctx context.Context, in *instance) (map[string]float64, error) {
		m := make(map[string]float64)
		for _, way := range ways {
			rate := func() (float64, error) {
				res, err := in.dial.do(ctx, job{Do: "stream", Addr: in.addr, Write: 128 << 10, Time: s.time, From: way.from})
				return float64(res.Bytes) / res.Time.Seconds(), err
			}
			for _, c := range captures {
				without, err := rate()
				if err != nil {
					return nil, err
				}
				end, err := in.capture(ctx, c.args)
				if err != nil {
					return nil, err
				}
				with, err := rate()
				recorded, endErr := end()
				if err = errors.Join(err, endErr); err != nil {
					return nil, err
				}
				m["capture-"+way.id+c.id+"-rate"] = with / without
				m["capture-"+way.id+c.id+"-recorded"] = recorded
			}
		}
		return m, nil
	}
	return r
}

var captureCounts = regexp.MustCompile(`(\d+) packets? captured\n(\d+) packets? dropped by capture`)

// capture starts `ustack capture` of the instance's daemon; end ends it, and returns the fraction of
// the frames that was recorded.
func (in *instance) capture(ctx context.Context, args []string) (end func() (float64, error), err error) {
	up := in.between[0]
	args = append([]string{"capture", "--socket", filepath.Join(in.dir, "ustack.sock"),
		"-w", filepath.Join(in.dir, "capture"), "-C", "200", "-W", "2"}, args...)
	p, err := start(in.spaces[0], nil, nil, up.cmd.Path, args...)
	if err != nil {
		return nil, err
	}
	if err := p.await(ctx, "its first line", func() bool { return captureBegun.MatchString(p.said.String()) }); err != nil {
		p.stop()
		return nil, err
	}
	return func() (float64, error) {
		if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
			return 0, err
		}
		select {
		case <-p.ended:
		case <-time.After(30 * time.Second):
			p.stop()
			return 0, errors.New("the capture does not end")
		}
		n := captureCounts.FindStringSubmatch(p.said.String())
		if n == nil {
			return 0, fmt.Errorf("the capture said %q", p.said.String())
		}
		captured, _ := strconv.ParseFloat(n[1], 64)
		dropped, _ := strconv.ParseFloat(n[2], 64)
		if captured == 0 {
			return 0, errors.New("nothing was captured")
		}
		return captured / (captured + dropped), nil
	}, nil
}

var captureBegun = regexp.MustCompile(`capturing on`)
