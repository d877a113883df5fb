package stack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// dnsRetry is how long one name server may take before the next is asked as well
// (resolv.conf(5) waits 5 s; a stack with several servers need not).
const dnsRetry = time.Second

// A dnsConn carries one query of package net's resolver to several name servers:
// to the first, and as long as no good answer comes to the next. It is a
// net.PacketConn only so that the resolver does not frame its messages as on TCP.
type dnsConn struct {
	dns       *dnsConfig
	conns     []*UDPConn
	cancelled chan struct{} // closed when the lookup's context ends
	stop      func() bool   // ends watching the context

	mu       sync.Mutex
	deadline time.Time
	query    []byte
}

var _ net.PacketConn = (*dnsConn)(nil)

func newDNSConn(ctx context.Context, s *Stack, servers []netip.AddrPort) (*dnsConn, error) {
	d := &dnsConn{dns: &s.dns, cancelled: make(chan struct{})}
	var first error
	for _, server := range servers {
		c, err := s.UDP(udpNetwork(server), netip.AddrPort{}, server)
		if err != nil { // such as no route to it: the others may do
			if first == nil {
				first = err
			}
			continue
		}
		d.conns = append(d.conns, c)
	}
	if len(d.conns) == 0 {
		return nil, first
	}
	d.stop = context.AfterFunc(ctx, func() { close(d.cancelled) })
	return d, nil
}

// Write takes the query, which Read sends.
func (d *dnsConn) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.query = slices.Clone(b)
	return len(b), nil
}

// A dnsAnswer is what one server said, or why it said nothing.
type dnsAnswer struct {
	msg    []byte
	err    error
	server *UDPConn
}

// Read asks the servers, one more every dnsRetry or as soon as those asked have
// failed, and returns the first good answer. Where no server has one it returns a
// bad one, such as SERVFAIL, or why there is none.
func (d *dnsConn) Read(b []byte) (int, error) {
	d.mu.Lock()
	query, deadline := d.query, d.deadline
	d.mu.Unlock()
	if len(query) < dnsHeader {
		return 0, errors.New("read before a query was written")
	}
	answers := make(chan dnsAnswer, len(d.conns))
	asked, pending := 0, 0
	defer func() { // end and await the readers
		for _, c := range d.conns[:asked] {
			c.SetReadDeadline(time.Unix(1, 0))
		}
		for ; pending > 0; pending-- {
			<-answers
		}
	}()
	ask := func() {
		if asked == len(d.conns) {
			return
		}
		c := d.conns[asked]
		asked++
		pending++
		go func() { answers <- queryServer(c, query, len(b)) }()
	}
	ask()
	retry := time.NewTicker(dnsRetry)
	defer retry.Stop()
	var expired <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		expired = timer.C
	}
	var bad []byte
	err := os.ErrDeadlineExceeded
	for {
		select {
		case a := <-answers:
			pending--
			switch {
			case a.err != nil:
				err = a.err
			case isGoodAnswer(a.msg):
				d.dns.answered(a.server.remote.Load().AddrPort())
				return copy(b, a.msg), nil
			case bad == nil:
				bad = a.msg
			}
			ask()
		case <-retry.C:
			ask()
		case <-expired:
			return bestOf(b, bad, err)
		case <-d.cancelled:
			return 0, context.Canceled
		}
		if pending == 0 {
			return bestOf(b, bad, err)
		}
	}
}

func bestOf(b, bad []byte, err error) (int, error) {
	if bad != nil {
		return copy(b, bad), nil
	}
	return 0, err
}

// The header of a DNS message (RFC 1035 section 4.1.1).
const (
	dnsHeader = 12 // bytes

	dnsResponse = 0x80 // in byte 2
	rcodeMask   = 0x0f // of byte 3
	rcodeOK     = 0
	rcodeName   = 3 // the name does not exist
)

// queryServer sends a query to one server and waits for the message that answers
// it, of at most size bytes.
func queryServer(c *UDPConn, query []byte, size int) dnsAnswer {
	if _, err := c.Write(query); err != nil {
		return dnsAnswer{err: err, server: c}
	}
	msg := make([]byte, max(size, 512))
	for {
		n, err := c.Read(msg)
		if err != nil {
			return dnsAnswer{err: err, server: c}
		}
		if n >= dnsHeader && msg[0] == query[0] && msg[1] == query[1] && msg[2]&dnsResponse != 0 {
			return dnsAnswer{msg: msg[:n], server: c}
		}
		// Not the answer: somebody guesses, or it is late.
	}
}

// isGoodAnswer reports whether a response says something of the name, which no
// other server would know better.
func isGoodAnswer(msg []byte) bool {
	rcode := msg[3] & rcodeMask
	return rcode == rcodeOK || rcode == rcodeName
}

// SetDeadline sets when a Read that begins later gives up.
func (d *dnsConn) SetDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deadline = t
	return nil
}

// SetReadDeadline is SetDeadline.
func (d *dnsConn) SetReadDeadline(t time.Time) error { return d.SetDeadline(t) }

// SetWriteDeadline does nothing: Write does not wait.
func (d *dnsConn) SetWriteDeadline(time.Time) error { return nil }

// ReadFrom implements net.PacketConn.
func (d *dnsConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := d.Read(b)
	return n, d.RemoteAddr(), err
}

// WriteTo implements net.PacketConn; the address is not used.
func (d *dnsConn) WriteTo(b []byte, _ net.Addr) (int, error) { return d.Write(b) }

// LocalAddr returns the address used towards the first server.
func (d *dnsConn) LocalAddr() net.Addr { return d.conns[0].LocalAddr() }

// RemoteAddr returns the first server's address.
func (d *dnsConn) RemoteAddr() net.Addr { return d.conns[0].RemoteAddr() }

// Close closes the sockets.
func (d *dnsConn) Close() error {
	d.stop()
	var errs []error
	for _, c := range d.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
