package ping

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
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
	for _, set := range []struct {
		flag, name string
		value      int
		wanted     bool
	}{
		{"-t", "ip.ttl", p.o.ttl, p.o.ttl > 0},
		{"-Q", "ip.tos", p.o.tos, p.o.tos >= 0},
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

func (p *pinger) sendError(err error) {
	tooLong := errors.Is(err, syscall.EMSGSIZE)
	if tooLong {
		p.errors++
	}
	switch {
	case p.o.quiet:
	case p.o.flood:
		p.raw("E")
	case tooLong:
		fmt.Fprintf(p.env.Stderr, "ping: local error: message too long\n")
	default:
		fmt.Fprintf(p.env.Stderr, "ping: sendmsg: %s\n", errText(err))
	}
}

// arrived deals with a message, ours or not.
func (p *pinger) arrived(a control.ICMPMessage) {
	m, ok := decode(a.Data, p.v6)
	if !ok {
		if p.o.verbose && !p.o.quiet && len(a.Data) < icmpHeader {
			fmt.Fprintf(p.env.Stderr, "ping: packet too short (%d bytes) from %s\n", len(a.Data), a.From)
		}
		return
	}
	if m.kind == kindOther {
		p.other(a, m)
		return
	}
	if m.id != p.id || p.sentAt[m.seq].IsZero() {
		return
	}
	if m.kind == kindReply {
		p.replied(a, m)
		return
	}
	if m.dst != p.to.WithZone("") {
		return
	}
	if m.kind == kindNotice {
		if !p.o.quiet && !p.o.flood {
			p.printf("From %s: icmp_seq=%d %s\n", a.From, m.seq, m.text(p.v6))
		}
		return
	}
	p.acknowledge(m.seq)
	p.errors++
	switch {
	case p.o.quiet:
	case p.o.flood:
		p.raw("\bE")
	default:
		p.printf("From %s icmp_seq=%d %s\n", a.From, m.seq, m.text(p.v6))
	}
}

// other shows with -v what is neither a reply nor about a request.
func (p *pinger) other(a control.ICMPMessage, m message) {
	echo := m.typ == typeEcho && !p.v6 || m.typ == type6Echo && p.v6
	if !p.o.verbose || p.o.quiet || p.o.flood || echo {
		return
	}
	p.printf("From %s: %s\n", a.From, m.text(p.v6))
}

func (p *pinger) replied(a control.ICMPMessage, m message) {
	p.acknowledge(m.seq)
	duplicate := p.reply(m.seq)
	var us int64
	if p.o.timed() {
		took := a.At.Sub(p.sentAt[m.seq])
		if took < 0 { // the clock was set back
			took = time.Since(p.sentAt[m.seq])
		}
		us = took.Microseconds()
		p.time(us)
		if p.o.adaptive {
			p.adapt()
		}
	}
	if p.o.quiet {
		return
	}
	if p.o.flood {
		if p.o.audible {
			p.raw("\b \b\a")
		} else {
			p.raw("\b \b")
		}
		return
	}
	p.printf("%s\n", p.line(a, m, us, duplicate))
}

// line describes a reply.
func (p *pinger) line(a control.ICMPMessage, m message, us int64, duplicate bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d bytes from %s: icmp_seq=%d", len(a.Data), a.From, m.seq)
	if a.TTL > 0 {
		fmt.Fprintf(&b, " ttl=%d", a.TTL)
	}
	if len(m.data) < p.o.size {
		b.WriteString(" (truncated)")
		return b.String()
	}
	if p.o.timed() {
		fmt.Fprintf(&b, " time=%s ms", roundTrip(us))
	}
	if duplicate && (!p.group || p.o.verbose) {
		b.WriteString(" (DUP!)")
	}
	if a.From.WithZone("") != p.to.WithZone("") && !p.group {
		b.WriteString(" (DIFFERENT ADDRESS!)")
	}
	p.compare(&b, m.data[:p.o.size])
	if p.o.audible {
		b.WriteByte('\a')
	}
	return b.String()
}

// compare says where the data of a reply differs from what was sent, and shows it.
func (p *pinger) compare(b *strings.Builder, data []byte) {
	from := 0
	if p.o.timed() {
		from = timestampSize
	}
	want := p.packet[icmpHeader:]
	for i := from; i < len(data); i++ {
		if data[i] == want[i] {
			continue
		}
		fmt.Fprintf(b, "\nwrong data byte #%d should be 0x%x but was 0x%x", i, want[i], data[i])
		for j := from; j < len(data); j++ {
			if (j-from)%32 == 0 {
				fmt.Fprintf(b, "\n#%d\t", j)
			}
			fmt.Fprintf(b, "%x ", data[j])
		}
		return
	}
}

// adapt sets the interval of -A: one round trip, to the millisecond.
func (p *pinger) adapt() {
	p.interval = (time.Duration(p.ewma/8) * time.Microsecond).Round(time.Millisecond)
	p.next = p.last.Add(p.interval)
}

func (p *pinger) header() {
	if p.v6 {
		fmt.Fprintf(p.env.Stdout, "PING %s (%s) %d data bytes\n", p.o.host, p.to, p.o.size)
		return
	}
	fmt.Fprintf(p.env.Stdout, "PING %s (%s) %d(%d) bytes of data.\n", p.o.host, p.to, p.o.size, p.o.size+icmpHeader+20)
}

// lost ends a run whose socket failed, as when the daemon ends.
func (p *pinger) lost(ctx context.Context, err error) int {
	if ctx.Err() != nil { // we closed it ourselves
		return p.finish()
	}
	fmt.Fprintf(p.env.Stderr, "ping: receive: %s (has the daemon ended?)\n", errText(err))
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

// printf writes one line, behind the time with -D.
func (p *pinger) printf(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if p.o.timestamp {
		now := time.Now()
		line = fmt.Sprintf("[%d.%06d] %s", now.Unix(), now.Nanosecond()/1000, line)
	}
	p.raw(line)
}

func (p *pinger) dot() {
	if p.o.flood && !p.o.quiet {
		p.raw(".")
	}
}

func (p *pinger) raw(s string) { io.WriteString(p.env.Stdout, s) }

// named shows an error by its errno's text alone.
type named struct{ error }

func (n named) Error() string { return errText(n.error) }
func (n named) Unwrap() error { return n.error }
