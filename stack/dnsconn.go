package stack

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// dnsRetry is how long one name server may take before the next is asked as well
// (resolv.conf(5) waits 5 s; a stack with several servers need not).
const dnsRetry = time.Second

// A dnsConn carries one query of package net's resolver to several name servers:
// to the first, and as long as no answer comes to the next, and takes the first
// answer that has the query's identifier. It is a net.PacketConn only so that the
// resolver does not frame its messages as on TCP.
type dnsConn struct {
	dns   *dnsConfig
	conns []*UDPConn

	mu       sync.Mutex
	deadline time.Time
	query    []byte
	next     int // index of the next server to ask
}

var _ net.PacketConn = (*dnsConn)(nil)

func newDNSConn(s *Stack, servers []netip.AddrPort) (*dnsConn, error) {
	d := &dnsConn{dns: &s.dns}
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
	return d, nil
}

// Write takes the query and asks the first server.
func (d *dnsConn) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.query = append(d.query[:0], b...)
	d.next = 0
	return len(b), d.ask()
}

// ask asks the next server that takes the query. mu is held.
func (d *dnsConn) ask() error {
	err := error(nil)
	for d.next < len(d.conns) {
		c := d.conns[d.next]
		d.next++
		if _, err = c.Write(d.query); err == nil {
			return nil
		}
	}
	return err
}

// Read waits for the first answer, asking further servers as time goes by.
func (d *dnsConn) Read(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	type answer struct {
		msg []byte
		err error
		i   int
	}
	answers := make(chan answer, len(d.conns))
	reading := 0
	defer func() { // end and await the readers
		for _, c := range d.conns {
			c.SetReadDeadline(time.Unix(1, 0))
		}
		for ; reading > 0; reading-- {
			<-answers
		}
	}()
	started := 0
	start := func() {
		for ; started < d.next; started++ {
			i, c := started, d.conns[started]
			c.SetReadDeadline(d.deadline)
			reading++
			go func() {
				msg := make([]byte, max(len(b), 512))
				for {
					n, err := c.Read(msg)
					if err == nil && (n < 2 || len(d.query) < 2 || msg[0] != d.query[0] || msg[1] != d.query[1]) {
						continue // not the answer: somebody guesses, or it is late
					}
					answers <- answer{msg[:n], err, i}
					return
				}
			}()
		}
	}
	start()
	var last error
	retry := time.NewTicker(dnsRetry)
	defer retry.Stop()
	for {
		select {
		case a := <-answers:
			reading--
			if a.err == nil {
				d.dns.answered(d.conns[a.i].remote.AddrPort())
				return copy(b, a.msg), nil
			}
			last = a.err
			if !errors.Is(a.err, os.ErrDeadlineExceeded) && d.next < len(d.conns) { // such as port unreachable
				if err := d.ask(); err == nil {
					start()
				}
			}
			if reading == 0 {
				return 0, last
			}
		case <-retry.C:
			if d.next < len(d.conns) && d.ask() == nil {
				start()
			}
		}
	}
}

// SetDeadline sets when Read gives up.
func (d *dnsConn) SetDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deadline = t
	return nil
}

// SetReadDeadline is SetDeadline.
func (d *dnsConn) SetReadDeadline(t time.Time) error { return d.SetDeadline(t) }

// SetWriteDeadline does nothing: a query is sent without waiting.
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
	var errs []error
	for _, c := range d.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
