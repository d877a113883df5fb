package stack_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/ustack/ustack/link/tap"
	"github.com/ustack/ustack/stack"
)

// kernelConn returns a connection between the stack and a kernel socket over a tap.
func kernelConn(b *testing.B, cfg tap.Config) (s, k net.Conn, st *stack.Stack) {
	b.Helper()
	cfg.Name = "tap0"
	ns, st := tapStack(b, cfg)
	ns.Sysctl(b, "net.ipv4.tcp_congestion_control", "reno")
	var l net.Listener
	ns.Do(b, func() {
		var err error
		if l, err = net.Listen("tcp", "10.0.0.5:0"); err != nil {
			b.Fatal(err)
		}
	})
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := st.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	if k, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close(); k.Close() })
	return s, k, st
}

func benchmarkStream(b *testing.B, from, to net.Conn, block int) {
	buf := make([]byte, block)
	done := make(chan error, 1)
	total := int64(b.N) * int64(block)
	b.SetBytes(int64(block))
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(struct{ io.Reader }{to}, total), make([]byte, 256<<10))
		done <- err
	}()
	for range b.N {
		if _, err := from.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkTap moves 128 KiB writes over a tap between the stack and a kernel
// socket of the same process.
func BenchmarkTap(b *testing.B) {
	for name, cfg := range map[string]tap.Config{"native": {}, "water": {Driver: tap.DriverWater}} {
		b.Run(name+"/to", func(b *testing.B) {
			s, k, st := kernelConn(b, cfg)
			benchmarkStream(b, k, s, 128<<10)
			stats := st.Links()[0].Stats
			b.ReportMetric(float64(stats.RxBytes)/float64(stats.RxFrames), "B/frame")
		})
		b.Run(name+"/from", func(b *testing.B) {
			s, k, st := kernelConn(b, cfg)
			benchmarkStream(b, s, k, 128<<10)
			stats := st.Links()[0].Stats
			b.ReportMetric(float64(stats.TxBytes)/float64(stats.TxFrames), "B/frame")
		})
	}
}

// BenchmarkTapEcho is the round trip of one byte.
func BenchmarkTapEcho(b *testing.B) {
	s, k, _ := kernelConn(b, tap.Config{})
	go io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{s}, make([]byte, 64))
	one := make([]byte, 1)
	b.ResetTimer()
	for b.Loop() {
		if _, err := k.Write(one); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(k, one); err != nil {
			b.Fatal(err)
		}
	}
}
