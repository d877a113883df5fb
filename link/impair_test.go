package link_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/linktest"
)

// The suite, over an impaired wire that only takes its time, so that nothing is lost.
// The wire behind it holds all that the suite writes without reading.
func TestImpairSuite(t *testing.T) {
	for name, cfg := range map[string]link.ImpairConfig{
		"nothing": {Seed: 3, Limit: 5},
		"delay":   {Delay: time.Millisecond},
		"rate":    {Rate: 10e9, Limit: 20000},
	} {
		for _, offloads := range []link.Offloads{0, allOffloads} {
			t.Run(name+" "+offloads.String(), func(t *testing.T) {
				linktest.TestDevice(t, func(t testing.TB) (link.Device, linktest.Wire) {
					a, b := link.Pipe(link.PipeConfig{Offloads: offloads, Queues: 2, Depth: 20000})
					d, err := link.Impair(a, cfg)
					if err != nil {
						t.Fatal(err)
					}
					if i := d.Info(); d != a && (i.RX != 0 || i.TX != 0 || i.Driver != "memory, impaired") {
						t.Errorf("Info %+v", i)
					}
					return d, linktest.FarEnd(b)
				})
			})
		}
	}
}

func TestImpairConfig(t *testing.T) {
	for want, cfg := range map[string]link.ImpairConfig{
		"":                      {Delay: link.MaxImpairDelay, Jitter: link.MaxImpairDelay, Loss: 1, Duplicate: 1, Reorder: 1, Corrupt: 1, Rate: 1 << 63, Limit: link.MaxImpairLimit},
		"loss of 1.1":           {Loss: 1.1},
		"loss of NaN":           {Loss: math.NaN()},
		"duplicate of -0.1":     {Duplicate: -0.1},
		"reorder of +Inf":       {Reorder: math.Inf(1), Delay: 1},
		"corrupt of 2":          {Corrupt: 2},
		"delay -1ns":            {Delay: -1},
		"delay 1h0m1s":          {Delay: link.MaxImpairDelay + time.Second},
		"jitter 2ms is out":     {Delay: time.Millisecond, Jitter: 2 * time.Millisecond},
		"jitter -1ns":           {Jitter: -1},
		"reorder needs a delay": {Reorder: 0.1},
		"limit -1":              {Limit: -1},
		"limit 1000001":         {Limit: 1000001},
	} {
		err := cfg.Check()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
		if want == "" {
			continue
		}
		a, b := link.Pipe(link.PipeConfig{})
		if d, err := link.Impair(a, cfg); err == nil || d != nil || !strings.Contains(err.Error(), "pipe0") {
			t.Errorf("Impair: %v", err)
		}
		if n, err := a.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{make([]byte, 60)}}}); n != 1 || err != nil {
			t.Errorf("the wire is no longer the caller's: %d, %v", n, err)
		}
		a.Close()
		b.Close()
	}
	a, b := link.Pipe(link.PipeConfig{})
	defer b.Close()
	if d, err := link.Impair(a, link.ImpairConfig{Seed: 1, Limit: 2}); d != a || err != nil {
		t.Errorf("a wire that nothing impairs is another one, %v", err)
	}
	a.Close()
	// A wire whose frames never arrive ends all the same.
	a, far := link.Pipe(link.PipeConfig{})
	defer far.Close()
	d, err := link.Impair(a, link.ImpairConfig{Rate: 1, Delay: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for _, dev := range []link.Device{d, far} {
		if n, err := dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{make([]byte, 60)}}}); n != 1 || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
	}
	read := make(chan error)
	go func() {
		_, err := d.Queues()[0].Read([]link.Frame{{Buf: make([]byte, 100)}})
		read <- err
	}()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := <-read; !errors.Is(err, link.ErrClosed) {
		t.Errorf("Read under Close: %v", err)
	}
}
