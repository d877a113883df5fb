package metrics_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/metrics"
	"github.com/ustack/ustack/stack"
)

// manySockets are those of a busy stack.
const manySockets = 10_000

// open opens so many sockets: both ends of connections over loopback.
func open(b *testing.B, s *stack.Stack, sockets int) {
	b.Helper()
	l, err := s.Listen("tcp", "127.0.0.1:80")
	if err != nil {
		b.Fatal(err)
	}
	var all []net.Conn
	for range sockets / 2 {
		c, err := s.Dial("tcp", "127.0.0.1:80")
		if err != nil {
			b.Fatal(err)
		}
		p, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, c, p)
	}
	b.Cleanup(func() {
		l.Close()
		for _, c := range all {
			c.Close()
		}
	})
}

func once(h http.Handler) (bytes int) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.Len()
}

// BenchmarkScrape is one scrape of many at once, as text and not compressed; first-ms is one that
// has to look at every socket, which those behind it need not do again at once.
func BenchmarkScrape(b *testing.B) {
	for _, sockets := range []int{0, manySockets} {
		b.Run(fmt.Sprintf("sockets=%d", sockets), func(b *testing.B) {
			s, _ := newPair(b)
			h := metrics.NewHandler(metrics.Config{Stack: s, Control: noRequests}, nil)
			once(h)
			open(b, s, sockets)
			begin := time.Now()
			size := once(h)
			first := time.Since(begin)
			b.ReportAllocs()
			for b.Loop() {
				size = once(h)
			}
			b.ReportMetric(float64(size), "bytes/scrape")
			b.ReportMetric(first.Seconds()*1e3, "first-ms")
		})
	}
}

// BenchmarkStreamWhileScraped is 1 MiB of a stream between two stacks, the sender with many sockets, while
// somebody scrapes it ten times a second, a hundred times as often as usual, or nobody does.
func BenchmarkStreamWhileScraped(b *testing.B) {
	const block = 1 << 20
	a, z := pair(b, link.PipeConfig{Depth: 4096, Offloads: link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6})
	open(b, a, manySockets)
	l, err := z.Listen("tcp", "10.0.0.2:80")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c, err := a.Dial("tcp", "10.0.0.2:80")
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	p, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	buf := make([]byte, block)
	for _, every := range []time.Duration{0, 100 * time.Millisecond} {
		b.Run(fmt.Sprintf("every=%v", every), func(b *testing.B) {
			var wg sync.WaitGroup
			stop := make(chan struct{})
			if every > 0 {
				h := metrics.NewHandler(metrics.Config{Stack: a, Control: noRequests}, nil)
				wg.Go(func() {
					t := time.NewTicker(every)
					defer t.Stop()
					for {
						select {
						case <-t.C:
							once(h)
						case <-stop:
							return
						}
					}
				})
			}
			b.SetBytes(block)
			for b.Loop() {
				read := make(chan error, 1)
				go func() {
					_, err := io.CopyN(io.Discard, p, block)
					read <- err
				}()
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
				if err := <-read; err != nil {
					b.Fatal(err)
				}
			}
			close(stop)
			wg.Wait()
		})
	}
}
