package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

// shared is what the programs share.
type shared struct {
	ring *ebpf.Map // of records
	lost *ebpf.Map // one counter: records that found no place
}

// bpfFeed is the feed by BPF programs at raw tracepoints.
type bpfFeed struct {
	decoder decoder
	reader  *ringbuf.Reader
	record  ringbuf.Record // buffer of read

	mu     sync.Mutex // guards what follows against close
	maps   shared
	progs  []*ebpf.Program
	links  []link.Link
	closed bool
	final  uint64 // lost, when closed
}

func openBPF(c Config) (feed, error) {
	f := new(bpfFeed)
	if err := f.open(c); err != nil {
		f.Close() // what was made; err is what matters
		return nil, explain(err)
	}
	return f, nil
}

// open makes the maps first, which tells whether BPF is allowed at all.
func (f *bpfFeed) open(c Config) error {
	if err := f.makeMaps(c.Buffer); err != nil {
		return err
	}
	l, err := kernelLayout()
	if err != nil {
		return err
	}
	symbols := loadSymbols(c.Logger)
	f.decoder = decoder{layout: l, symbols: symbols, snap: (c.Snap + 7) &^ 7}
	return f.attach(c, symbols.spans(consumers()...))
}

func (f *bpfFeed) makeMaps(buffer int) error {
	size := max(buffer, os.Getpagesize())
	var err error
	f.maps.ring, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "ustack_trace", Type: ebpf.RingBuf, MaxEntries: 1 << bits.Len(uint(size-1)),
	})
	if err != nil {
		return fmt.Errorf("make a ring of %d bytes: %w", size, err)
	}
	f.maps.lost, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "ustack_lost", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1,
	})
	if err != nil {
		return fmt.Errorf("make a counter: %w", err)
	}
	return nil
}

// kernelLayout returns the layout of the running kernel.
func kernelLayout() (*layout, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("kernel without type information, CONFIG_DEBUG_INFO_BTF: %w", err)
	}
	return layoutOf(spec, binary.NativeEndian.Uint16([]byte{0, 1}) == 1)
}

// load loads the program of a probe.
func (f *bpfFeed) load(p probe, step int, netns []uint64, spans []span) (*ebpf.Program, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "ustack_trace",
		Type:         ebpf.RawTracepoint,
		License:      "GPL", // the helpers that read kernel memory ask for it
		Instructions: f.decoder.layout.assemble(p, step, f.maps, netns, spans, f.decoder.snap),
	})
	if err != nil {
		return nil, fmt.Errorf("load the program of %s: %w", p.name, err)
	}
	return prog, nil
}

// attach loads the programs and lets them begin.
func (f *bpfFeed) attach(c Config, spans []span) error {
	var err error
	f.reader, err = ringbuf.NewReader(f.maps.ring)
	if err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	netns := c.NetNS
	if c.AllNetNS {
		netns = nil
	}
	all := probes()
	progs := make([]*ebpf.Program, len(all))
	for i, p := range all {
		if f.decoder.layout.args[p.name] == nil {
			if p.required {
				return fmt.Errorf("this kernel has no tracepoint %s", p.name)
			}
			continue
		}
		if progs[i], err = f.load(p, i, netns, spans); err != nil {
			return err
		}
		f.progs = append(f.progs, progs[i])
	}
	for i, prog := range progs {
		if prog == nil {
			continue
		}
		l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: all[i].name, Program: prog})
		if err != nil {
			return fmt.Errorf("attach to tracepoint %s: %w", all[i].name, err)
		}
		f.links = append(f.links, l)
	}
	return nil
}

func (f *bpfFeed) read(deadline time.Time) (Event, error) {
	f.reader.SetDeadline(deadline)
	for {
		if err := f.reader.ReadInto(&f.record); err != nil {
			return Event{}, err
		}
		if e, ok := f.decoder.decode(f.record.RawSample); ok {
			return e, nil
		}
	}
}

func (f *bpfFeed) lost() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return f.final
	}
	var n uint64
	if err := f.maps.lost.Lookup(uint32(0), &n); err != nil {
		n = 0 // cannot fail for an array's element
	}
	for _, p := range f.progs {
		// A program that is interrupted by its own tracepoint is not run for that one.
		if s, err := p.Stats(); err == nil {
			n += s.RecursionMisses
		}
	}
	return n
}

// Close detaches first, so that nothing is counted as lost that nobody will read.
func (f *bpfFeed) Close() error {
	var errs []error
	lost := uint64(0)
	if f.reader != nil && f.maps.lost != nil {
		lost = f.lost()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.final, f.closed = lost, true
	for _, l := range f.links {
		errs = append(errs, l.Close())
	}
	if f.reader != nil {
		errs = append(errs, f.reader.Close())
	}
	for _, p := range f.progs {
		errs = append(errs, p.Close())
	}
	for _, m := range []*ebpf.Map{f.maps.ring, f.maps.lost} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}
