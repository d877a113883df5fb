package ping

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/ustack/ustack/control"
)

// backlog is how many messages may wait while a line is being written.
const backlog = 128

// A pinger is one run to one address. Only the goroutine of run uses it.
type pinger struct {
	*program
	conn control.ICMPConn
	to   netip.Addr
	v6   bool
	// group is set where more than one host may answer.
	group  bool
	id     uint16
	packet []byte
	// sentAt holds when the last request of each sequence number left; the zero
	// Time for those that never did.
	sentAt []time.Time

	stats
	interval    time.Duration
	first, last time.Time
	next        time.Time
	linger      time.Time // when to give up on the last reply; zero: not yet decided
}

func newPinger(prog *program, conn control.ICMPConn, to netip.Addr) *pinger {
	o := prog.o
	p := &pinger{
		program: prog, conn: conn, to: to, v6: to.Is6(), interval: o.interval,
		group:  o.broadcast || to.IsMulticast(),
		id:     uint16(1 + rand.IntN(0xffff)),
		packet: make([]byte, icmpHeader+o.size),
		sentAt: make([]time.Time, 1<<16),
	}
	data := p.packet[icmpHeader:]
	for i := range data {
		if o.pattern != nil {
			data[i] = o.pattern[i%len(o.pattern)]
		} else {
			data[i] = byte(i)
		}
	}
	return p
}

// timed reports whether requests have room for the time they were sent.
func (o *options) timed() bool { return o.size >= timestampSize }

// configure sets the socket's options.
func (p *pinger) configure() error {
	ttl, tos := "ip.ttl", "ip.tos"
	if p.v6 {
		ttl, tos = "ipv6.unicast_hops", "ipv6.tclass"
	}
	for _, set := range []struct {
		flag, name string
		value      int
		wanted     bool
	}{
		{"-t", ttl, p.o.ttl, p.o.ttl > 0},
		{"-Q", tos, p.o.tos, p.o.tos >= 0},
		{"-M", "ip.mtu_discover", p.o.pmtu, p.o.pmtu >= 0},
	} {
		if !set.wanted {
			continue
		}
		if err := p.conn.SetOption(set.name, set.value); err != nil {
			return fmt.Errorf("option %s: set %s to %d: %s", set.flag, set.name, set.value, errText(err))
		}
	}
	return nil
}

// allowBroadcast sends the first request again, now to a broadcast address.
func (p *pinger) allowBroadcast() error {
	fmt.Fprintln(p.env.Stderr, "WARNING: pinging broadcast address")
	if err := p.conn.SetOption("so.broadcast", 1); err != nil {
		return err
	}
	p.sent--
	return p.transmit(p.first)
}

// An arrival is what ReadICMP returned.
type arrival struct {
	msg control.ICMPMessage
	err error
}

// run pings until the flags, a signal or ctx end it, and returns the exit code. An
// error means that the first request could not be sent.
func (p *pinger) run(ctx context.Context) (int, error) {
	arrivals := make(chan arrival, backlog)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { p.read(arrivals, stop) })
	// A daemon that does not answer must not hold an interrupted run.
	unhook := context.AfterFunc(ctx, func() { p.conn.Close() })
	defer func() {
		unhook()
		close(stop)
		p.conn.Close()
		wg.Wait()
	}()

	p.first = time.Now()
	p.next = p.first
	err := p.transmit(p.first)
	if p.o.broadcast && errors.Is(err, syscall.EACCES) {
		err = p.allowBroadcast()
	}
	if err != nil && ctx.Err() == nil {
		switch {
		case errors.Is(err, syscall.EACCES):
			return exitOther, errBroadcast
		case unreachable(err):
			return exitOther, fmt.Errorf("connect: %w", named{err})
		}
		p.header()
		p.sendError(err)
	} else {
		p.header()
		p.dot()
	}

	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil && !p.done(time.Now()) {
		now := time.Now()
		if p.maySend() && !p.due().After(now) {
			p.send(now)
			// A short interval must not keep replies waiting.
			for range len(arrivals) {
				a := <-arrivals
				if a.err != nil {
					return p.lost(ctx, a.err), nil
				}
				p.arrived(a.msg)
			}
			continue
		}
		timer.Reset(p.wake(now).Sub(now))
		select {
		case a := <-arrivals:
			if a.err != nil {
				return p.lost(ctx, a.err), nil
			}
			p.arrived(a.msg)
		case <-p.status:
			io.WriteString(p.env.Stderr, p.snapshot(p.o))
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	return p.finish(), nil
}

// read passes on what the socket receives until it fails or stop is closed.
func (p *pinger) read(arrivals chan<- arrival, stop <-chan struct{}) {
	for {
		m, err := p.conn.ReadICMP()
		if err == nil && m.At.IsZero() {
			m.At = time.Now()
		}
		m.Data = append([]byte(nil), m.Data...)
		select {
		case arrivals <- arrival{m, err}:
		case <-stop:
			return
		}
		if err != nil {
			return
		}
	}
}

func (p *pinger) maySend() bool {
	return p.o.count == 0 || p.sent < p.o.count || p.o.deadline > 0
}

// due returns when the next request may leave.
func (p *pinger) due() time.Time {
	switch {
	case p.sent < p.o.preload:
		return p.last
	case p.interval == 0 && p.inFlight() < p.o.preload:
		return p.last
	case p.interval == 0:
		return p.last.Add(idleInterval)
	}
	return p.next
}

// done reports whether the run is over, and begins to wait for the last reply when
// everything has been sent.
func (p *pinger) done(now time.Time) bool {
	o := p.o
	if o.count > 0 && p.received+p.errors >= o.count {
		return true
	}
	if o.deadline > 0 && (p.errors > 0 || now.Sub(p.first) >= o.deadline) {
		return true
	}
	if p.maySend() {
		return false
	}
	if p.linger.IsZero() {
		wait := o.linger
		if p.received > 0 {
			wait = max(2*time.Duration(p.max)*time.Microsecond, p.interval)
		}
		p.linger = now.Add(wait)
	}
	return !now.Before(p.linger)
}

// wake returns the next moment at which something is to be done without a message.
func (p *pinger) wake(now time.Time) time.Time {
	t := p.linger
	if p.maySend() {
		t = p.due()
	}
	if end := p.first.Add(p.o.deadline); p.o.deadline > 0 && end.Before(t) {
		t = end
	}
	return t
}

// send sends the next request and says what there is to say about it.
func (p *pinger) send(now time.Time) {
	if p.o.missing && !p.o.quiet && !p.o.flood && !p.answered(uint16(p.sent)) {
		p.printf("no answer yet for icmp_seq=%d\n", uint16(p.sent))
	}
	if err := p.transmit(now); err != nil {
		p.sendError(err)
		return
	}
	p.dot()
}

// transmit sends the next request. It counts as sent even if it could not be.
func (p *pinger) transmit(now time.Time) error {
	seq := uint16(p.sent + 1)
	p.forget(seq)
	putEcho(p.packet, p.v6, p.id, seq)
	if p.o.timed() && p.o.pattern == nil {
		// As iputils on most machines, for those who look at captures.
		t := time.Now()
		binary.LittleEndian.PutUint64(p.packet[8:], uint64(t.Unix()))
		binary.LittleEndian.PutUint64(p.packet[16:], uint64(t.Nanosecond()/1000))
	}
	p.last = now
	if p.sent < p.o.preload {
		p.next = now.Add(p.interval)
	} else if p.next = p.next.Add(p.interval); now.Sub(p.next) > p.interval {
		p.next = now
	}
	p.sentAt[seq] = time.Now()
	err := p.conn.WriteICMP(p.packet, p.to)
	p.sent++
	if err != nil {
		p.sentAt[seq] = time.Time{}
	}
	return err
}

// adapt sets the interval of -A: one round trip, to the millisecond.
func (p *pinger) adapt() {
	p.interval = (time.Duration(p.ewma/8) * time.Microsecond).Round(time.Millisecond)
	p.next = p.last.Add(p.interval)
}

// lost ends a run whose socket failed, as when the daemon ends.
func (p *pinger) lost(ctx context.Context, err error) int {
	if ctx.Err() != nil { // we closed it ourselves
		return p.finish()
	}
	if daemon := daemonError(err); daemon != nil {
		fmt.Fprintf(p.env.Stderr, "ping: %v\n", daemon)
	} else {
		fmt.Fprintf(p.env.Stderr, "ping: receive: %s (has the daemon ended?)\n", errText(err))
	}
	p.finish()
	return exitOther
}

func (p *pinger) finish() int {
	p.raw(p.summary(p.o, p.last.Sub(p.first)))
	if p.received == 0 || p.o.deadline > 0 && p.received < p.o.count {
		return exitNone
	}
	return exitReplies
}
