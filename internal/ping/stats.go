package ping

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// stats counts one run as iputils does. Times are microseconds.
type stats struct {
	sent, received int
	duplicates     int
	errors         int
	pipe           int

	samples  int64
	min, max int64
	sum      int64
	sum2     float64
	// ewma is eight times the smoothed round-trip time, each sample having weight 1/8.
	ewma int64

	// acked is the highest sequence number answered, modulo 2^16.
	acked uint16
	seen  [1 << 16 / 8]byte
}

// forget makes a sequence number new again: 65536 requests later it is reused.
func (s *stats) forget(seq uint16)        { s.seen[seq/8] &^= 1 << (seq % 8) }
func (s *stats) answered(seq uint16) bool { return s.seen[seq/8]&(1<<(seq%8)) != 0 }

// reply counts a reply and tells whether it is a duplicate.
func (s *stats) reply(seq uint16) (duplicate bool) {
	if s.answered(seq) {
		s.duplicates++
		return true
	}
	s.seen[seq/8] |= 1 << (seq % 8)
	s.received++
	return false
}

// time adds a round-trip time.
func (s *stats) time(us int64) {
	if s.samples == 0 {
		s.min, s.max = us, us
	}
	s.samples++
	s.min, s.max = min(s.min, us), max(s.max, us)
	s.sum += us
	s.sum2 += float64(us) * float64(us)
	if s.ewma == 0 {
		s.ewma = us * 8
	} else {
		s.ewma += us - s.ewma/8
	}
}

// acknowledge keeps the highest number answered, and how many requests were on the
// way at most.
func (s *stats) acknowledge(seq uint16) {
	behind := uint16(s.sent) - seq
	if behind > 0x7fff {
		return
	}
	s.pipe = max(s.pipe, int(behind)+1)
	if int16(seq-s.acked) > 0 || uint16(s.sent)-s.acked > 0x7fff {
		s.acked = seq
	}
}

// inFlight returns how many requests may still be answered.
func (s *stats) inFlight() int {
	if d := uint16(s.sent) - s.acked; d <= 0x7fff {
		return int(d)
	}
	return s.sent - s.received - s.errors
}

func (s *stats) average() int64 {
	if s.samples == 0 {
		return 0
	}
	return s.sum / s.samples
}

// mdev is the standard deviation.
func (s *stats) mdev() int64 {
	if s.samples == 0 {
		return 0
	}
	n, sum := float64(s.samples), float64(s.sum)
	return int64(math.Sqrt(max(0, (s.sum2-sum*sum/n)/n)))
}

// summary is the text after the run. took is the time from the first request to the last.
func (s *stats) summary(o *options, took time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n--- %s ping statistics ---\n", o.host)
	fmt.Fprintf(&b, "%d packets transmitted, %d received", s.sent, s.received)
	if s.duplicates > 0 {
		fmt.Fprintf(&b, ", +%d duplicates", s.duplicates)
	}
	if s.errors > 0 {
		fmt.Fprintf(&b, ", +%d errors", s.errors)
	}
	if s.sent > 0 {
		loss := float64(s.sent-s.received) * 100 / float64(s.sent)
		fmt.Fprintf(&b, ", %s%% packet loss, time %dms",
			strconv.FormatFloat(loss, 'g', 6, 64), took.Round(time.Millisecond).Milliseconds())
	}
	b.WriteByte('\n')
	comma := ""
	if s.samples > 0 {
		fmt.Fprintf(&b, "rtt min/avg/max/mdev = %s/%s/%s/%s ms",
			millis(s.min), millis(s.average()), millis(s.max), millis(s.mdev()))
		comma = ", "
	}
	if s.pipe > 1 {
		fmt.Fprintf(&b, "%spipe %d", comma, s.pipe)
		comma = ", "
	}
	if s.received > 0 && s.sent > 1 && (o.interval == 0 || o.flood || o.adaptive) {
		fmt.Fprintf(&b, "%sipg/ewma %s/%s ms", comma,
			millis(took.Microseconds()/int64(s.sent-1)), millis(s.ewma/8))
	}
	b.WriteByte('\n')
	return b.String()
}

// snapshot is the line that SIGQUIT asks for.
func (s *stats) snapshot(o *options) string {
	loss := 0
	if s.sent > 0 {
		loss = (s.sent - s.received) * 100 / s.sent
	}
	line := fmt.Sprintf("\r%d/%d packets, %d%% loss", s.received, s.sent, loss)
	if s.samples > 0 {
		line += fmt.Sprintf(", min/avg/ewma/max = %s/%s/%s/%s ms",
			millis(s.min), millis(s.average()), millis(s.ewma/8), millis(s.max))
	}
	return line + "\n"
}

// millis writes microseconds as milliseconds with three decimals.
func millis(us int64) string {
	return fmt.Sprintf("%d.%03d", us/1000, us%1000)
}

// roundTrip writes a time in milliseconds with at least three significant digits.
func roundTrip(us int64) string {
	switch {
	case us < 1000:
		return millis(us)
	case us < 9995:
		us += 5
		return fmt.Sprintf("%d.%02d", us/1000, us%1000/10)
	case us < 99950:
		us += 50
		return fmt.Sprintf("%d.%d", us/1000, us%1000/100)
	}
	return strconv.FormatInt((us+500)/1000, 10)
}
