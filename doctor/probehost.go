package doctor

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Way is where the host's packets for an address go.
type Way struct {
	// Link is the interface, "" where there is none.
	Link string
	// Route is what leads there, "default" or a prefix.
	Route string
	Err   error
}

// A Beyond is what became of pings to a station that the host reaches over another
// interface than the tap: the gateway of its default route.
type Beyond struct {
	To     netip.Addr
	Uplink string
	// FromStack is the stack's, through the host; FromHost is the host's own.
	FromStack, FromHost Ping
	// Left is the stack's request as it left the uplink, nil if it did not, and Source is
	// the address that it had there.
	Left   *Frame
	Source netip.Addr
	// Returned says that the answer came as far as the uplink.
	Returned bool
}

// HostSide is what the probes saw of the host as a router. It is part of Observed.
type HostSide struct {
	// Ways are where the host's packets to the stack's addresses go.
	Ways map[netip.Addr]Way
	// Beyond is empty where the host is no router of the stack's.
	Beyond []Beyond
	// Chains and Conntrack are as after the probes.
	Chains    []Chain
	Conntrack Conntrack
	// Netstat is by how much each counter of /proc/net/netstat rose.
	Netstat map[string]uint64
	// DNS is what came of a question to each of the stack's servers.
	DNS []DNSAnswer
}

// probeHostSide looks at what is known only now that the stack is there.
func probeHostSide(_ context.Context, p *probing) {
	gatherPorts(p.env)
	if p.env.Stack == nil {
		return
	}
	h := &p.env.Observed.HostSide
	h.Ways = map[netip.Addr]Way{}
	for _, prefix := range p.env.Stack.prefixes() {
		if ip := prefix.Addr(); !ip.IsLinkLocalUnicast() {
			h.Ways[ip] = wayTo(p.env, ip)
		}
	}
	before := readNetstat("/proc/thread-self/net/netstat")
	p.last = append(p.last, func() {
		h.Netstat = readNetstat("/proc/thread-self/net/netstat")
		for name, n := range before {
			h.Netstat[name] -= min(n, h.Netstat[name])
		}
		h.Conntrack = readConntrack("/proc")
		h.Chains, _ = listChains() // what it was before is known, or said in a note
	})
}

// wayTo asks the kernel for its route to an address.
func wayTo(env *Environment, ip netip.Addr) Way {
	routes, err := netlink.RouteGet(ip.AsSlice())
	if err != nil {
		return Way{Err: err}
	}
	if len(routes) == 0 {
		return Way{Err: unix.ENETUNREACH}
	}
	w := Way{Link: env.nameOf(routes[0].LinkIndex), Route: "default"}
	// RouteGet has the answer for the address alone: what it came from is looked up.
	bits := -1
	for _, r := range env.Routes {
		if p, ok := prefixOf(r.Dst); ok && r.LinkIndex == routes[0].LinkIndex && r.Type == unix.RTN_UNICAST && p.Contains(ip) && p.Bits() > bits {
			bits = p.Bits()
			w.Route = p.String()
		}
	}
	if bits == 0 {
		w.Route = "default"
	}
	return w
}

// defaultRoute returns the host's best default route of a family that leads away from
// the tap, nil without one. Of one with several hops it has the first.
func (e *Environment) defaultRoute(v4 bool) (best *netlink.Route) {
	host, tap := e.Host(), e.Interface(e.Link)
	if host == nil || tap == nil {
		return nil
	}
	for _, r := range e.Routes {
		if p, ok := prefixOf(r.Dst); (r.Family == unix.AF_INET) != v4 || r.Dst != nil && (!ok || p.Bits() != 0) {
			continue
		}
		if r.LinkIndex == 0 && len(r.MultiPath) > 0 {
			r.LinkIndex, r.Gw = r.MultiPath[0].LinkIndex, r.MultiPath[0].Gw
		}
		if r.Type != unix.RTN_UNICAST || r.LinkIndex <= 1 || r.LinkIndex == host.Attrs().Index || r.LinkIndex == tap.Attrs().Index {
			continue
		}
		if best == nil || r.Priority < best.Priority {
			best = &r
		}
	}
	return best
}

// usesHost reports whether the stack's gateway of a family is the host.
func (e *Environment) usesHost(v4 bool) bool {
	return e.Stack != nil && slices.ContainsFunc(e.Stack.gateways(), func(gw netip.Addr) bool { return gw.Is4() == v4 && e.isHosts(gw) })
}

// beyondTries is how often a ping through the host is sent, and beyondLimit how long
// each may take. That of the host's own finds the neighbour, which may take a second try.
const (
	beyondTries     = 2
	beyondLimit     = time.Second
	beyondHostLimit = 3 * time.Second
)

// probeBeyond has stack and host ping what the host reaches by its default route.
func probeBeyond(ctx context.Context, p *probing) {
	for _, v4 := range []bool{true, false} {
		r := p.env.defaultRoute(v4)
		if r == nil || !p.env.usesHost(v4) {
			continue
		}
		to, ok := netip.AddrFromSlice(r.Gw)
		if to = to.Unmap(); !ok || to.IsLinkLocalUnicast() || to.Is4() != v4 {
			continue
		}
		b := Beyond{To: to, Uplink: p.env.nameOf(r.LinkIndex)}
		w, err := watchFor([]string{b.Uplink}, func(f *Frame) bool { return isEchoWith(f, to) })
		if err != nil {
			continue // it is in the notes that frames cannot be watched
		}
		wait := pingFromHost(to, beyondHostLimit)
		p.Go(func() {
			defer w.stop()
			b.FromHost = wait()
			defer func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.env.Observed.HostSide.Beyond = append(p.env.Observed.HostSide.Beyond, b)
			}()
			if !b.FromHost.Answered() {
				return // nothing could be said of the stack's
			}
			own := w.awaitIn(ctx) // and what comes after is not the host's
			for range beyondTries {
				if b.FromStack = pingFromStack(ctx, p.st, to, 56, beyondLimit); b.FromStack.Answered() || errors.Is(b.FromStack.Err, unix.EHOSTUNREACH) {
					break
				}
			}
			frames, _ := w.seen()
			for i := range frames[own:] {
				f := &frames[own+i]
				packet, _ := parseIP(f.Data, f.Len)
				if f.Out {
					b.Left, b.Source = f, packet.src
				} else {
					b.Returned = true
				}
			}
			if !b.FromStack.Answered() {
				p.again(func(ctx context.Context) { pingFromStack(ctx, p.st, to, 56, traceLimit) })
			}
		})
	}
	p.last = append(p.last, func() {
		for _, b := range p.env.Observed.Beyond {
			if !b.FromHost.Answered() {
				p.env.notef("whether %s lets the stack through to others is not known: %s, the gateway of its default route, does not answer the host itself (%v)", b.Uplink, b.To, b.FromHost.Err)
			}
		}
	})
}

// awaitIn waits until a frame that came in was collected, and returns how many were up to
// then. One that was answered elsewhere may be collected a little later.
func (w *watcher) awaitIn(ctx context.Context) int {
	for begin := time.Now(); ; sleep(ctx, 5*time.Millisecond) {
		frames, _ := w.seen()
		if time.Since(begin) > beyondLimit || ctx.Err() != nil || slices.ContainsFunc(frames, func(f Frame) bool { return !f.Out }) {
			return len(frames)
		}
	}
}

// isEchoWith reports whether a frame has an echo request to an address, or its reply.
func isEchoWith(f *Frame, peer netip.Addr) bool {
	packet, ok := parseIP(f.Data, f.Len)
	if !ok || len(packet.payload) == 0 {
		return false
	}
	request, reply := byte(echoRequest4), byte(echoReply4)
	if peer.Is6() {
		request, reply = echoRequest6, echoReply6
	}
	if packet.proto != unix.IPPROTO_ICMP && packet.proto != unix.IPPROTO_ICMPV6 {
		return false
	}
	return f.Out && packet.dst == peer && packet.payload[0] == request || !f.Out && packet.src == peer && packet.payload[0] == reply
}

// again has a probe that stayed unanswered sent once more, while the kernel's drops are
// looked at.
func (p *probing) again(f func(context.Context)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.repeats = append(p.repeats, f)
}
