package e2e

import (
	"errors"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
	"golang.org/x/sys/unix"
)

// exchange moves size bytes each way at once and checks what arrives.
func exchange(t *testing.T, l *lab, d *daemon, family string, size int) {
	t.Helper()
	body := make([]byte, size)
	rand.NewChaCha8([32]byte{2}).Read(body)
	big, sent := filepath.Join(l.dir, "www", "big"), filepath.Join(l.dir, "www", "up", "big")
	got := filepath.Join(l.dir, "got")
	writeFile(t, big, string(body))
	want, _ := hashFile(t, big)
	var wg sync.WaitGroup
	var down, upload result
	wg.Go(func() { down = d.run(t, "curl", family, "-sS", "--max-time", "60", "-o", got, "http://"+web+"/big") })
	wg.Go(func() {
		upload = d.run(t, "curl", family, "-sS", "-f", "--max-time", "60", "-T", big, "http://"+web+"/up/big")
	})
	wg.Wait()
	for _, x := range []struct {
		what, file string
		r          result
	}{{"download", got, down}, {"upload", sent, upload}} {
		if x.r.code != 0 {
			t.Errorf("%s %s: %v", x.what, family, x.r)
		} else if hash, n := hashFile(t, x.file); hash != want {
			t.Errorf("%s %s: %d bytes with another hash", x.what, family, n)
		}
	}
}

// A path that loses every fiftieth segment, each way.
func TestLossyPath(t *testing.T) {
	t.Parallel()
	l := newLab(t, natUplink)
	l.router.Run(t, "nft", `add table inet loss; `+
		`add chain inet loss f { type filter hook forward priority 0; }; `+
		`add rule inet loss f iifname "eth0" meta l4proto tcp numgen inc mod 50 == 0 drop; `+
		`add rule inet loss f iifname "eth1" meta l4proto tcp numgen inc mod 50 == 0 drop`)
	d := up(t, l.host, static("tap:tap0", "--uplink", "eth0")...)
	exchange(t, l, d, "-4", 8<<20)
	exchange(t, l, d, "-6", 8<<20)
	d.terminate(t)
}

// A link with a smaller MTU in the middle of the path: the routers say so by ICMP.
func TestSmallerMTUOnThePath(t *testing.T) {
	t.Parallel()
	l := newLab(t, natUplink)
	l.host.Run(t, "ip", "link", "set", "eth0", "mtu", "1300")
	l.router.Run(t, "ip", "link", "set", "eth0", "mtu", "1300")
	d := up(t, l.host, static("tap:tap0", "--uplink", "eth0")...)
	exchange(t, l, d, "-4", 4<<20)
	exchange(t, l, d, "-6", 4<<20)
	match(t, "a large ping", d.run(t, "ping", "-4", "-c", "1", "-s", "1400", "-W", "5", web).stdout, `From `+host4+`.*Frag needed and DF set \(mtu = 1300\)`)
	match(t, "a large ping", d.run(t, "ping", "-6", "-c", "1", "-s", "1400", "-W", "5", web).stdout, `From `+host6+`.*Packet too big.*mtu.?=.?1300`)
	d.terminate(t)
}

// Whatever comes out of the wire, the daemon lives and answers.
func TestGarbageOnTheWire(t *testing.T) {
	for _, drv := range drivers() {
		t.Run(drv.name, func(t *testing.T) {
			t.Parallel()
			host := netlab.New(t, "host")
			netlab.Peer(t, "ping")
			d := up(t, host, static(drv.spec)...)
			mac, err := net.ParseMAC(stackMAC(t, show[[]control.Link](t, d, "link")))
			if err != nil {
				t.Fatal(err)
			}
			seeds := seedFrames(t, host, d)
			send := host.Injector(t, "tap0")
			rng := rand.New(rand.NewPCG(1, 2))
			const frames = 30_000
			received := func() (n uint64) {
				for _, l := range show[[]control.Link](t, d, "link") {
					if l.Kind == "tap" {
						n = l.RxFrames
					}
				}
				return n
			}
			before := received()
			for i := range frames {
				f := append([]byte(nil), seeds[rng.IntN(len(seeds))]...)
				copy(f, mac)
				for range rng.IntN(8) {
					f[12+rng.IntN(len(f)-12)] = byte(rng.Uint32())
				}
				if rng.IntN(4) == 0 {
					f = f[:14+rng.IntN(len(f)-14+1)]
				}
				if err := send(f); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINVAL) {
					t.Fatalf("frame %d: %v", i, err)
				}
			}
			// The queue of the tap drops what the daemon is too slow for.
			if n := received() - before; n < frames/10 {
				t.Errorf("the daemon saw %d of %d frames", n, frames)
			}
			kernelPing(t, host, stack4)
			// A mutated neighbour message may have changed the entry of the host; it heals.
			netlab.WaitFor(t, 60*time.Second, "the stack to reach the host again", func() bool {
				return d.run(t, "ping", "-c", "1", "-W", "1", host4).code == 0 && d.run(t, "ping", "-c", "1", "-W", "1", host6).code == 0
			})
			d.terminate(t)
		})
	}
}

// seedFrames collects good frames of every kind that the kernel sends to the stack.
func seedFrames(t *testing.T, host *netlab.NS, d *daemon) [][]byte {
	t.Helper()
	c := host.Capture(t, "tap0")
	for _, addr := range []string{stack4, stack6} {
		host.Run(t, "ping", "-c", "1", "-w", "10", "-s", "3000", addr)
		runIn(t, host, nil, netlab.Peer(t, "curl"), "-sS", "--max-time", "5", "http://"+net.JoinHostPort(addr, "9")+"/")
	}
	ln := listenIn(t, host, "tcp", host4+":80")
	go func() {
		if c, err := ln.Accept(); err == nil {
			c.Write(make([]byte, 3000))
			c.Close()
		}
	}()
	d.run(t, "curl", "-sS", "--max-time", "5", "http://"+host4+"/")
	d.run(t, "ping", "-c", "1", "-W", "1", "10.0.0.5")
	c.Stop()
	var seeds [][]byte
	for _, f := range c.Frames() {
		if f.Out && f.Len == len(f.Data) && f.Len <= 1514 {
			seeds = append(seeds, f.Data)
		}
	}
	if len(seeds) < 10 {
		t.Fatalf("only %d frames to begin with", len(seeds))
	}
	return seeds
}
