package stack

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// warnings are conditions the user should know of, each once.
type warnings struct {
	mu   sync.Mutex
	list []string
}

// maxWarnings bounds what the wire can make us remember.
const maxWarnings = 32

func (w *warnings) add(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, have := range w.list {
		if have == text {
			return false
		}
	}
	if len(w.list) >= maxWarnings {
		return false
	}
	w.list = append(w.list, text)
	return true
}

// Warnings returns what the user should know of, such as a duplicate address.
func (s *Stack) Warnings() []string {
	s.warn.mu.Lock()
	defer s.warn.mu.Unlock()
	return append([]string(nil), s.warn.list...)
}

func (s *Stack) warnf(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); s.warn.add(text) {
		s.log.Warn(text, "link", s.name)
	}
}

// autoconf is what happens to addresses by itself: duplicate address detection
// and IPv6 autoconfiguration.
type autoconf struct {
	s     *Stack
	slaac bool
}

func newAutoconf(s *Stack, slaac bool) *autoconf { return &autoconf{s: s, slaac: slaac} }

// ipv6Options configures netstack's NDP.
func (a *autoconf) ipv6Options() ipv6.Options {
	return ipv6.Options{
		AutoGenLinkLocal: true,
		MLD:              ipv6.MLDOptions{Enabled: true},
		DADConfigs:       gstack.DADConfigurations{},
	}
}

// start begins to check the static addresses; the interface is up.
func (a *autoconf) start(addrs []netip.Prefix) {
	for _, p := range addrs {
		a.check(p.Addr())
	}
}

// stop ends what start began.
func (a *autoconf) stop() {}

// check begins duplicate address detection for an address that is in use already.
func (a *autoconf) check(netip.Addr) {}

// stateOf returns the state of an address if something is known of it.
func (a *autoconf) stateOf(netip.Addr) string { return "" }

// seeARP watches for stations that claim an address of ours (RFC 5227 section 2.4).
func (a *autoconf) seeARP(ip [4]byte, mac [6]byte) {
	addr := netip.AddrFrom4(ip)
	if o, ok := a.s.orig.get(addr); ok && o.origin != OriginLoopback && !addr.IsUnspecified() {
		a.s.orig.update(addr, func(o *originOf) { o.duplicate = true })
		a.s.warnf("address %v is also used by %v on this link: give one of the two another address", addr, net.HardwareAddr(mac[:]))
	}
}
