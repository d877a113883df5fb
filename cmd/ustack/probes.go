package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/stack"
)

// probeWait is how long a gateway or a DNS server gets to answer before a warning.
const probeWait = 5 * time.Second

// probes ask, once the stack is ready, whether what it depends on is there: the
// gateways, by their hardware address, and the DNS servers, by one question each.
// Being ready does not wait for them; what does not answer becomes a warning.
type probes struct {
	ctx    context.Context // until stop
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func startProbes(s *stack.Stack, set *settings, warn func(stands func() bool, text string)) *probes {
	ctx, cancel := context.WithCancel(context.Background())
	p := &probes{ctx: ctx, cancel: cancel}
	for _, r := range s.Routes() {
		gw := r.Gateway
		if r.Dst.Bits() != 0 || !gw.IsValid() {
			continue
		}
		p.done.Go(func() {
			if !gatewayAnswers(ctx, s, gw) && ctx.Err() == nil {
				warn(func() bool { return hasGateway(s, gw) }, fmt.Sprintf("gateway %s is unreachable: nobody on the link answers for its address: check --gateway and the router", gw))
			}
		})
	}
	servers, _ := s.DNS()
	for _, server := range servers {
		p.done.Go(func() {
			if err := askDNS(ctx, s, server); err != nil && ctx.Err() == nil {
				hint := "check that it is reachable from the stack, or name another with --dns"
				if set.hostIf != "" && set.uplink == "" && set.bridge == "" && !onLink(networks(s), server.Addr()) {
					hint = "it is beyond the host, which forwards for the stack with --uplink auto; or name another with --dns"
				}
				warn(func() bool { return hasServer(s, server) }, fmt.Sprintf("DNS server %s does not answer: %v: %s", server, err, hint))
			}
		})
	}
	return p
}

// hasGateway reports whether a default route goes through gw.
func hasGateway(s *stack.Stack, gw netip.Addr) bool {
	return slices.ContainsFunc(s.Routes(), func(r stack.Route) bool { return r.Dst.Bits() == 0 && r.Gateway == gw })
}

// hasServer reports whether names are resolved with a server.
func hasServer(s *stack.Stack, server netip.AddrPort) bool {
	servers, _ := s.DNS()
	return slices.Contains(servers, server)
}

// networks returns the networks that the stack has an address in.
func networks(s *stack.Stack) []netip.Prefix {
	var all []netip.Prefix
	for _, a := range s.Addrs() {
		all = append(all, a.Prefix)
	}
	return all
}

// tellDrops logs what a wire drops, until the end.
func (p *probes) tellDrops(dev link.Device, log *slog.Logger) {
	p.done.Go(func() { tellDrops(p.ctx, dev, log) })
}

// stop ends the probes that are still under way.
func (p *probes) stop() {
	p.cancel()
	p.done.Wait()
}

// gatewayAnswers reports whether the gateway's hardware address can be found. That
// it ignores pings does not matter.
func gatewayAnswers(ctx context.Context, s *stack.Stack, gw netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	_, err := s.Ping(ctx, gw)
	return !errors.Is(err, syscall.EHOSTUNREACH)
}

// askDNS asks a server for the root's name servers (RFC 9609), which every server
// that resolves knows, once and a second time if there is no answer. Any answer
// will do, a refusal too.
func askDNS(ctx context.Context, s *stack.Stack, server netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	conn, err := s.DialContext(ctx, "udp", server.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeNS, Class: dnsmessage.ClassINET}},
	}
	packed, err := query.Pack()
	if err != nil {
		return err
	}
	answer := make([]byte, 1500)
	for range 2 {
		if _, err = conn.Write(packed); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(probeWait / 2))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var n int
		if n, err = conn.Read(answer); err == nil && n >= 12 && [2]byte(answer) == [2]byte(packed) {
			return nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err // such as ECONNREFUSED: nobody listens there
		}
	}
	return fmt.Errorf("nothing came within %v", probeWait)
}
