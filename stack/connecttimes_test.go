package stack

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

// counts returns how many attempts ended in each way, without those that never did.
func counts(s *Stack) map[string]uint64 {
	m := make(map[string]uint64)
	for _, t := range s.ConnectTimes() {
		if t.Count > 0 {
			m[t.Outcome] = t.Count
		}
	}
	return m
}

func TestConnectTimesByOutcome(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	l, err := b.Listen("tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := map[string]uint64{}
	dial := func(outcome string, ctx context.Context, addr string) {
		t.Helper()
		before := time.Now()
		if c, err := a.DialContext(ctx, "tcp", addr); err == nil {
			c.Close()
		}
		took := time.Since(before)
		want[outcome]++
		if got := counts(a); !maps.Equal(got, want) {
			t.Errorf("after a dial that should be %q: %v, want %v", outcome, got, want)
		}
		for _, c := range a.ConnectTimes() {
			if c.Outcome == outcome && c.Sum > took*time.Duration(c.Count) && c.Count == 1 {
				t.Errorf("%s: %v measured of %v", outcome, c.Sum, took)
			}
		}
	}
	dial("ok", testContext(t), "10.0.0.2:80")
	dial("refused", testContext(t), "10.0.0.2:81")
	dial("refused", testContext(t), "127.0.0.1:81")
	dial("unreachable", testContext(t), "192.0.2.1:80")
	short, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	dial("timeout", short, "10.0.0.77:80")
	canceled, cancel := context.WithCancel(context.Background())
	time.AfterFunc(10*time.Millisecond, cancel)
	dial("canceled", canceled, "10.0.0.78:80")
	// One that was not begun is not counted.
	if _, err := a.DialContext(canceled, "tcp", "10.0.0.2:80"); err == nil || !maps.Equal(counts(a), want) {
		t.Errorf("a dial with an ended context: %v, %v", err, counts(a))
	}
}

func TestConnectOutcomeOfEveryError(t *testing.T) {
	for want, errs := range map[string][]error{
		"ok":          {nil},
		"refused":     {syscall.ECONNREFUSED},
		"timeout":     {syscall.ETIMEDOUT, errTimeout, os.ErrDeadlineExceeded},
		"unreachable": {syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN},
		"reset":       {syscall.ECONNRESET, syscall.ECONNABORTED},
		"canceled":    {context.Canceled},
		"error":       {net.ErrClosed, syscall.EADDRNOTAVAIL, syscall.EIO},
	} {
		for _, err := range errs {
			if err != nil {
				err = opErr("dial", "tcp", nil, nil, fmt.Errorf("connect: %w", err))
			}
			if got := connectOutcomeNames[outcomeOf(err)]; got != want {
				t.Errorf("%v: %s, want %s", err, got, want)
			}
		}
	}
}

func TestConnectTimesBuckets(t *testing.T) {
	var s Stack
	for _, took := range []time.Duration{0, 100 * time.Microsecond, 100*time.Microsecond + 1, time.Minute, time.Minute + 1} {
		s.connects.observe(took, nil)
	}
	ok := s.ConnectTimes()[connectOK]
	at := func(bound time.Duration) uint64 {
		i := slices.IndexFunc(ok.Buckets, func(b ConnectBucket) bool { return b.Bound == bound })
		if i < 0 {
			t.Fatalf("no bucket of %v", bound)
		}
		return ok.Buckets[i].Count
	}
	if at(100*time.Microsecond) != 2 || at(250*time.Microsecond) != 3 || at(30*time.Second) != 3 || at(time.Minute) != 4 || ok.Count != 5 {
		t.Errorf("%+v", ok)
	}
	if want := 2*time.Minute + 200*time.Microsecond + 2; ok.Sum != want {
		t.Errorf("sum %v, want %v", ok.Sum, want)
	}
	if !slices.IsSortedFunc(connectBounds[:], func(a, b time.Duration) int { return int(a - b) }) {
		t.Error("the bounds are not in order")
	}
}

// The counts are those of what Sockets lists.
func TestSocketCounts(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	c, s := connect(t, a, b, "10.0.0.2")
	defer c.Close()
	defer s.Close()
	l, err := a.Listen("tcp", "10.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, addr := range []string{"10.0.0.2:53", "10.0.0.2:54"} {
		u, err := a.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
	}
	p, err := a.ListenPacket("udp", "10.0.0.1:5353")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	i, err := a.ICMP("ip4")
	if err != nil {
		t.Fatal(err)
	}
	got := func() map[string]int {
		m := make(map[string]int)
		for _, n := range a.SocketCounts() {
			if _, twice := m[n.Network+" "+n.State]; twice {
				t.Errorf("%s %s is there twice", n.Network, n.State)
			}
			m[n.Network+" "+n.State] = n.Count
		}
		return m
	}
	m := got()
	all := len(m)
	for k, want := range map[string]int{"tcp ESTAB": 1, "tcp LISTEN": 1, "udp ESTAB": 2, "udp UNCONN": 1, "icmp UNCONN": 1, "tcp TIME-WAIT": 0} {
		if n, ok := m[k]; !ok || n != want {
			t.Errorf("%s: %d, want %d", k, n, want)
		}
		delete(m, k)
	}
	for k, n := range m {
		if n != 0 {
			t.Errorf("%s: %d", k, n)
		}
	}
	i.Close()
	i.Close()
	if m := got(); m["icmp UNCONN"] != 0 || len(m) != all {
		t.Errorf("after the ICMP socket's end: %v", m)
	}
	for _, info := range a.Sockets() {
		if _, ok := got()[info.Network+" "+info.State]; !ok {
			t.Errorf("%+v is not counted", info)
		}
	}
}

// A count of many sockets is not made again at once.
func TestSocketCountsTakeTheirTime(t *testing.T) {
	begin := time.Now()
	end := begin.Add(5 * time.Millisecond)
	if until := holdUntil([]SocketCount{{"tcp", "ESTAB", 900}, {"udp", "ESTAB", 100}}, begin, end); !until.IsZero() {
		t.Errorf("few sockets: held until %v", until)
	}
	if until := holdUntil([]SocketCount{{"tcp", "ESTAB", 901}, {"udp", "ESTAB", 100}}, begin, end); until.Sub(end) != 500*time.Millisecond {
		t.Errorf("many sockets: held for %v", until.Sub(end))
	}
	a, _ := pair(t, link.PipeConfig{})
	held := []SocketCount{{"tcp", "ESTAB", 2000}}
	set := func(until time.Time) {
		a.counted.mu.Lock()
		defer a.counted.mu.Unlock()
		a.counted.counts, a.counted.until = held, until
	}
	set(time.Now().Add(time.Hour))
	got := a.SocketCounts()
	if !slices.Equal(got, held) {
		t.Errorf("%v, want %v", got, held)
	}
	got[0].Count = 5 // the caller's
	if a.SocketCounts()[0].Count != 2000 {
		t.Error("the count is shared")
	}
	set(time.Now().Add(-time.Second))
	if got := a.SocketCounts(); slices.Equal(got, held) {
		t.Errorf("%v is held too long", got)
	}
}
