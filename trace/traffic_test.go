package trace_test

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/stack"
	"github.com/ustack/ustack/trace"
)

// TestTrafficGoesOn: streams both ways over several queues while traces come and go. Nothing of them
// is changed, and each frame of each trace ends once.
func TestTrafficGoesOn(t *testing.T) {
	for name, offloads := range map[string]link.Offloads{"plain": 0, "offloads": link.OffloadTSO4 | link.OffloadTSO6} {
		t.Run(name, func(t *testing.T) { trafficGoesOn(t, link.PipeConfig{Queues: 2, Offloads: offloads}) })
	}
}

func trafficGoesOn(t *testing.T, pipe link.PipeConfig) {
	wireA, wireB := link.Pipe(pipe)
	obs := new(link.Observers)
	start := func(dev link.Device, addr string, obs *link.Observers) *stack.Stack {
		s, err := stack.New(stack.Config{Device: dev, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, Observers: obs})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	a, b := start(wireA, "10.0.0.1/24", nil), start(wireB, "10.0.0.2/24", obs)
	lis, err := b.Listen("tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	const streams, size = 4, 2 << 20
	block := make([]byte, size)
	for i := range block {
		block[i] = byte(rand.Uint32())
	}
	want := sha256.Sum256(block)
	var work sync.WaitGroup
	for range streams {
		work.Go(func() {
			c, err := lis.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if n, err := io.Copy(c, io.LimitReader(c, size)); n != size || err != nil { // an echo
				t.Errorf("the echo has had %d bytes, %v", n, err)
			}
		})
		work.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
			defer cancel()
			c, err := a.DialContext(ctx, "tcp", "10.0.0.2:80")
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(60 * time.Second))
			var writing sync.WaitGroup
			writing.Go(func() {
				if _, err := c.Write(block); err != nil {
					t.Error(err)
				}
			})
			h := sha256.New()
			if n, err := io.Copy(h, io.LimitReader(c, size)); n != size || err != nil {
				t.Errorf("%d bytes came back, %v", n, err)
			} else if [32]byte(h.Sum(nil)) != want {
				t.Error("what came back is not what was sent")
			}
			writing.Wait()
		})
	}
	over := make(chan struct{})
	go func() { work.Wait(); close(over) }()
	traces, frames := 0, 0
	for done := false; !done || traces < 2; traces++ {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		ended := map[uint64]int{}
		begun := map[uint64]bool{}
		var lost uint64
		err := trace.Run(ctx, trace.Config{Stack: traced{b, b.Account()}}, func(r *trace.Record, _ bool) error {
			if r.Frame != 0 && r.Step != "socket_read" && r.Step != "client_in" {
				begun[r.Frame] = true
			}
			if r.Step == "end" {
				ended[r.Frame]++
			}
			lost += r.Lost
			return nil
		})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		for id := range begun {
			if n := ended[id]; n != 1 && lost == 0 {
				t.Errorf("frame %d ended %d times", id, n)
			}
		}
		frames += len(begun)
		select {
		case <-over:
			done = true
		case <-time.After(5 * time.Millisecond):
		}
	}
	if frames == 0 {
		t.Error("no frame was traced")
	}
	if obs.Watching() != nil {
		t.Error("an observer is left")
	}
	t.Logf("%d traces, %d frames", traces, frames)
}

// TestQueuesDoNotMix: frames of two queues come at once, and each has the verdict of its own.
func TestQueuesDoNotMix(t *testing.T) {
	l := newLab(t, link.PipeConfig{Queues: 2, Depth: 4096}, trace.Config{})
	const each = 500
	other := ether(net.HardwareAddr{2, 7, 7, 7, 7, 7}, 0x0800, make([]byte, 46))
	kinds := []struct {
		frame   []byte
		counter string
	}{
		{arpRequest(netip.MustParseAddr("10.0.0.77")), "arp.requests_received_unknown_target_address"},
		{ipv4{dst: netip.MustParseAddr("10.0.0.99"), proto: 17}.frame(udp(9, 9, nil)), "ip.invalid_destination_addresses_received"},
		{ether(ourMAC, 0x88cc, make([]byte, 46)), "nic.unknown_l3_protocol_rcvd_packet_counts"},
		{flip(ipv4{proto: 17}.frame(udp(9, 9, nil)), 24), "ip.malformed_packets_received"},
		{other, "rx_otherhost"},
	}
	var writers sync.WaitGroup
	for q := range 2 {
		writers.Go(func() {
			for i := range each {
				k := kinds[(i+2*q)%len(kinds)]
				if n, err := l.far.Queues()[q].Write([]link.OutFrame{{Pieces: [][]byte{k.frame}}}); n != 1 || err != nil {
					t.Errorf("queue %d: %d, %v", q, n, err)
				}
			}
		})
	}
	writers.Wait()
	counters := map[string]int{}
	l.until("end of all frames", func() bool {
		clear(counters)
		all := 0
		heads := map[uint64]string{}
		for _, r := range l.records {
			if r.Dir == "in" && len(r.Head) > 0 {
				heads[r.Frame] = string(r.Head)
			}
			if r.Dir == "in" && r.Step == "end" {
				all++
				for _, k := range kinds {
					if heads[r.Frame] == string(k.frame) && r.Counter != k.counter {
						t.Errorf("frame %d: %s, want %s", r.Frame, r.Text, k.counter)
					}
				}
				counters[r.Counter]++
			}
		}
		return all == 2*each
	})
	for _, k := range kinds {
		if counters[k.counter] != 2*each/len(kinds) {
			t.Errorf("%s: %d, want %d", k.counter, counters[k.counter], 2*each/len(kinds))
		}
	}
}
