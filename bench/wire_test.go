package main

import (
	"bytes"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"time"
)

func TestOrderRoundTrip(t *testing.T) {
	o := order{op: orderSink, write: 131072, time: time.Second, total: 1 << 30, congestion: "cubic"}
	got, err := readOrder(bytes.NewReader(o.encode()))
	if err != nil || got != o {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestOrderOutOfBounds(t *testing.T) {
	for name, o := range map[string]order{
		"write":    {op: orderSource, write: maxWrite + 1},
		"no write": {op: orderSource},
		"time":     {op: orderSink, write: 1, time: maxTime + 1},
		"negative": {op: orderSink, write: 1, time: -1},
		"total":    {op: orderSink, write: 1, total: maxTotal + 1},
	} {
		if _, err := readOrder(bytes.NewReader(o.encode())); err == nil {
			t.Errorf("%s: %+v is taken", name, o)
		}
	}
}

func FuzzReadOrder(f *testing.F) {
	f.Add(order{op: orderSink, write: 1, time: 1, congestion: "reno"}.encode())
	f.Add(make([]byte, orderLen-1))
	f.Add(bytes.Repeat([]byte{0xff}, orderLen))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := readOrder(bytes.NewReader(b))
		if err == nil && (o.write > maxWrite || o.time < 0 || o.time > maxTime || o.total > maxTotal || len(o.congestion) > congestionLen) {
			t.Errorf("%x makes %+v", b, o)
		}
	})
}

// Both ends of a stream hash the same, and any damage on the way is noticed.
func TestVerification(t *testing.T) {
	o := order{op: orderSink, write: 1 << 10, total: 3<<20 + 5}
	for name, c := range map[string]struct {
		harm func([]byte)
		same bool
	}{
		"nothing":  {func([]byte) {}, true},
		"one bit":  {func(b []byte) { b[2<<20] ^= 1 }, false},
		"a swap":   {func(b []byte) { copy(b[1<<20:], append(bytes.Clone(b[1<<20+1500:1<<20+3000]), b[1<<20:1<<20+1500]...)) }, false},
		"a repeat": {func(b []byte) { copy(b[1500:3000], b[:1500]) }, false},
	} {
		var wire bytes.Buffer
		if _, err := send(&wire, o, nil); err != nil || wire.Len() != int(o.total) {
			t.Fatal(wire.Len(), err)
		}
		c.harm(wire.Bytes())
		got, err := receive(&wire, o)
		if err != nil || got.bytes != o.total {
			t.Fatal(got.bytes, err)
		}
		if err := sameHash(got, o); (err == nil) != c.same {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := receive(strings.NewReader("short"), o); err == nil {
		t.Error("a short stream is taken for whole")
	}
}

func TestReceiveCountsForATime(t *testing.T) {
	a, b := net.Pipe()
	stop, sent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		send(a, order{write: 1000}, stop)
	}()
	const long = 20 * time.Millisecond
	got, err := receive(b, order{time: long})
	if err != nil || got.bytes == 0 || got.bytes%1000 != 0 || got.time < long {
		t.Errorf("%+v, %v", got, err)
	}
	close(stop)
	b.Close()
	<-sent
}

func TestCountRoundTrip(t *testing.T) {
	c := count{bytes: 1 << 40, time: time.Hour}
	c.hash[31] = 7
	got, err := readCount(bytes.NewReader(c.encode()))
	if err != nil || got != c {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := readCount(bytes.NewReader(c.encode()[1:])); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
}

func TestSlowestTenth(t *testing.T) {
	even := make([]time.Duration, 1000)
	for i := range even {
		even[i] = time.Duration(i+1) * time.Millisecond
	}
	if got := slowestTenth(even); math.Abs(got-1) > 1e-9 {
		t.Errorf("even: %v", got)
	}
	slow := append([]time.Duration(nil), even...)
	for i := 900; i < 1000; i++ { // the last tenth takes as long as all others
		slow[i] = 900*time.Millisecond + time.Duration(i-899)*9*time.Millisecond
	}
	if got := slowestTenth(slow); math.Abs(got-0.2) > 1e-9 {
		t.Errorf("slow end: %v", got)
	}
	if got := slowestTenth(even[:9]); got != 0 {
		t.Errorf("too few: %v", got)
	}
}

func TestParseRSS(t *testing.T) {
	got, err := parseRSS([]byte("Name:\tx\nVmRSS:\t   1234 kB\nThreads:\t1\n"))
	if err != nil || got != 1234<<10 {
		t.Errorf("%d, %v", got, err)
	}
	for _, bad := range []string{"", "VmRSS:\n", "VmRSS:\tmany kB\n"} {
		if _, err := parseRSS([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestFlags(t *testing.T) {
	o, err := parse([]string{"-only", "^s", "-rounds", "3", "-time", "2s", "-quick", "-out", "x"})
	if err != nil || !o.only.MatchString("stream") || o.rounds != 3 || o.time != 2*time.Second || !o.quick || o.out != "x" {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range [][]string{{"-only", "("}, {"-with", "("}, {"-rounds", "-1"}, {"-time", "1h"}, {"x"}} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q are taken", bad)
		}
	}
}

// Every row has metrics with names of their own, and each goal is about who takes
// part in it.
func TestRowsAreConsistent(t *testing.T) {
	for _, s := range []scale{wholeRun, quickRun} {
		seen := make(map[string]bool)
		for _, w := range rows(s) {
			if len(w.metrics) == 0 || len(w.subjects) == 0 || w.run == nil {
				t.Errorf("%s does nothing", w.id)
			}
			taking := make(map[string]bool)
			for _, subject := range w.subjects {
				taking[subject] = true
				if about[subject] == "" {
					t.Errorf("%s: nothing is said about %s", w.id, subject)
				}
			}
			for _, m := range w.metrics {
				if seen[m.ID] {
					t.Errorf("two metrics are called %s", m.ID)
				}
				seen[m.ID] = true
				for _, g := range m.Goals {
					if !taking[g.Subject] || g.Against != "" && !taking[g.Against] {
						t.Errorf("%s: %+v is about one who does not take part", m.ID, g)
					}
				}
			}
		}
	}
}

func TestPathOptions(t *testing.T) {
	p := path{rate: 1000, rtt: 40 * time.Millisecond, loss: 0.1, reorder: 1}
	if got, want := p.options(), ",rate=1000mbit,delay=20000us,limit=3402,loss=0.1%,reorder=1%"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestParseCounters(t *testing.T) {
	got := make(map[string]int64)
	const text = "TcpExt: TCPTimeouts TCPLossProbes\nTcpExt: 3 0\nIp: Forwarding\nIp: 1\nTcp: MaxConn RetransSegs\nTcp: -1 7\n"
	if err := parseCounters(text, got); err != nil || len(got) != 3 || got["TcpExtTCPTimeouts"] != 3 || got["TcpRetransSegs"] != 7 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"Tcp: A B\nTcp: 1\n", "Tcp: A\nUdp: 1\n", "Tcp: A\nTcp: x\n"} {
		if err := parseCounters(bad, got); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestPathTitle(t *testing.T) {
	for want, p := range map[string]path{
		"1 Gbit/s × 1ms, 3 % lost": {rate: 1000, rtt: time.Millisecond, loss: 3},
		"20 Mbit/s × 50ms":         {rate: 20, rtt: 50 * time.Millisecond},
	} {
		if got := p.title(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
