package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"syscall"

	"github.com/ustack/ustack/capture/filter"
	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/stack"
	"github.com/ustack/ustack/trace"
)

var _ control.Tracer = (*backend)(nil)

// tracedStack is a stack as package trace asks for it.
type tracedStack struct {
	*stack.Stack
	account *stack.Account
}

// Counters implements trace.Stack.
func (s tracedStack) Counters() []string { return s.account.Names() }

// ReadCounters implements trace.Stack.
func (s tracedStack) ReadCounters(dst []uint64) []uint64 { return s.account.Read(dst) }

// Drops implements trace.Stack.
func (s tracedStack) Drops() map[string]uint64 { return s.Links()[0].Stats.Drops }

// TCPSocket implements trace.Stack.
func (s tracedStack) TCPSocket(local, remote netip.AddrPort) (trace.TCPSocket, bool) {
	v, ok := s.Stack.TCPSocket(local, remote)
	return trace.TCPSocket(v), ok
}

// Trace implements control.Tracer.
func (b *backend) Trace(ctx context.Context, o control.TraceOptions, owner control.OwnerFunc, w io.Writer) error {
	f, err := filter.ParseNames(o.Filter, func(name string) ([]netip.Addr, error) { return b.Stack.LookupNetIP(ctx, "ip", name) })
	if err != nil {
		if parse := (*filter.ParseError)(nil); errors.As(err, &parse) {
			return fmt.Errorf("%w: %w", err, syscall.EINVAL)
		}
		return err
	}
	out := bufio.NewWriterSize(w, 64<<10)
	begin := &trace.Record{
		Time: trace.Now(), Side: "user", Step: "begin", Dev: b.Stack.Name(), Src: b.Stack.HardwareAddr().String(), NetNS: ownNetNS(),
	}
	if err := trace.WriteJSON(out, begin); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return trace.Run(ctx, trace.Config{
		Stack: tracedStack{b.Stack, b.Stack.Account()}, Filter: f, Frames: o.Count, Owner: owner,
	}, func(r *trace.Record, more bool) error {
		if err := trace.WriteJSON(out, r); err != nil || more {
			return err
		}
		return out.Flush()
	})
}

// ownNetNS returns the inode of this process's network namespace, or 0.
func ownNetNS() uint64 { return netNSOf("/proc/self/ns/net") }

// netNSOf returns the inode that names a namespace (namespaces(7)), or 0 where it cannot be told.
func netNSOf(path string) uint64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return st.Ino
}
