package metrics_test

import (
	"net"
	"net/http/httptest"
	"testing"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/metrics"
)

// BenchmarkScrape is one scrape of a stack with many connections, as text and not compressed.
func BenchmarkScrape(b *testing.B) {
	for name, conns := range map[string]int{"idle": 0, "sockets=10000": 5000} {
		b.Run(name, func(b *testing.B) {
			wire, far := link.Pipe(link.PipeConfig{})
			defer far.Close()
			s := newStack(b, wire, "10.0.0.1/24")
			l, err := s.Listen("tcp", "127.0.0.1:80")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			for range conns { // two sockets each, over loopback
				c, err := s.Dial("tcp", "127.0.0.1:80")
				if err != nil {
					b.Fatal(err)
				}
				p, err := l.Accept()
				if err != nil {
					b.Fatal(err)
				}
				defer func(both ...net.Conn) {
					for _, c := range both {
						c.Close()
					}
				}(c, p)
			}
			h := metrics.NewHandler(metrics.Config{Stack: s, Control: noRequests}, nil)
			var size int
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
				size = w.Body.Len()
			}
			b.ReportMetric(float64(size), "bytes/scrape")
		})
	}
}
