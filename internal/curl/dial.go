package curl

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ustack/ustack/control"
)

var (
	errMaxTime     = errors.New("--max-time is over")
	errConnectTime = errors.New("--connect-timeout is over")
)

// eyeballsDelay is the head start of the first address family (RFC 8305
// section 8 recommends 250 ms; libcurl waits 200 ms).
const eyeballsDelay = 200 * time.Millisecond

type transferKey struct{}

// dialCtx is the context of one connection attempt. net/http takes the cancelling
// off the context it passes, so the limits come from the transfer.
func (s *session) dialCtx(ctx context.Context) (context.Context, *transfer, context.CancelFunc) {
	t := ctx.Value(transferKey{}).(*transfer)
	if s.c.connectTimeout == 0 {
		ctx, cancel := context.WithCancel(t.ctx)
		return ctx, t, cancel
	}
	ctx, cancel := context.WithTimeoutCause(t.ctx, s.c.connectTimeout, errConnectTime)
	return ctx, t, cancel
}

func (s *session) dialPlain(ctx context.Context, _, addr string) (net.Conn, error) {
	s.connecting.Add(1)
	defer s.connecting.Done()
	ctx, t, cancel := s.dialCtx(ctx)
	defer cancel()
	c, err := s.connect(ctx, t, addr)
	if err != nil {
		return nil, err
	}
	t.setPhase(phaseTransfer)
	if s.c.http == http2Prior {
		return c, nil
	}
	return newHeadConn(c), nil
}

func (s *session) dialTLS(ctx context.Context, _, addr string) (net.Conn, error) {
	s.connecting.Add(1)
	defer s.connecting.Done()
	if s.tlsErr != nil {
		return nil, s.tlsErr
	}
	ctx, t, cancel := s.dialCtx(ctx)
	defer cancel()
	raw, err := s.connect(ctx, t, addr)
	if err != nil {
		return nil, err
	}
	t.setPhase(phaseTLS)
	host, _, _ := net.SplitHostPort(addr)
	cfg := s.tls.Clone()
	cfg.ServerName = host
	if i := strings.IndexByte(host, '%'); i >= 0 {
		cfg.ServerName = host[:i]
	}
	t.verbose("* ALPN: offers %s", strings.Join(cfg.NextProtos, ","))
	c := tls.Client(raw, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		switch {
		case errors.Is(context.Cause(ctx), errConnectTime):
			return nil, fail(exitTimeout, "SSL connection timeout")
		case ctx.Err() != nil:
			if e := t.stopped(); e != nil {
				return nil, e
			}
			return nil, ctx.Err()
		}
		return nil, tlsError(host, err)
	}
	t.mark(&t.times.appConnect)
	cs := c.ConnectionState()
	t.showTLS(cs, s.c.insecure)
	t.setPhase(phaseTransfer)
	if cs.NegotiatedProtocol == "h2" {
		return c, nil
	}
	if s.c.http == http2Prior {
		c.Close()
		return nil, fail(exitHTTP2, "HTTP/2: the server does not speak it (ALPN answer %q)", cs.NegotiatedProtocol)
	}
	return newHeadConn(c), nil
}

// connect resolves addr, with --connect-to and --resolve applied, and connects.
func (s *session) connect(ctx context.Context, t *transfer, addr string) (*wireConn, error) {
	began := time.Now()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fail(exitURL, "%q is not HOST:PORT: %v", addr, err)
	}
	host, port = s.c.redirected(host, port)
	t.setPhase(phaseResolve)
	addrs, err := s.lookup(ctx, t, host, port)
	if err != nil {
		if errors.Is(context.Cause(ctx), errConnectTime) {
			return nil, fail(exitTimeout, "Resolving timed out after %d milliseconds", time.Since(began).Milliseconds())
		}
		if e := t.stopped(); e != nil {
			return nil, e
		}
		return nil, lookupError(host, err)
	}
	t.mark(&t.times.nameLookup)
	t.setPhase(phaseConnect)
	c, err := s.race(ctx, t, addrs, port)
	ms := time.Since(began).Milliseconds()
	if err != nil {
		if errors.Is(context.Cause(ctx), errConnectTime) {
			return nil, fail(exitTimeout, "Connection timed out after %d milliseconds", ms)
		}
		if e := t.stopped(); e != nil {
			return nil, e
		}
		return nil, connectError(host, port, ms, err)
	}
	t.mark(&t.times.connect)
	w := s.adopt(c)
	t.mu.Lock()
	t.connects++
	t.mu.Unlock()
	ip, _ := splitAddr(c.RemoteAddr())
	t.verbose("* Connected to %s (%s) port %s (#%d)", host, ip, port, w.id)
	return w, nil
}

func (s *session) adopt(c net.Conn) *wireConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &wireConn{Conn: c, id: s.nconns}
	w.closed = func(w *wireConn) {
		s.mu.Lock()
		delete(s.conns, w)
		s.mu.Unlock()
	}
	s.nconns++
	s.conns[w] = struct{}{}
	return w
}

// lookupError tells a name that does not resolve from a daemon that is not there.
func lookupError(host string, err error) *exitError {
	var dns *net.DNSError
	if !errors.As(err, &dns) {
		return fail(exitConnect, "%v", err)
	}
	if dns.IsNotFound || dns.Err == "" {
		return fail(exitResolve, "Could not resolve host: %s", host)
	}
	return fail(exitResolve, "Could not resolve host: %s (%s)", host, dns.Err)
}

func connectError(host, port string, ms int64, err error) *exitError {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return lookupError(host, err)
	}
	if errors.Is(err, control.ErrNoDaemon) || errors.Is(err, fs.ErrPermission) {
		return fail(exitConnect, "%v", err)
	}
	code := exitConnect
	if errors.Is(err, syscall.ETIMEDOUT) {
		code = exitTimeout
	}
	return fail(code, "Failed to connect to %s port %s after %d ms: %s", host, port, ms, reason(err))
}

// lookup returns the addresses of host, or host itself when only the dialler can
// resolve it.
func (s *session) lookup(ctx context.Context, t *transfer, host, port string) ([]string, error) {
	if list, ok := s.c.pinned(host, port); ok {
		t.verbose("* Added %s:%s:%s to DNS cache", host, port, strings.Join(list, ","))
		return s.family(list, host)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return s.family([]string{host}, host)
	}
	if h := strings.ToLower(strings.TrimSuffix(host, ".")); h == "localhost" || strings.HasSuffix(h, ".localhost") {
		return s.family([]string{"127.0.0.1", "::1"}, host) // RFC 6761 section 6.3: never asked of a server
	}
	r, ok := s.d.(Resolver)
	if !ok {
		return []string{host}, nil
	}
	network := "ip"
	if s.c.family != 0 {
		network = fmt.Sprintf("ip%d", s.c.family)
	}
	ips, err := r.LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, err
	}
	list := make([]string, len(ips))
	for i, ip := range ips {
		list[i] = ip.Unmap().String()
	}
	return s.family(list, host)
}

// family drops the addresses that -4 or -6 excludes.
func (s *session) family(list []string, host string) ([]string, error) {
	var out []string
	for _, a := range list {
		ip, err := netip.ParseAddr(a)
		if s.c.family == 0 || err != nil || ip.Is4() == (s.c.family == 4) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, &net.DNSError{Name: host, Err: "no address of the asked family", IsNotFound: true}
	}
	return out, nil
}

// race connects to the first address that answers. The family of the first
// address has eyeballsDelay before the other starts beside it.
func (s *session) race(ctx context.Context, t *transfer, addrs []string, port string) (net.Conn, error) {
	var first, second []string
	for _, a := range addrs {
		if strings.Contains(a, ":") == strings.Contains(addrs[0], ":") {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	if len(second) == 0 {
		return s.each(ctx, t, first, port)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type attempt struct {
		c   net.Conn
		err error
	}
	results := make(chan attempt)
	won := make(chan struct{})
	defer close(won)
	start := func(list []string) {
		s.connecting.Go(func() {
			c, err := s.each(ctx, t, list, port)
			select {
			case results <- attempt{c, err}:
			case <-won:
				if c != nil {
					c.Close()
				}
			}
		})
	}
	start(first)
	timer := time.NewTimer(eyeballsDelay)
	defer timer.Stop()
	running := 1
	var firstErr error
	for {
		select {
		case <-timer.C:
		case r := <-results:
			running--
			if r.err == nil {
				return r.c, nil
			}
			if firstErr == nil {
				firstErr = r.err
			}
		}
		if second != nil && ctx.Err() == nil {
			start(second)
			second = nil
			running++
		}
		if running == 0 {
			return nil, firstErr
		}
	}
}

// each tries addresses one after another.
func (s *session) each(ctx context.Context, t *transfer, addrs []string, port string) (net.Conn, error) {
	network := "tcp"
	if s.c.family != 0 {
		network = "tcp" + strconv.Itoa(s.c.family)
	}
	var err error
	for _, a := range addrs {
		t.verbose("*   Trying %s...", net.JoinHostPort(a, port))
		var c net.Conn
		c, err = s.d.DialContext(ctx, network, net.JoinHostPort(a, port))
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		t.verbose("* connect to %s port %s failed: %s", a, port, reason(err))
	}
	return nil, err
}
