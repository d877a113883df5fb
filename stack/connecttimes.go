package stack

import (
	"context"
	"errors"
	"os"
	"sort"
	"sync/atomic"
	"syscall"
	"time"
)

// connectBounds are the upper bounds of the buckets of ConnectTimes, the bound included: from a wire
// on this machine to the last retransmission of a SYN that somebody waits for.
var connectBounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second,
	10 * time.Second, 30 * time.Second, 60 * time.Second,
}

// A connectOutcome is how an attempt to connect ended.
type connectOutcome int

const (
	connectOK connectOutcome = iota
	connectRefused
	connectTimeout
	connectUnreachable
	connectReset
	connectCanceled
	connectError
	connectOutcomes
)

var connectOutcomeNames = [connectOutcomes]string{
	"ok", "refused", "timeout", "unreachable", "reset", "canceled", "error",
}

// outcomeOf sorts the error of Socket.Connect.
func outcomeOf(err error) connectOutcome {
	is := func(any ...error) bool {
		for _, e := range any {
			if errors.Is(err, e) {
				return true
			}
		}
		return false
	}
	switch {
	case err == nil:
		return connectOK
	case is(syscall.ECONNREFUSED):
		return connectRefused
	case is(syscall.ETIMEDOUT, os.ErrDeadlineExceeded):
		return connectTimeout
	case is(syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENONET):
		return connectUnreachable
	case is(syscall.ECONNRESET, syscall.ECONNABORTED):
		return connectReset
	case is(context.Canceled):
		return connectCanceled
	}
	return connectError
}

// connectTimes counts attempts to connect by outcome and time. The zero value is ready.
type connectTimes [connectOutcomes]struct {
	counts [len(connectBounds) + 1]atomic.Uint64 // the last one: above all bounds
	sum    atomic.Int64                          // nanoseconds
}

func (c *connectTimes) observe(took time.Duration, err error) {
	o := &c[outcomeOf(err)]
	o.counts[sort.Search(len(connectBounds), func(i int) bool { return took <= connectBounds[i] })].Add(1)
	o.sum.Add(int64(took))
}

// A ConnectBucket counts the attempts that took at most Bound.
type ConnectBucket struct {
	Bound time.Duration
	Count uint64 // those of all smaller bounds included
}

// ConnectTimes are the attempts to connect a TCP socket to one address, those of DialContext
// and of Socket.Connect alike, that ended in one way. The time runs from the start of the
// attempt to its end and includes the search for the link address; names are resolved before.
type ConnectTimes struct {
	// Outcome is "ok", "refused", "timeout" (no answer, or the caller's deadline),
	// "unreachable" (host or network), "reset", "canceled" (by the caller), or "error" for
	// what is left, such as no free port.
	Outcome string
	Count   uint64
	Sum     time.Duration
	// Buckets have bounds from 100 µs to 60 s.
	Buckets []ConnectBucket
}

// ConnectTimes returns one for each outcome there is, also for those that never occurred.
func (s *Stack) ConnectTimes() []ConnectTimes {
	all := make([]ConnectTimes, 0, connectOutcomes)
	for i := range s.connects {
		o := &s.connects[i]
		t := ConnectTimes{Outcome: connectOutcomeNames[i], Sum: time.Duration(o.sum.Load())}
		for j, bound := range connectBounds {
			t.Count += o.counts[j].Load()
			t.Buckets = append(t.Buckets, ConnectBucket{bound, t.Count})
		}
		t.Count += o.counts[len(connectBounds)].Load()
		all = append(all, t)
	}
	return all
}
