package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ustack/ustack/capture/filter"
	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/trace"
	"github.com/ustack/ustack/trace/kernel"
)

// traceFlags are the flags of trace.
type traceFlags struct {
	count   int
	user    bool
	numeric bool
	netns   []string
	via     string
	expr    string
	json    bool
}

func (a *app) traceCommand() *cobra.Command {
	f := &traceFlags{}
	cmd := &cobra.Command{
		Use:   "trace [flags] [FILTER]",
		Short: "follow frames step by step, with the reason of every drop",
		Long: `Follows every frame, one line a step, with times in µs since its first step: through the
kernel's devices, to the stack's end of the wire, the filter of addresses, the layers, the
socket and the program, and the way back. Every frame ends in exactly one way:

  delivered   to which socket, and who holds it
  answered    by what, and in which frame
  forwarded   in which frame
  sent        taken by the wire; the kernel's steps follow
  dropped     with the reason, and the counter of 'ustack stats' or 'ustack link' in brackets
  queued      to a socket that has not looked at it yet
  unknown     where nothing told

The kernel's steps need root, or CAP_BPF and CAP_PERFMON; without, those of the stack are
shown alone. They are followed in the namespaces of the link and of veth peers. Where the
kernel refuses BPF, tracefs tells of the link's own steps, but not of which frame. While a
trace lasts the stack takes one frame at a time, which is slower; it holds nothing else
up. What is not read in time is lost from the trace, and counted.

FILTER is an expression as 'ustack capture' takes it: "icmp", "host 10.0.0.5 and tcp port
80", "dropped".`,
		Example: `  ustack trace icmp
  ustack trace dropped         # what is lost, and why
  ustack trace -c 10 --json port 80
  ustack trace --netns all arp`,
		Args: cobra.ArbitraryArgs,
	}
	fs := cmd.Flags()
	fs.IntVarP(&f.count, "count", "c", 0, "end after `N` frames of the stack's")
	fs.BoolVar(&f.user, "user", false, "only the stack's steps, none of the kernel's")
	fs.StringSliceVar(&f.netns, "netns", nil, "follow the kernel in these namespaces, by `NAME` as ip netns has them, or all")
	fs.StringVar(&f.via, "via", "", "follow the kernel by `WAY`: bpf or tracefs (default the first that it allows)")
	fs.BoolVarP(&f.numeric, "numeric", "n", false, "accepted for habit's sake: always on")
	fs.BoolVar(&f.json, "json", false, "print one JSON object a step")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f.expr = strings.Join(args, " ")
		if f.count < 0 {
			return usagef("-c %d: not a number of frames", f.count)
		}
		if f.via != "" && f.via != kernel.ViaBPF && f.via != kernel.ViaTracefs {
			return usagef("--via %s: use %s or %s", f.via, kernel.ViaBPF, kernel.ViaTracefs)
		}
		// Names are left to the stack's servers; what is wrong in syntax is told here.
		if _, err := filter.ParseNames(f.expr, anyHost); err != nil {
			return &usageError{err}
		}
		signal.Ignore(syscall.SIGPIPE)
		ctx, stop := untilInterrupted(cmd.Context())
		defer stop()
		err := a.trace(ctx, f)
		if errors.Is(err, syscall.EPIPE) {
			return nil
		}
		return err
	}
	return cmd
}

// trace follows frames until ctx ends or enough have ended.
func (a *app) trace(ctx context.Context, f *traceFlags) error {
	stream, err := a.client().Trace(ctx, control.TraceOptions{Filter: f.expr, Count: f.count})
	if err != nil {
		return err
	}
	defer stream.Close()
	lines := json.NewDecoder(stream)
	var begin trace.Record
	if err := lines.Decode(&begin); err != nil {
		return traceEnd(err)
	}
	t := &traceSession{a: a, f: f, merge: trace.Merge{Link: begin.Dev}}
	if f.expr != "" {
		t.merge.Filter, err = filter.ParseNames(f.expr, func(name string) ([]netip.Addr, error) { return a.client().LookupNetIP(ctx, "ip", name) })
		if err != nil {
			return err
		}
	}
	if mac, err := net.ParseMAC(begin.Src); err == nil {
		t.merge.MACs = append(t.merge.MACs, mac)
	}
	t.printer = trace.NewPrinter(a.Stdout)
	begin.Text = "the stack's steps"
	if !f.user {
		if err := t.openKernel(begin); err == nil {
			begin.Text += " and the kernel's, by " + t.source.Via()
		} else if f.netns != nil && !errors.Is(err, errors.ErrUnsupported) {
			return err
		} else {
			fmt.Fprintf(a.Stderr, "ustack: trace: the kernel's steps are left out: %v\n", err)
		}
	}
	if f.json {
		err = trace.WriteJSON(a.Stdout, &begin)
	} else {
		_, err = fmt.Fprintf(a.Stderr, "following %s: %s\n", printable(begin.Dev), begin.Text)
	}
	if err != nil {
		t.close()
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.Stop() })
	defer stop()
	return t.run(lines, stream)
}

// A traceSession is one run of trace.
type traceSession struct {
	a       *app
	f       *traceFlags
	merge   trace.Merge
	printer *trace.Printer
	source  *kernel.Source // nil without the kernel's steps
}

func (t *traceSession) close() {
	if t.source != nil {
		_ = t.source.Close()
	}
}

// settleTime is how long the kernel's steps of the last frames are waited for.
const settleTime = 250 * time.Millisecond

// run passes on what comes until the stack's side ends.
func (t *traceSession) run(lines *json.Decoder, stream *control.Stream) error {
	user, kern := make(chan trace.Record, 1024), make(chan kernel.Event, 1024)
	quit := make(chan struct{})
	var readers sync.WaitGroup
	var userErr error
	readers.Go(func() {
		defer close(user)
		for {
			var r trace.Record
			if userErr = lines.Decode(&r); userErr != nil {
				return
			}
			select {
			case user <- r:
			case <-quit:
				return
			}
		}
	})
	if t.source != nil {
		readers.Go(func() {
			for {
				e, err := t.source.Read()
				if err != nil {
					return
				}
				select {
				case kern <- e:
				case <-quit:
					return
				}
			}
		})
	}
	err := t.pass(user, kern)
	close(quit)
	t.close()
	_ = stream.Close()
	readers.Wait()
	if err == nil {
		err = traceEnd(userErr)
	}
	return err
}

// pass shows the steps in their order.
func (t *traceSession) pass(user <-chan trace.Record, kern <-chan kernel.Event) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var end time.Time
	for {
		select {
		case r, ok := <-user:
			if !ok {
				user, end = nil, time.Now().Add(settleTime)
				continue
			}
			if t.source == nil {
				if err := t.show(&r); err != nil {
					return err
				}
				continue
			}
			t.merge.User(r)
		case e := <-kern:
			t.merge.Kernel(e)
		case <-tick.C:
			for {
				r, ok := t.merge.Next(kernel.Now())
				if !ok {
					break
				}
				if err := t.show(&r); err != nil {
					return err
				}
			}
			if user == nil && time.Now().After(end) {
				if t.source != nil && t.source.Lost() > 0 {
					fmt.Fprintf(t.a.Stderr, "ustack: trace: %d of the kernel's steps were lost\n", t.source.Lost())
				}
				return nil
			}
		}
	}
}

func (t *traceSession) show(r *trace.Record) error {
	if t.f.json {
		return trace.WriteJSON(t.a.Stdout, r)
	}
	return t.printer.Print(r)
}

// traceEnd is the error of a stream that ended.
func traceEnd(err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
