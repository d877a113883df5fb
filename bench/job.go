package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A job is what the runner asks of a process of its own, as one line of JSON. The
// kernel's side does all but the first two.
type job struct {
	Do string // "packets", "free", "stream", "echo", "connects", "push", "pull", "hold", "cycle", "release", "congestion"

	Addr       string        // IP of the server
	From       bool          // of a stream: the server writes
	Streams    int           // how many at once
	Write      int           // bytes a write
	Time       time.Duration // how long, or at most how long
	Rate       int           // datagrams a second; 0: as many as possible
	Total      uint64        // of a stream: bytes to send and verify, instead of Time
	Count      int           // how many connections, or round trips, at most
	Parallel   int           // how many at once
	Congestion string        // of a stream: congestion control of the kernel's sockets
}

// A result answers a job, as one line of JSON.
type result struct {
	Error   string // "" when it worked
	Bytes   uint64
	Count   int // round trips, connections, datagrams received
	Sent    int // datagrams sent
	Errors  int
	First   string // the first of Errors
	Time    time.Duration
	P50     time.Duration
	P99     time.Duration
	Slowest float64 // of connects: the slowest tenth's rate over the mean
	// Counters are of the server's TCP: the kernel's as nstat(8) names them, or netstack's.
	Counters map[string]int64 `json:",omitempty"`
}

// A client is the kernel's side: it dials, with the kernel's sockets.
type client struct {
	held []net.Conn
}

func (c *client) do(j job) (result, error) {
	switch j.Do {
	case "stream":
		return stream(j)
	case "echo":
		return roundTrips(j)
	case "connects":
		return connects(j)
	case "push":
		return push(j)
	case "pull":
		return pull(j)
	case "hold":
		return c.hold(j)
	case "cycle":
		return c.cycle(j)
	case "release":
		for _, h := range c.held {
			h.(*net.TCPConn).SetLinger(0)
			h.Close()
		}
		c.held = nil
		return result{}, nil
	}
	return result{}, fmt.Errorf("no job is called %q", j.Do)
}

const dialTimeout = 10 * time.Second

func (j job) dial(port int) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp4", net.JoinHostPort(j.Addr, strconv.Itoa(port)), dialTimeout)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// order dials and says what the connection is for. The connection fails by itself
// when much more time has passed than it may take.
func (j job) order(o order) (*net.TCPConn, error) {
	c, err := j.dial(streamPort)
	if err != nil {
		return nil, err
	}
	if j.Congestion != "" {
		err = setCongestion(c, j.Congestion)
	}
	if err == nil {
		c.SetDeadline(time.Now().Add(j.Time + 30*time.Second))
		_, err = c.Write(o.encode())
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// reset ends a connection at once: what is on the way must not disturb the next.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// stream moves bytes over j.Streams connections at once. The receiver counts.
func stream(j job) (result, error) {
	n := max(j.Streams, 1)
	counts := make([]count, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { counts[i], errs[i] = oneStream(j) })
	}
	wg.Wait()
	var r result
	for _, c := range counts {
		r.Bytes += c.bytes
		r.Time = max(r.Time, c.time)
	}
	return r, errors.Join(errs...)
}

func oneStream(j job) (count, error) {
	o := order{op: orderSink, write: uint32(j.Write), time: j.Time, total: j.Total, congestion: j.Congestion}
	if j.From {
		o.op = orderSource
	}
	c, err := j.order(o)
	if err != nil {
		return count{}, err
	}
	defer reset(c)
	if j.From {
		got, err := receive(c, o)
		if err == nil && o.total > 0 {
			err = sameHash(got, o)
		}
		return got, err
	}
	stop := make(chan struct{})
	sent := make(chan error, 1)
	go func() {
		_, err := send(c, o, stop)
		sent <- err
	}()
	got, err := readCount(c)
	close(stop)
	reset(c) // frees a writer that waits for room
	werr := <-sent
	if err != nil {
		return got, errors.Join(err, werr)
	}
	if o.total > 0 {
		err = sameHash(got, o)
	}
	return got, err
}

// sameHash compares what arrived with what the order makes a sender send.
func sameHash(got count, o order) error {
	want, err := send(discard{}, o, nil)
	if err == nil && want != got.hash {
		err = fmt.Errorf("payload of %d bytes differs: sha256 %x, sent %x", got.bytes, got.hash, want)
	}
	return err
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// maxSamples bounds the memory of what is timed one by one.
const maxSamples = 1 << 20

// roundTrips sends one byte and waits for it, again and again, on one connection.
func roundTrips(j job) (result, error) {
	c, err := j.order(order{op: orderEcho})
	if err != nil {
		return result{}, err
	}
	defer reset(c)
	b := []byte{0}
	times := make([]time.Duration, 0, maxSamples)
	began := time.Now()
	for last := began; ; {
		if _, err := c.Write(b); err != nil {
			return result{}, err
		}
		if _, err := c.Read(b); err != nil {
			return result{}, err
		}
		now := time.Now()
		times = append(times, now.Sub(last))
		last = now
		if now.Sub(began) >= j.Time || len(times) == maxSamples {
			break
		}
	}
	slices.Sort(times)
	return result{
		Count: len(times), Time: time.Since(began),
		P50: times[len(times)/2], P99: times[len(times)*99/100],
	}, nil
}

// connects makes connections, reads the server's byte and its end, and closes;
// j.Parallel at once, until j.Time or j.Count is used up.
func connects(j job) (result, error) {
	var started, errs atomic.Int64
	var mu sync.Mutex
	var ends []time.Duration // of the good ones
	var first string
	most := int64(j.Count)
	if most == 0 {
		most = maxSamples
	}
	began := time.Now()
	var wg sync.WaitGroup
	for range max(j.Parallel, 1) {
		wg.Go(func() {
			for time.Since(began) < j.Time && started.Add(1) <= most {
				if err := oneConnect(j); err != nil {
					if errs.Add(1) == 1 {
						mu.Lock()
						first = err.Error()
						mu.Unlock()
					}
					continue
				}
				at := time.Since(began)
				mu.Lock()
				ends = append(ends, at)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	r := result{Count: len(ends), Errors: int(errs.Load()), First: first, Time: time.Since(began)}
	r.Slowest = slowestTenth(ends)
	return r, nil
}

func oneConnect(j job) error {
	c, err := j.dial(connectPort)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(dialTimeout))
	var b [2]byte
	n, err := c.Read(b[:])
	if err != nil || n != 1 {
		return fmt.Errorf("read the server's byte: %d bytes, %w", n, err)
	}
	if n, err := c.Read(b[:]); n != 0 || err == nil || err.Error() != "EOF" {
		return fmt.Errorf("read the server's end: %d bytes, %w", n, err)
	}
	return nil
}

// slowestTenth returns the rate of the slowest tenth of the events over the rate of
// all: 1 when they are evenly spread.
func slowestTenth(at []time.Duration) float64 {
	slices.Sort(at)
	n := len(at) / 10
	if n == 0 {
		return 0
	}
	mean := float64(at[n*10-1]) / 10
	least := 1.0
	last := time.Duration(0)
	for i := range 10 {
		end := at[(i+1)*n-1]
		if took := float64(end - last); took > 0 {
			least = min(least, mean/took)
		}
		last = end
	}
	return least
}

// hold opens j.Count connections more, exchanges one byte on each and keeps them.
func (c *client) hold(j job) (result, error) {
	var mu sync.Mutex
	var firstErr error
	var wg sync.WaitGroup
	began := time.Now()
	var next atomic.Int64
	for range max(j.Parallel, 1) {
		wg.Go(func() {
			for next.Add(1) <= int64(j.Count) && time.Since(began) < j.Time {
				conn, err := j.order(order{op: orderEcho})
				if err == nil {
					conn.SetDeadline(time.Time{})
					err = bounce(conn)
				}
				mu.Lock()
				if err != nil && firstErr == nil {
					firstErr = err
				} else if err == nil {
					c.held = append(c.held, conn)
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return result{Count: len(c.held), Time: time.Since(began)}, firstErr
}

func bounce(c net.Conn) error {
	b := []byte{0}
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := c.Read(b)
	return err
}

// cycle makes j.Count round trips over all held connections in turn, j.Parallel at
// once, so that each has to be found among all.
func (c *client) cycle(j job) (result, error) {
	var wg sync.WaitGroup
	n := min(j.Parallel, len(c.held))
	if n == 0 {
		return result{}, errors.New("no connections are held")
	}
	errs := make([]error, n)
	var done atomic.Int64
	began := time.Now()
	for w := range n {
		wg.Go(func() {
			for i := w; done.Add(1) <= int64(j.Count) && time.Since(began) < j.Time; i += n {
				if i >= len(c.held) {
					i = w
				}
				if errs[w] = bounce(c.held[i]); errs[w] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return result{Count: int(min(done.Load(), int64(j.Count))), Time: time.Since(began)}, errors.Join(errs...)
}
