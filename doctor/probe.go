package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// How long the tap is watched at least: a program of which nothing is known may speak
// only now and then.
const (
	watchLeast        = 500 * time.Millisecond
	watchBridgeLeast  = 1200 * time.Millisecond // LACP speakers without a partner speak once a second
	watchProgramLeast = 1500 * time.Millisecond
)

// Observed is what the probes saw.
type Observed struct {
	// Took is how long the tap was watched.
	Took time.Duration
	// Frames are those on the tap and its fellows in a bridge, the first few thousand;
	// Lost is how many there were more. WatchErr says why there are none.
	Frames   []Frame
	Lost     int
	WatchErr error
	// ToHost are pings of the stack to the host's addresses and to its gateways, ToStack
	// those of the host to the stack's addresses.
	ToHost, ToStack []Ping
	// Full are those of ToHost that were answered, again with as many bytes as the stack's
	// MTU allows.
	Full []Ping
	// Asked are the addresses that an ARP request was sent for from the host's side.
	Asked []netip.Addr
	// Marker is the frame sent to a program to see whether it reads, and what it makes of
	// it; nil if none was. SendErr is what the kernel said to it.
	Marker  []byte
	SendErr error
	// Before and After are the interfaces' counters, by name.
	Before, After map[string]netlink.LinkStatistics
	// Refused is how many calls of the holders wrote nothing, where none wrote anything;
	// else 0.
	Refused uint64
	// Dropped is what the kernel dropped while pings that had stayed unanswered were sent
	// again.
	Dropped []KernelDrop
	HostSide
	// StackAfter is the stack's side after the probes.
	StackAfter *Stack
}

// A probing is what probers have to work with. They are called on a thread in the
// tap's namespace, so that sockets and netlink belong to it; what waits is left to
// goroutines by Go.
type probing struct {
	cfg *Config
	env *Environment
	// st is nil for ModeProgram.
	st   station
	wait sync.WaitGroup
	// last is called on the thread when all answers are there or will not come.
	last []func()

	mu      sync.Mutex
	repeats []func(context.Context) // see again
}

// Go runs what waits for an answer, and may not be called on another thread.
func (p *probing) Go(f func()) { p.wait.Go(f) }

// A prober sends probes of one kind and puts what they saw into env.Observed.
type prober func(ctx context.Context, p *probing)

func probers() []prober {
	// The stack asks first: a question of the host's would tell it the host's MAC.
	return []prober{probeHostSide, probeMarker, probeFromStack, probeARP, probeAllNodes, probeFromHost, probeBeyond, probeDNS}
}

// probe sends the probes and puts what they saw into env.Observed.
func probe(ctx context.Context, cfg *Config, env *Environment) (err error) {
	p := &probing{cfg: cfg, env: env}
	if p.st, err = openStation(ctx, cfg, env); err != nil {
		env.OpenErr = err
		return nil
	}
	if p.st != nil {
		defer func() { err = errors.Join(err, p.st.close()) }()
	}
	if err := settle(ctx, cfg, env); err != nil {
		return err
	}
	o := &Observed{Before: counters(env.Links)}
	env.Observed = o
	wrote := writesOf(env.Holders, "/proc")
	begin := time.Now()
	w, err := watch(env.segment())
	if err != nil {
		o.WatchErr = err
		env.notef("frames cannot be watched: %v: run this as root", err)
	}
	for _, f := range probers() {
		f(ctx, p)
	}
	least := watchLeast
	if len(env.Network.Ports) > 0 {
		least = watchBridgeLeast
	}
	if env.Mode == ModeProgram {
		least = watchProgramLeast
	}
	sleep(ctx, least)
	p.wait.Wait()
	for _, f := range p.last {
		f()
	}
	if env.Mode == ModeProgram && w != nil {
		awaitProgram(ctx, env, w)
	}
	if w != nil {
		w.stop()
		o.Frames, o.Lost = w.seen()
	}
	if (o.unanswered() || len(p.repeats) > 0) && Judge(env).baffled() {
		o.Dropped = traceDrops(ctx, p)
	}
	o.Took = time.Since(begin)
	if now := writesOf(env.Holders, "/proc"); now.bytes == wrote.bytes && now.calls > wrote.calls {
		o.Refused = now.calls - wrote.calls
	}
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("doctor: list the interfaces: %w", err)
	}
	o.After = counters(links)
	if p.st != nil {
		if o.StackAfter, err = p.st.state(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// programLimit is how much longer a program may take that has not read or not said
// anything.
const programLimit = 3 * time.Second

// awaitProgram waits until a program has read and said something, or has had its time:
// on a machine under load it may take a while.
func awaitProgram(ctx context.Context, env *Environment, w *watcher) {
	for begin := time.Now(); time.Since(begin) < programLimit && ctx.Err() == nil; sleep(ctx, 50*time.Millisecond) {
		l, err := netlink.LinkByName(env.Link)
		if err != nil {
			return
		}
		frames, _ := w.seen()
		if l.Attrs().Statistics.TxPackets > env.Observed.Before[env.Link].TxPackets &&
			slices.ContainsFunc(frames, func(f Frame) bool { return f.Link == env.Link && !f.Out }) {
			return
		}
	}
}

// sleep waits for a time of observation to pass.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// openStation returns the stack's end, nil if a program of which only the frames are
// seen is there.
func openStation(ctx context.Context, cfg *Config, env *Environment) (st station, err error) {
	switch env.Mode {
	case ModeProgram:
		return nil, nil
	case ModeDaemon:
		return daemonStation{cfg.Client, env.Link}, nil
	}
	own, err := startStation(cfg, env)
	if err != nil {
		return nil, err
	}
	if env.Stack, err = own.state(ctx); err == nil {
		return own, nil
	}
	own.close()
	return nil, err
}

// settleLimit is how long the kernel may take to serve an interface that has just come up
// or got a carrier: its link watch acts once in a second (net/core/link_watch.c).
const settleLimit = 3 * time.Second

// settle waits until the kernel serves the tap: until then it drops what is sent, and
// counts it. It takes the state of the interfaces anew: a tap that was opened has a
// carrier, and the offloads of who opened it.
func settle(ctx context.Context, cfg *Config, env *Environment) error {
	for begin := time.Now(); ; sleep(ctx, 10*time.Millisecond) {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("doctor: list the interfaces: %w", err)
		}
		env.Links = links
		l := env.Interface(env.Link)
		if l == nil || l.Attrs().RawFlags&unix.IFF_RUNNING != 0 || time.Since(begin) > settleLimit || ctx.Err() != nil {
			gatherEthtool(ctx, cfg, env)
			return ctx.Err()
		}
	}
}

func counters(links []netlink.Link) map[string]netlink.LinkStatistics {
	all := make(map[string]netlink.LinkStatistics)
	for _, l := range links {
		if s := l.Attrs().Statistics; s != nil {
			all[l.Attrs().Name] = *s
		}
	}
	return all
}

// segment returns the interfaces whose frames belong to the tap's segment: the tap, its
// bridge and the bridge's other ports.
func (e *Environment) segment() []string {
	names := []string{e.Link}
	if m := e.Master(); m != nil {
		names = append(names, m.Attrs().Name)
		for _, port := range e.Ports(m) {
			if port.Attrs().Name != e.Link {
				names = append(names, port.Attrs().Name)
			}
		}
	}
	return names
}

// inject sends a frame from the host's side of an interface, past its queueing discipline,
// which would keep from the sender that the driver drops it.
func inject(name string, frame []byte) error {
	fd, err := packetSocket(name, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1) // without it, it is only told less
	_, err = unix.Write(fd, frame)
	return os.NewSyscallError("write", err)
}

// fullTries is how often a ping as long as the MTU is sent before it counts as lost, and
// fullLimit how long each may take.
const (
	fullTries = 2
	fullLimit = time.Second
)

// probeFromStack has the stack find its next hops and ping them, those that answer also
// with all that the MTU allows, and waits for that.
func probeFromStack(ctx context.Context, p *probing) {
	if p.st == nil {
		return
	}
	targets := p.env.nextHops()
	pings, full := make([]Ping, len(targets)), make([]Ping, len(targets))
	var all sync.WaitGroup
	for i, to := range targets {
		all.Go(func() {
			p.st.forget(ctx, to)
			if pings[i] = p.pingNextHop(ctx, to); !pings[i].Answered() {
				return
			}
			size := p.env.Stack.Link.MTU - 20 - 8 // headers of IPv4 and ICMP
			if to.Is6() {
				size -= 20
			}
			for range fullTries {
				if full[i] = pingFromStack(ctx, p.st, to, size, fullLimit); full[i].Answered() {
					break
				}
			}
		})
	}
	all.Wait()
	p.env.Observed.ToHost = pings
	for _, ping := range full {
		if ping.To.IsValid() {
			p.env.Observed.Full = append(p.env.Observed.Full, ping)
		}
	}
}

// probeFromHost has the host ping the stack.
func probeFromHost(_ context.Context, p *probing) {
	if p.env.Stack == nil || len(p.env.HostAddrs()) == 0 {
		return
	}
	var waits []func() Ping
	for _, prefix := range p.env.Stack.prefixes() {
		if ip := prefix.Addr(); p.env.hostReaches(ip) {
			waits = append(waits, pingFromHost(ip, hostPingLimit))
		}
	}
	pings := make([]Ping, len(waits))
	for i, wait := range waits {
		p.Go(func() { pings[i] = wait() })
	}
	p.env.Observed.ToStack = pings
}

// allNodes is every station of a segment (RFC 4291 section 2.7.1).
var allNodes = netip.MustParseAddr("ff02::1")

// pingNextHop has the stack ping one next hop. It takes as long as the stack looks for the
// MAC; where that is known the answer does not.
func (p *probing) pingNextHop(ctx context.Context, to netip.Addr) (ping Ping) {
	for try := range pingTries {
		ping = pingFromStack(ctx, p.st, to, 56, pingLimit)
		if !errors.Is(ping.Err, os.ErrDeadlineExceeded) || try == pingTries-1 {
			break
		}
		if now, err := p.st.state(ctx); err != nil || try > 0 && now.knows(to) {
			break
		}
	}
	return ping
}

// knows reports whether the stack has a MAC for a neighbour.
func (s *Stack) knows(ip netip.Addr) bool {
	return slices.ContainsFunc(s.Neighbours, func(n control.Neighbour) bool {
		return n.IP == ip && slices.Contains([]string{"reachable", "stale", "delay", "probe", "permanent"}, n.State)
	})
}

// probeAllNodes has the stations behind a bridge's other ports say something, so that
// their MACs are seen.
func probeAllNodes(_ context.Context, p *probing) {
	if m := p.env.Master(); m != nil {
		wait := pingFromHost(allNodes.WithZone(m.Attrs().Name), watchLeast)
		p.Go(func() { wait() })
	}
}

// hostReaches reports whether the host has an address in the network of ip on the tap.
func (e *Environment) hostReaches(ip netip.Addr) bool {
	return !ip.IsLinkLocalUnicast() && slices.ContainsFunc(e.HostAddrs(), func(p netip.Prefix) bool { return p.Contains(ip) })
}

// nextHops returns whom the stack sends its frames to: the host's addresses in its
// networks, and its gateways.
func (e *Environment) nextHops() (all []netip.Addr) {
	add := func(ip netip.Addr) {
		if !slices.Contains(all, ip) {
			all = append(all, ip)
		}
	}
	for _, host := range e.HostAddrs() {
		if e.Stack.reachesDirectly(host.Addr()) && !host.Addr().IsLinkLocalUnicast() {
			add(host.Addr())
		}
	}
	for _, gw := range e.Stack.gateways() {
		add(gw)
	}
	return all
}

// gateways returns the next hops of the stack's routes.
func (s *Stack) gateways() (all []netip.Addr) {
	for _, r := range s.Routes {
		if r.Gateway.IsValid() && !slices.Contains(all, r.Gateway) {
			all = append(all, r.Gateway)
		}
	}
	return all
}

// reachesDirectly reports whether the stack has an address in the network of ip.
func (s *Stack) reachesDirectly(ip netip.Addr) bool {
	return slices.ContainsFunc(s.prefixes(), func(p netip.Prefix) bool { return p.Contains(ip) })
}
