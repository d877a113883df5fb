package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// A DHCPConfig configures Stack.DHCP. The zero value is a client that is known by
// its MAC and takes any address.
type DHCPConfig struct {
	// Hostname is told to the server (option 12); "" sends none.
	Hostname string
	// ClientID is option 61, with its type byte; nil means 1 and the MAC.
	ClientID []byte
	// RequestIP is the address to ask for; the server may give another one.
	RequestIP netip.Addr
	// Timeout bounds the wait for the first lease; 0 leaves it to the context.
	Timeout time.Duration
	// OnLease is called after a lease was applied: the first one and every renewed
	// one. It must not call Close. It may be nil.
	OnLease func(Lease)

	timing *dhcpTiming // nil: the defaults
}

// dhcpTiming is what a client waits for.
type dhcpTiming struct {
	// first and most bound the wait for an answer. RFC 2131 section 4.1 begins
	// with 4 s, chosen for relays over slow lines; 1 s costs one small frame and
	// lets a bridge that has just come up lose the first.
	first, most time.Duration
	// restart and mostRestart bound the wait before a client begins again that was
	// refused or found the address taken. RFC 2131 section 3.1 wants 10 s after
	// every conflict; here only repeated ones get there.
	restart, mostRestart time.Duration
	// probes ARP probes, gap apart, are sent before an address is used
	// (RFC 2131 section 2.2). RFC 5227's seconds would be felt at every start.
	probes int
	gap    time.Duration
}

var defaultDHCPTiming = dhcpTiming{
	first: time.Second, most: 64 * time.Second,
	restart: 500 * time.Millisecond, mostRestart: 10 * time.Second,
	probes: 3, gap: 100 * time.Millisecond,
}

const (
	// requestTries is how often a DHCPREQUEST is sent before the client begins
	// again (RFC 2131 section 3.1(5)).
	requestTries = 4
	// resolveLimit bounds the wait for the MAC of the server or of its router.
	resolveLimit = 500 * time.Millisecond
)

// A DHCPClient holds a lease (RFC 2131): it renews it, and gets another one when
// it has ended.
type DHCPClient struct {
	s      *Stack
	cfg    DHCPConfig
	timing dhcpTiming
	mtu    int // the link's own, in bytes
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	lease Lease
	held  bool
}

// DHCP gets an address from a DHCP server. It returns when the first lease is
// held and applied, or with an error that says how far it came; then the lease is
// kept until Close or Stack.Close. EBUSY if the stack has a DHCP client already.
//
// The lease's address, routes, name servers and MTU become the stack's own. An
// address that somebody answers for is declined; this check takes 300 ms.
func (s *Stack) DHCP(ctx context.Context, cfg DHCPConfig) (*DHCPClient, error) {
	if !s.auto.dhcp.CompareAndSwap(false, true) {
		return nil, fmt.Errorf("stack: a DHCP client runs on %s already: %w", s.name, syscall.EBUSY)
	}
	c := &DHCPClient{s: s, cfg: cfg, timing: defaultDHCPTiming, mtu: int(s.ep.MTU()), done: make(chan struct{})}
	if cfg.timing != nil {
		c.timing = *cfg.timing
	}
	if cfg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cfg.Timeout)
		defer cancel()
	}
	life, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	first := make(chan error, 1)
	started := s.auto.spawn(func(stopped context.Context) {
		defer close(c.done)
		defer s.auto.dhcp.Store(false)
		defer context.AfterFunc(stopped, cancel)()
		err := c.start(ctx, life)
		first <- err
		if err == nil {
			c.run(life)
		}
	})
	if !started {
		cancel()
		s.auto.dhcp.Store(false)
		return nil, fmt.Errorf("stack: dhcp on %s: %w", s.name, net.ErrClosed)
	}
	if err := <-first; err != nil {
		cancel()
		<-c.done
		return nil, err
	}
	return c, nil
}

// Lease returns the lease. ok is false while there is none, because the last one
// has ended and no server has given another.
func (c *DHCPClient) Lease() (l Lease, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lease, c.held
}

// Close gives the lease back (DHCPRELEASE) and takes from the stack what came
// with it.
func (c *DHCPClient) Close() error {
	c.cancel()
	<-c.done
	return nil
}

// start gets the first lease: until ctx ends, or life does.
func (c *DHCPClient) start(ctx, life context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(life, cancel)()
	begun := time.Now()
	var p progress
	err := c.acquire(ctx, &p)
	if err == nil {
		return nil
	}
	errs := []error{err}
	if life.Err() != nil {
		errs[0] = net.ErrClosed
	} else if ctx.Err() != nil { // context.DeadlineExceeded as well as os.ErrDeadlineExceeded
		errs = append(errs, ctx.Err())
	}
	return &waitError{p.describe(c.s.name, time.Since(begun), errs[0]), errs}
}

// run keeps the lease until ctx ends, and then gives it back.
func (c *DHCPClient) run(ctx context.Context) {
	defer c.release()
	for {
		lost := c.keep(ctx)
		if ctx.Err() != nil {
			return
		}
		c.s.log.Warn("DHCP lease has ended", "link", c.s.name, "addr", c.lease.Addr, "reason", lost)
		c.drop()
		if err := c.acquire(ctx, new(progress)); err != nil {
			return // ctx has ended
		}
	}
}

// progress is how far a client came, for the error.
type progress struct {
	discovers int    // DHCPDISCOVERs sent
	last      string // what went wrong after that, if anything
}

func (p *progress) describe(link string, d time.Duration, err error) string {
	unit := time.Second // a timer's lateness is not of interest
	if d < unit/2 {
		unit /= 10
	}
	within := fmt.Sprintf("within %v", d.Round(unit))
	switch {
	case p.discovers == 0:
		return fmt.Sprintf("dhcp on %s: %v", link, err)
	case p.last == "":
		return fmt.Sprintf("no DHCP server answered on %s %s (%d DHCPDISCOVERs sent): is there one on this link?", link, within, p.discovers)
	}
	return fmt.Sprintf("no DHCP lease on %s %s: %s", link, within, p.last)
}

// A waitError says in its own words what did not come in time.
type waitError struct {
	text string
	errs []error // for errors.Is
}

func (e *waitError) Error() string   { return "stack: " + e.text }
func (e *waitError) Unwrap() []error { return e.errs }

// acquire asks until a lease is held and applied. The error is ctx's, or that of
// a socket which cannot be had.
func (c *DHCPClient) acquire(ctx context.Context, p *progress) error {
	wait := backoff(c.timing.restart, c.timing.mostRestart)
	for try := 0; ; try++ {
		err := c.attempt(ctx, p)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctxErr(ctx)
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EADDRINUSE) && p.discovers == 0 {
			return err
		}
		p.last = err.Error()
		c.s.log.Warn("no DHCP lease yet", "link", c.s.name, "err", err)
		timer := time.NewTimer(wait(try))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctxErr(ctx)
		case <-timer.C:
		}
	}
}

// attempt goes once from INIT to BOUND (RFC 2131 figure 5).
func (c *DHCPClient) attempt(ctx context.Context, p *progress) error {
	conn, err := c.s.openDHCP()
	if err != nil {
		return err
	}
	defer conn.Close()
	none := netip.IPv4Unspecified()
	discover, err := conn.message(c.cfg, dhcpv4.MessageTypeDiscover)
	if err != nil {
		return err
	}
	discover.SetBroadcast()
	if c.cfg.RequestIP.Is4() {
		discover.UpdateOption(dhcpv4.OptRequestedIPAddress(c.cfg.RequestIP.AsSlice()))
	}
	var offer Lease
	err = conn.exchange(ctx, dhcpExchange{
		msg: discover, send: conn.broadcast(none), wait: backoff(c.timing.first, c.timing.most), sent: &p.discovers,
		accept: func(m *dhcpv4.DHCPv4, asked time.Time) bool {
			if m.MessageType() != dhcpv4.MessageTypeOffer {
				return false
			}
			l, err := leaseOf(m, Lease{}, c.mtu, asked)
			if err != nil {
				p.last = fmt.Sprintf("%v made an offer that is no use: %v", m.ServerIdentifier(), err)
				return false
			}
			offer = l
			return true
		},
	})
	if err != nil {
		return err
	}

	request, err := conn.message(c.cfg, dhcpv4.MessageTypeRequest)
	if err != nil {
		return err
	}
	request.TransactionID = discover.TransactionID
	request.SetBroadcast()
	request.UpdateOption(dhcpv4.OptRequestedIPAddress(offer.Addr.Addr().AsSlice()))
	request.UpdateOption(dhcpv4.OptServerIdentifier(offer.Server.AsSlice()))
	p.last = fmt.Sprintf("%v offered %v and did not acknowledge it", offer.Server, offer.Addr)
	var lease Lease
	var refused error
	err = conn.exchange(ctx, dhcpExchange{
		msg: request, send: conn.broadcast(none), wait: backoff(c.timing.first, c.timing.most), tries: requestTries,
		accept: c.verdict(offer, &lease, &refused),
	})
	if err == nil {
		err = refused
	}
	if errors.Is(err, errNoAnswer) {
		return errors.New(p.last)
	}
	if err != nil {
		return err
	}
	if mac, taken := c.s.auto.probe(ctx, lease.Addr.Addr(), c.timing.probes, c.timing.gap); taken {
		c.decline(conn, lease)
		return fmt.Errorf("%v offered %v, which %v uses: declined", lease.Server, lease.Addr.Addr(), mac)
	}
	if ctx.Err() != nil {
		c.sendRelease(conn, lease)
		return ctxErr(ctx)
	}
	if err := c.apply(lease); err != nil {
		c.sendRelease(conn, lease)
		return err
	}
	c.s.auto.announce(lease.Addr.Addr())
	return nil
}

// verdict accepts a server's answer to a DHCPREQUEST for the address of want: a
// DHCPACK, which sets lease, or a DHCPNAK, which sets refused. An acknowledgement
// that makes no sense is passed over.
func (c *DHCPClient) verdict(want Lease, lease *Lease, refused *error) func(*dhcpv4.DHCPv4, time.Time) bool {
	return func(m *dhcpv4.DHCPv4, asked time.Time) bool {
		if server, ok := unicast4(m.ServerIdentifier()); ok && server != want.Server && want.Server.IsValid() {
			return false
		}
		switch m.MessageType() {
		case dhcpv4.MessageTypeNak:
			*refused = fmt.Errorf("%v refuses to lease %v", m.ServerIdentifier(), want.Addr.Addr())
			if text := m.Message(); text != "" {
				*refused = fmt.Errorf("%w: %.100q", *refused, text)
			}
			return true
		case dhcpv4.MessageTypeAck:
			l, err := leaseOf(m, want, c.mtu, asked)
			if err != nil || l.Addr.Addr() != want.Addr.Addr() {
				c.s.log.Debug("DHCPACK makes no sense", "link", c.s.name, "addr", m.YourIPAddr, "err", err)
				return false
			}
			*lease = l
			return true
		}
		return false
	}
}
