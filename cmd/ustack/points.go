package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/ustack/ustack/capture"
	"github.com/ustack/ustack/capture/filter"
	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/link"
)

// points are where a daemon's frames can be captured. All are there before it serves.
type points struct {
	all []*capture.Point
	// lookup resolves a name in a filter; nil where there is no stack to ask.
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
}

var _ control.Capturer = (*points)(nil)

// filterNameLimit bounds the resolution of one name in a filter.
const filterNameLimit = 10 * time.Second

// add returns dev with a point of capture around it.
func (ps *points) add(dev link.Device) link.Device {
	p := capture.Wrap(dev)
	ps.all = append(ps.all, p)
	return p
}

// errnoError is an error with the errno that a client is told.
type errnoError struct {
	error
	errno syscall.Errno
}

func (e errnoError) Unwrap() []error { return []error{e.error, e.errno} }

// Capture implements control.Capturer.
func (ps *points) Capture(ctx context.Context, o control.CaptureOptions, w io.Writer) error {
	var lookup func(string) ([]netip.Addr, error)
	if ps.lookup != nil {
		lookup = func(name string) ([]netip.Addr, error) {
			ctx, cancel := context.WithTimeout(ctx, filterNameLimit)
			defer cancel()
			return ps.lookup(ctx, "ip", name)
		}
	}
	f, err := filter.ParseNames(o.Filter, lookup)
	if err != nil {
		return errnoError{err, syscall.EINVAL}
	}
	chosen, err := ps.choose(o.Link)
	if err != nil {
		return err
	}
	if o.Filter == "" {
		f = nil
	}
	cfg := capture.Config{Filter: f, SnapLen: o.SnapLen, Buffer: o.Buffer}
	sec := capture.Section{Application: "ustack " + versionText(), Split: o.Split}
	began := &begun{w: w}
	err = capture.Stream(ctx, began, cfg, sec, o.Count, chosen...)
	if err != nil && !began.yes {
		err = errnoError{err, syscall.EINVAL}
	}
	return err
}

// begun remembers whether anything was written.
type begun struct {
	w   io.Writer
	yes bool
}

func (b *begun) Write(p []byte) (int, error) {
	b.yes = true
	return b.w.Write(p)
}

// choose returns the points of one link, or all.
func (ps *points) choose(name string) ([]*capture.Point, error) {
	if name == "" || name == "any" {
		return ps.all, nil
	}
	var names []string
	for _, p := range ps.all {
		if p.Info().Name == name {
			return []*capture.Point{p}, nil
		}
		names = append(names, p.Info().Name)
	}
	return nil, errnoError{fmt.Errorf("no link %q to capture on: there is %s", name, strings.Join(names, ", ")), syscall.ENODEV}
}
