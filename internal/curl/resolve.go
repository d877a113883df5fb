package curl

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ustack/ustack/control"
)

// A resolveEntry is one --resolve.
type resolveEntry struct {
	host, port string // host "*": any
	addrs      []string
}

// connectTo is one --connect-to; an empty part matches anything or stays as it is.
type connectTo struct {
	host, port, toHost, toPort string
}

// addResolve reads [+]HOST:PORT:ADDR[,ADDR] or -HOST:PORT, which removes one.
func (c *config) addResolve(v string, _ bool) error {
	spec := strings.TrimPrefix(v, "+")
	if drop, ok := strings.CutPrefix(spec, "-"); ok {
		host, port, _, err := cutHostPort(drop)
		if err != nil {
			return err
		}
		kept := c.resolve[:0]
		for _, r := range c.resolve {
			if r.host != host || r.port != port {
				kept = append(kept, r)
			}
		}
		c.resolve = kept
		return nil
	}
	host, port, rest, err := cutHostPort(spec)
	if err != nil || rest == "" {
		return fmt.Errorf("expected HOST:PORT:ADDR[,ADDR], not %q", v)
	}
	r := resolveEntry{host: host, port: port}
	for a := range strings.SplitSeq(rest, ",") {
		ip, err := netip.ParseAddr(strings.Trim(a, "[]"))
		if err != nil {
			return fmt.Errorf("%q in %q is not an IP address", a, v)
		}
		r.addrs = append(r.addrs, ip.String())
	}
	c.resolve = append(c.resolve, r)
	return nil
}

// addConnectTo reads HOST:PORT:HOST2:PORT2, each of which may be empty.
func (c *config) addConnectTo(v string, _ bool) error {
	bad := fmt.Errorf("expected HOST:PORT:HOST2:PORT2, not %q", v)
	var t connectTo
	var rest, last string
	var err error
	if t.host, t.port, rest, err = cutHostPort(v); err != nil {
		return bad
	}
	if t.toHost, t.toPort, last, err = cutHostPort(rest); err != nil || last != "" {
		return bad
	}
	c.connectTo = append(c.connectTo, t)
	return nil
}

// cutHostPort takes HOST:PORT off the front; HOST may be in brackets, either empty.
func cutHostPort(s string) (host, port, rest string, err error) {
	if strings.HasPrefix(s, "[") {
		i := strings.Index(s, "]")
		if i < 0 {
			return "", "", "", fmt.Errorf("%q has no ]", s)
		}
		host, s = s[1:i], s[i+1:]
		if !strings.HasPrefix(s, ":") {
			return "", "", "", fmt.Errorf("%q has no port", s)
		}
		s = s[1:]
	} else {
		var ok bool
		if host, s, ok = strings.Cut(s, ":"); !ok {
			return "", "", "", fmt.Errorf("%q has no port", host)
		}
	}
	port, rest, _ = strings.Cut(s, ":")
	if port != "" {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return "", "", "", fmt.Errorf("%q is not a port", port)
		}
	}
	return strings.ToLower(host), port, rest, nil
}

// pinned returns what --resolve says of host and port; the latest wins.
func (c *config) pinned(host, port string) ([]string, bool) {
	for i := len(c.resolve) - 1; i >= 0; i-- {
		r := c.resolve[i]
		if r.port == port && (r.host == "*" || strings.EqualFold(r.host, host)) {
			return r.addrs, true
		}
	}
	return nil, false
}

// redirected applies --connect-to; the first match wins.
func (c *config) redirected(host, port string) (string, string) {
	for _, t := range c.connectTo {
		if t.host != "" && !strings.EqualFold(t.host, host) || t.port != "" && t.port != port {
			continue
		}
		if t.toHost != "" {
			host = t.toHost
		}
		if t.toPort != "" {
			port = t.toPort
		}
		break
	}
	return host, port
}

func newDaemonDialer(socket string) Dialer {
	return &control.Client{Path: control.SocketPath(socket)}
}

// splitAddr returns the parts of an address of a connection.
func splitAddr(a net.Addr) (ip, port string) {
	if a == nil {
		return "", ""
	}
	ip, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String(), ""
	}
	return ip, port
}
