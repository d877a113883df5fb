package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Where the host says which name servers it asks.
const (
	// ResolvConf is resolv.conf(5).
	ResolvConf = "/etc/resolv.conf"
	// ResolvedConf is where systemd-resolved, whose own address in ResolvConf is a
	// loopback one, publishes the servers behind it (systemd-resolved.service(8)).
	ResolvedConf = "/run/systemd/resolve/resolv.conf"
)

const (
	dnsPort = 53
	// maxServers is how many name servers a resolver asks: MAXNS of resolv.conf(5).
	maxServers = 3
	// maxListed and maxSearch bound how many servers and domains of a file count.
	maxListed = 32
	maxSearch = 32
	// maxResolvConf bounds how much of a file is read, in bytes.
	maxResolvConf = 64 << 10
)

// A Resolver is what the host knows of name servers, as far as it is of use on a
// stack that is not the host's.
type Resolver struct {
	// Servers are reachable from elsewhere than this host: no loopback address,
	// none that holds on one interface only. At most 3. Empty if there is none:
	// then Warnings say why.
	Servers []netip.AddrPort
	// Search are the domains to try a short name in, without a final dot.
	Search []string
	// Path is the file that Servers are from.
	Path string
	// Warnings say, one line each, which servers were left out.
	Warnings []string
}

// Resolvers reads the name servers from a resolv.conf(5) at path, "" for
// ResolvConf. If it has only loopback ones it takes those behind them from
// upstreams, "" for ResolvedConf. A file that is not there is like one without
// name servers, for which resolv.conf(5) says that one runs on this host. The
// error is of a file that cannot be read.
func Resolvers(path, upstreams string) (Resolver, error) {
	if path == "" {
		path = ResolvConf
	}
	if upstreams == "" {
		upstreams = ResolvedConf
	}
	r := Resolver{Path: path}
	listed, err := r.read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("hostnet: read the name servers: %w", err)
	}
	if len(r.Servers) > 0 {
		return r, nil
	}
	search, skipped := r.Search, r.Warnings
	r.Search, r.Warnings = nil, nil
	if _, err := r.read(upstreams); err == nil && len(r.Servers) > 0 {
		r.Path = upstreams
		if len(search) > 0 {
			r.Search = search
		}
		return r, nil
	}
	r.Search, r.Warnings = search, skipped
	why := "names no name server"
	if listed > 0 {
		why = "names no name server that is reachable from the stack"
	}
	r.Warnings = append(r.Warnings, fmt.Sprintf("%s %s, and %s has none to offer instead: give one with --dns", path, why, upstreams))
	return r, nil
}

// read adds what the file at path says and returns how many servers it lists.
func (r *Resolver) read(path string) (listed int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	if err != nil {
		return 0, err
	}
	servers, search := parseResolvConf(b)
	r.Search = search
	for _, a := range servers {
		why := ""
		switch {
		case a.IsLoopback() || a.IsUnspecified():
			why = "is this host's own"
		case a.Zone() != "" || a.IsLinkLocalUnicast():
			why = "is only reachable on one interface of this host"
		case a.IsMulticast():
			why = "is a multicast address"
		case len(r.Servers) == maxServers:
			why = fmt.Sprintf("comes after the first %d", maxServers)
		}
		if why != "" {
			r.Warnings = append(r.Warnings, fmt.Sprintf("name server %v of %s is left out: it %s", a, path, why))
			continue
		}
		r.Servers = append(r.Servers, netip.AddrPortFrom(a, dnsPort))
	}
	return len(servers), nil
}

// parseResolvConf reads resolv.conf(5): one keyword a line, "search" and "domain"
// replace each other, and lines that make no sense are passed over.
func parseResolvConf(b []byte) (servers []netip.Addr, search []string) {
	for line := range bytes.Lines(b) {
		line, _, _ = bytes.Cut(line, []byte{'#'})
		line, _, _ = bytes.Cut(line, []byte{';'})
		fields := strings.Fields(string(line))
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			a, err := netip.ParseAddr(fields[1])
			if err != nil || len(servers) >= maxListed {
				continue
			}
			if a = a.Unmap(); !slices.Contains(servers, a) {
				servers = append(servers, a)
			}
		case "domain":
			search = domains(fields[1:2])
		case "search":
			search = domains(fields[1:])
		}
	}
	return servers, search
}

// domains returns those of names that can be domain names (RFC 1035 section 2.3.4:
// at most 63 bytes a label and 253 in all), once each.
func domains(names []string) []string {
	var out []string
	for _, n := range names {
		n = strings.TrimSuffix(n, ".")
		if n == "" || len(n) > 253 || len(out) == maxSearch || slices.Contains(out, n) {
			continue
		}
		ok := true
		for label := range strings.SplitSeq(n, ".") {
			ok = ok && label != "" && len(label) <= 63 && strings.IndexFunc(label, func(r rune) bool {
				return r <= ' ' || r >= 0x7f || r == '/' || r == '\\'
			}) < 0
		}
		if ok {
			out = append(out, n)
		}
	}
	return out
}
