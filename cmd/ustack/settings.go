package main

import (
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/spec"
	"github.com/ustack/ustack/stack"
)

// settings are what up does, checked as far as that is possible without
// touching anything.
type settings struct {
	link        string // as given
	spec        spec.Spec
	hostIf      string     // the host's interface behind the link, or ""
	ports       []portSpec // of the switch that takes the place of a link, if any
	addrs       []netip.Prefix
	gateways    []netip.Addr
	dns         []netip.AddrPort // nil: those of the host
	search      []string         // nil: those of the host
	mac         net.HardwareAddr // nil: the stack's own choice
	mtu         int              // 0: the link's
	dhcp, slaac bool
	hostAddrs   []netip.Prefix
	// hostExplicit says that the user asked for hostAddrs, not the defaults.
	hostExplicit  bool
	uplink        string
	bridge        string
	stateDir      string // "": the default
	congestion    string
	lossDetection string
	memory        int64 // bytes; 0: the stack's own choice
	socket        string
	socketMode    fs.FileMode
	socketGroup   string
	metrics       string // HOST:PORT, or ""
	logLevel      slog.Level
}

// hasIPv6 reports whether the stack is to speak IPv6 with more than itself.
func (s *settings) hasIPv6() bool {
	return s.slaac || slices.ContainsFunc(s.addrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// resolve turns flags into settings: defaults first, then every check that needs
// no privilege. All its errors are usage errors that name where the setting was
// written and what to write instead.
func (f *upFlags) resolve(from origins) (*settings, error) {
	s := &settings{
		link: f.link, mtu: f.mtu, dhcp: f.dhcp, slaac: f.slaac,
		uplink: f.uplink, bridge: f.bridge, stateDir: f.stateDir, congestion: f.congestion, lossDetection: f.lossDetection, socket: f.socket,
	}
	for _, step := range []func(*settings, origins) error{
		f.resolveLink, f.resolveAddrs, f.resolveHost, f.resolveGateways, f.resolveDNS, f.resolveMemory, f.resolveSocket, f.resolveMetrics,
	} {
		if err := step(s, from); err != nil {
			return nil, err
		}
	}
	for _, c := range []struct {
		flag, value string
		of          []string
	}{
		{"congestion-control", f.congestion, stack.CongestionControls},
		{"loss-detection", f.lossDetection, stack.LossDetections},
	} {
		if !slices.Contains(c.of, c.value) {
			return nil, usagef("%s %q: use %s", from.of(c.flag), c.value, strings.Join(c.of, " or "))
		}
	}
	if err := f.resolveLog(s, from); err != nil {
		return nil, err
	}
	return s, nil
}

func (f *upFlags) resolveLog(s *settings, from origins) error {
	level := f.logLevel
	if f.verbose {
		level = "debug"
	}
	switch level {
	case "debug", "info", "warn", "error":
		if err := s.logLevel.UnmarshalText([]byte(level)); err != nil {
			return usagef("%s %q: %w", from.of("log-level"), level, err)
		}
	default:
		return usagef("%s %q: use debug, info, warn or error", from.of("log-level"), level)
	}
	return nil
}

func (f *upFlags) resolveLink(s *settings, from origins) error {
	var err error
	if len(f.ports) > 0 {
		if f.link != defaultLink {
			return usagef("%s %s: with %s the link is the switch: make it a port", from.of("link"), f.link, from.of("port"))
		}
		if s.ports, err = parsePorts(f.ports); err != nil {
			return err
		}
		s.link, s.spec = "", spec.Spec{Kind: kindSwitch}
	} else if s.spec, s.hostIf, err = parseLink(f.link, f.mtu); err != nil {
		return usagef("%s: %w", from.of("link"), err)
	}
	if s.mtu == 0 {
		s.mtu = specMTU(s.spec)
	}
	if most := maxMTU(s.spec); f.mtu != 0 && (f.mtu < link.MinMTU || f.mtu > most) {
		return usagef("%s %d: out of range: use %d to %d bytes, for IPv6 at least %d", from.of("mtu"), f.mtu, link.MinMTU, most, link.MinMTU6)
	}
	if f.mac != "" {
		mac, err := net.ParseMAC(f.mac)
		switch {
		case err != nil || len(mac) != 6:
			return usagef("%s %q: not a hardware address: write six bytes such as 02:00:00:00:00:04", from.of("mac"), f.mac)
		case mac[0]&1 != 0:
			return usagef("%s %s: a multicast address: the first byte must be even, such as 02", from.of("mac"), mac)
		case slices.Equal(mac, make(net.HardwareAddr, 6)):
			return usagef("%s %s: all zero: write another address, such as 02:00:00:00:00:04", from.of("mac"), mac)
		}
		s.mac = mac
	}
	return nil
}

func (f *upFlags) resolveAddrs(s *settings, from origins) error {
	for _, text := range f.addr {
		p, err := parseInterfacePrefix(text)
		if err != nil {
			return usagef("%s %q: %w", from.of("addr"), text, err)
		}
		if slices.ContainsFunc(s.addrs, func(q netip.Prefix) bool { return q.Addr() == p.Addr() }) {
			return usagef("%s %s: given twice: leave one out", from.of("addr"), p)
		}
		s.addrs = append(s.addrs, p)
	}
	if f.useDefaults(s) {
		s.addrs = []netip.Prefix{netip.MustParsePrefix(defaultAddr)}
	}
	if s.hasIPv6() && f.mtu != 0 && f.mtu < link.MinMTU6 {
		return usagef("%s %d: too small for IPv6: use at least %d, or no IPv6 address", from.of("mtu"), f.mtu, link.MinMTU6)
	}
	return nil
}

// useDefaults reports whether neither flags nor file say how the stack gets
// addresses, and there is a host on the other side to agree them with.
func (f *upFlags) useDefaults(s *settings) bool {
	return len(f.addr) == 0 && len(f.hostAddr) == 0 && !f.dhcp && !f.slaac && f.bridge == "" && s.hostIf != ""
}

func (f *upFlags) resolveHost(s *settings, from origins) error {
	for _, set := range []struct {
		name string
		is   bool
	}{{"host-addr", len(f.hostAddr) > 0}, {"uplink", f.uplink != ""}, {"bridge", f.bridge != ""}} {
		if set.is && s.hostIf == "" {
			return usagef("%s: the link %s has no interface on this host: leave it out, or use a tap", from.of(set.name), f.link)
		}
	}
	for _, name := range []string{"uplink", "bridge"} {
		value := map[string]string{"uplink": f.uplink, "bridge": f.bridge}[name]
		if value == "" {
			continue
		}
		if err := checkIfName(value); err != nil {
			return usagef("%s %q: %w", from.of(name), value, err)
		}
		if value == s.hostIf {
			return usagef("%s %s: that is the tap itself: name another interface", from.of(name), value)
		}
	}
	for _, text := range f.hostAddr {
		p, err := parseInterfacePrefix(text)
		if err != nil {
			return usagef("%s %q: %w", from.of("host-addr"), text, err)
		}
		if slices.ContainsFunc(s.addrs, func(q netip.Prefix) bool { return q.Addr() == p.Addr() }) {
			return usagef("%s %s: also the stack's own address: the two sides of the tap need two addresses", from.of("host-addr"), p)
		}
		if slices.Contains(s.hostAddrs, p) {
			return usagef("%s %s: given twice: leave one out", from.of("host-addr"), p)
		}
		s.hostAddrs = append(s.hostAddrs, p)
	}
	s.hostExplicit = len(s.hostAddrs) > 0
	if f.useDefaults(s) {
		s.hostAddrs = []netip.Prefix{netip.MustParsePrefix(defaultHostAddr)}
	}
	switch {
	case len(s.hostAddrs) > 0 && len(s.addrs) == 0 && !s.dhcp && !s.slaac:
		return usagef("%s %s: the stack has no address: add --addr, --dhcp or --slaac", from.of("host-addr"), s.hostAddrs[0])
	case s.bridge != "" && len(s.hostAddrs) > 0:
		return usagef("%s %s: a tap in the bridge %s has no address of its own: give it to %[3]s instead", from.of("host-addr"), s.hostAddrs[0], s.bridge)
	case s.bridge != "" && s.uplink != "":
		return usagef("%s %s: the bridge %s forwards already: use one of --uplink and --bridge", from.of("uplink"), s.uplink, s.bridge)
	case s.uplink != "" && len(s.hostAddrs) == 0:
		return usagef("%s %s: the host needs an address on the tap to be the stack's gateway: add --host-addr", from.of("uplink"), s.uplink)
	}
	return nil
}

func (f *upFlags) resolveGateways(s *settings, from origins) error {
	for _, text := range f.gateway {
		gw, err := netip.ParseAddr(text)
		switch {
		case err != nil:
			return usagef("%s %q: not an IP address: write one such as 10.0.0.5", from.of("gateway"), text)
		case !unicast(gw):
			return usagef("%s %s: not the address of a host", from.of("gateway"), gw)
		}
		gw = gw.Unmap().WithZone("")
		for _, other := range s.gateways {
			if other.Is4() == gw.Is4() {
				return usagef("%s %s: a second default gateway for one address family (the other is %s): leave one out", from.of("gateway"), gw, other)
			}
		}
		if slices.ContainsFunc(s.addrs, func(p netip.Prefix) bool { return p.Addr() == gw }) {
			return usagef("%s %s: the stack's own address: name the router's", from.of("gateway"), gw)
		}
		learns := gw.Is4() && s.dhcp || gw.Is6() && (s.slaac || gw.IsLinkLocalUnicast())
		if !learns && !onLink(s.addrs, gw) {
			return usagef("%s %s: unreachable: not in the network of any --addr%s", from.of("gateway"), gw, listOf(s.addrs))
		}
		s.gateways = append(s.gateways, gw)
	}
	// The host is the gateway unless told otherwise: for each family the first of
	// its addresses that the stack can reach.
	for _, h := range s.hostAddrs {
		have := slices.ContainsFunc(s.gateways, func(g netip.Addr) bool { return g.Is4() == h.Addr().Is4() })
		if !have && onLink(s.addrs, h.Addr()) {
			s.gateways = append(s.gateways, h.Addr())
		}
	}
	return nil
}

func (f *upFlags) resolveDNS(s *settings, from origins) error {
	for _, text := range f.dns {
		server, err := parseServer(text)
		if err != nil {
			return usagef("%s %q: %w", from.of("dns"), text, err)
		}
		if server.Addr().IsLoopback() {
			return usagef("%s %s: the stack cannot reach the host's loopback: name a server that listens on another address", from.of("dns"), server.Addr())
		}
		if !slices.Contains(s.dns, server) {
			s.dns = append(s.dns, server)
		}
	}
	for _, d := range f.search {
		if !isDomain(d) {
			return usagef("%s %q: not a domain name", from.of("search"), d)
		}
		s.search = append(s.search, strings.TrimSuffix(d, "."))
	}
	return nil
}

func (f *upFlags) resolveMemory(s *settings, from origins) error {
	if f.memory == "" {
		return nil
	}
	bytes, ok := parseSize(f.memory)
	switch {
	case !ok:
		return usagef("%s %q: not a size: write bytes, or a number with K, M or G, such as 64M", from.of("memory"), f.memory)
	case bytes < stack.MinMemory:
		return usagef("%s %s: too small: use at least %dM", from.of("memory"), f.memory, stack.MinMemory>>20)
	}
	s.memory = bytes
	return nil
}

// parseSize parses a number of bytes, or of the KiB, MiB or GiB that K, M or G at its
// end mean.
func parseSize(text string) (bytes int64, ok bool) {
	shift := 0
	for unit, bits := range map[string]int{"K": 10, "M": 20, "G": 30} {
		if number, found := strings.CutSuffix(strings.ToUpper(text), unit); found {
			text, shift = number, bits
			break
		}
	}
	n, err := strconv.ParseUint(text, 10, 63-shift)
	return int64(n) << shift, err == nil
}

func (f *upFlags) resolveSocket(s *settings, from origins) error {
	text := f.socketMode
	if text == "" {
		text = defaultSocketMode
		if f.socketGroup != "" {
			text = "0660"
		}
	}
	mode, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 32)
	if err != nil || mode > 0o777 || mode&0o600 != 0o600 {
		return usagef("%s %q: write octal permissions that let the owner read and write, such as 0660", from.of("socket-mode"), text)
	}
	s.socketMode, s.socketGroup = fs.FileMode(mode), f.socketGroup
	if f.socketGroup == "" {
		return nil
	}
	if _, err = user.LookupGroup(f.socketGroup); err != nil { // a number needs no name, as with chgrp(1)
		_, err = strconv.ParseInt(f.socketGroup, 10, 32)
	}
	if err != nil || f.socketGroup[0] == '-' {
		return usagef("%s %q: no such group: name one of /etc/group, or its number", from.of("socket-group"), f.socketGroup)
	}
	return nil
}
