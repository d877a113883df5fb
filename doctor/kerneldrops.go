package doctor

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ustack/ustack/trace/kernel"
)

// A KernelDrop is how often the kernel dropped frames in one place for one reason.
type KernelDrop struct {
	Link          string
	Reason, Where string
	N             int
	// Frame is the first of them, as far as it is known.
	Frame Frame
}

func (d KernelDrop) String() string {
	s := fmt.Sprintf("the kernel dropped %d packets on %s: %s in %s", d.N, d.Link, d.Reason, d.Where)
	if len(d.Frame.Data) >= headerLen {
		s += ": " + describe(&d.Frame)
	}
	return s
}

// like reports whether two drops count as one. A firewall drops what is others', too, so
// there it depends on the addresses.
func (d *KernelDrop) like(o *KernelDrop) bool {
	if d.Link != o.Link || d.Reason != o.Reason || d.Where != o.Where {
		return false
	}
	if d.Reason != netfilterDrop {
		return true
	}
	p, _ := parseIP(d.Frame.Data, d.Frame.Len)
	q, _ := parseIP(o.Frame.Data, o.Frame.Len)
	return p.src == q.src && p.dst == q.dst
}

// netfilterDrop is the kernel's reason for what a firewall drops.
const netfilterDrop = "NETFILTER_DROP"

// dropped returns in words what the kernel dropped for a reason, "" if it did not, or if
// that is not known.
func (e *Environment) dropped(reason string) string {
	if e.Observed == nil {
		return ""
	}
	for _, d := range e.Observed.Dropped {
		if d.Reason == reason {
			return d.String()
		}
	}
	return ""
}

// unanswered reports whether a ping was.
func (o *Observed) unanswered() bool {
	is := func(p Ping) bool { return !p.Answered() }
	return slices.ContainsFunc(o.ToHost, is) || slices.ContainsFunc(o.ToStack, is)
}

// traceLimit is how long pings that are sent again may take.
const traceLimit = time.Second

// maxDrops bounds how many kinds of drops are told apart.
const maxDrops = 64

// traceDrops sends the pings that stayed unanswered again, and looks where in the kernel
// they end. Where that cannot be seen it returns nothing.
func traceDrops(ctx context.Context, p *probing) (all []KernelDrop) {
	src, err := kernel.Open(kernel.Config{Via: kernel.ViaBPF, Logger: p.cfg.Logger})
	if err != nil {
		p.cfg.Logger.Debug("the kernel's drops are not seen", "err", err)
		return nil
	}
	var reader sync.WaitGroup
	reader.Go(func() { all = readDrops(src) })
	ctx, cancel := context.WithTimeout(ctx, traceLimit)
	defer cancel()
	o := p.env.Observed
	var pings sync.WaitGroup
	for _, ping := range o.ToHost {
		if p.st != nil && !ping.Answered() {
			pings.Go(func() {
				p.st.forget(ctx, ping.To) // what it gave up on it does not ask for at once
				pingFromStack(ctx, p.st, ping.To, ping.Size, traceLimit)
			})
		}
	}
	for _, ping := range o.ToStack {
		if !ping.Answered() {
			wait := pingFromHost(ping.To, traceLimit)
			pings.Go(func() { wait() })
		}
	}
	for _, again := range p.repeats {
		pings.Go(func() { again(ctx) })
	}
	pings.Wait()
	sleep(ctx, kernel.Window) // what was seen last is held back so long
	src.Close()
	reader.Wait()
	return all
}

// readDrops counts drops until the source is closed.
func readDrops(src *kernel.Source) (all []KernelDrop) {
	for {
		e, err := src.Read()
		if err != nil {
			return all
		}
		if e.Step != kernel.Drop || e.Reason == "" {
			continue
		}
		d := KernelDrop{Link: e.Dev, Reason: e.Reason, Where: e.Where}
		if !e.NoEth {
			d.Frame = Frame{Link: e.Dev, Len: e.Len, Data: e.Head}
		}
		i := slices.IndexFunc(all, func(o KernelDrop) bool { return o.like(&d) })
		if i < 0 {
			if len(all) == maxDrops {
				continue
			}
			all, i = append(all, d), len(all)
		}
		all[i].N++
	}
}
