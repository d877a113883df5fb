package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/trace"
)

// A follower is a running `ustack trace --json`.
type follower struct {
	*netlab.Proc
	d *daemon
}

// follow starts a trace in the daemon's namespace and waits until it has begun.
func follow(t testing.TB, d *daemon, args ...string) *follower {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "ustack"), append([]string{"--socket", d.sock, "trace", "--json"}, args...)...)
	f := &follower{d.ns.StartCmd(t, cmd), d}
	if line := f.FirstLine(t, 20*time.Second); !strings.Contains(line, `"begin"`) {
		t.Fatalf("trace begins with %s", line)
	}
	return f
}

// end ends the trace and returns its steps.
func (f *follower) end(t testing.TB) []trace.Record {
	t.Helper()
	f.Signal(t, syscall.SIGINT)
	if code := f.Wait(t, 10*time.Second); code != 0 {
		t.Fatalf("trace ended with exit code %d:\n%s", code, f.Output())
	}
	var all []trace.Record
	for line := range strings.Lines(f.Output()) {
		var r trace.Record
		if json.Unmarshal([]byte(line), &r) == nil && r.Step != "begin" {
			all = append(all, r)
		}
	}
	return all
}

// wait waits until a line of the trace has all words.
func (f *follower) wait(t testing.TB, words ...string) {
	t.Helper()
	netlab.WaitFor(t, 20*time.Second, fmt.Sprintf("a step with %q", words), func() bool {
		for line := range strings.Lines(f.Output()) {
			has := true
			for _, w := range words {
				has = has && strings.Contains(line, w)
			}
			if has {
				return true
			}
		}
		return false
	})
}

// TestTraceListing is the listing of a ping between an outside host and a guest behind a
// bridge, with the device and the addresses at every hop, both ways.
//
//	 ustack         host              outside
//	┌──────┐   ┌─────────────┐   ┌──────────┐
//	│ .4   ├───┤tap0    port0├───┤out0 .6   │
//	└──────┘   │     br0     │   └──────────┘
//	           └─────────────┘
func TestTraceListing(t *testing.T) {
	t.Parallel()
	host, outside := netlab.New(t, "host"), netlab.New(t, "outside")
	netlab.Veth(t, host, "port0", outside, "out0")
	outside.Addr(t, "out0", "10.0.0.6/24")
	host.Bridge(t, "br0", "port0")
	d := up(t, host, "--link", "tap:tap0", "--bridge", "br0", "--addr", stack4+"/24", "--dns", "10.0.0.6")
	outside.Start(t, "sleep", "60") // a namespace is found by its name or its processes
	kernelPing(t, outside, stack4)  // so that both know each other
	f := follow(t, d, "icmp")
	kernelPing(t, outside, stack4)
	f.wait(t, `"out"`, `"netif_receive_skb"`, `"out0"`)
	steps := f.end(t)

	guest, peer := stackMAC(t, show[[]control.Link](t, d, "link")), outside.MAC(t, "out0").String()
	type hop struct{ side, step, dev string }
	for dir, want := range map[string][]hop{
		"in": {
			{"kernel", "net_dev_queue", "out0"}, {"kernel", "netif_receive_skb", "port0"}, {"kernel", "net_dev_queue", "tap0"},
			{"kernel", "skb_copy_datagram_iovec", "tap0"}, {"user", "read", "tap0"}, {"user", "filter", "tap0"}, {"user", "network", ""}, {"user", "end", "tap0"},
		},
		"out": {
			{"user", "write", "tap0"}, {"kernel", "netif_receive_skb", "tap0"}, {"kernel", "net_dev_queue", "port0"}, {"kernel", "netif_receive_skb", "out0"},
		},
	} {
		src, dst := peer, guest
		if dir == "out" {
			src, dst = guest, peer
		}
		frames := make(map[uint64][]trace.Record)
		for _, r := range steps {
			if r.Dir == dir {
				frames[r.Frame] = append(frames[r.Frame], r)
			}
		}
		if len(frames) < 3 {
			t.Errorf("%s: %d frames of three pings", dir, len(frames))
		}
		for id, list := range frames {
			left, last := want, int64(0)
			for _, r := range list {
				if len(left) > 0 && left[0] == (hop{r.Side, r.Step, r.Dev}) {
					left = left[1:]
				}
				if r.Src != "" && (r.Src != src || r.Dst != dst) {
					t.Errorf("frame %d %s: %s on %s has %s -> %s, want %s -> %s", id, dir, r.Step, r.Dev, r.Src, r.Dst, src, dst)
				}
				if r.Side == "kernel" && r.Src == "" {
					t.Errorf("frame %d %s: %s on %s has no addresses", id, dir, r.Step, r.Dev)
				}
				if r.Time < last {
					t.Errorf("frame %d %s: %s is told of %d ns after what came later", id, dir, r.Step, last-r.Time)
				}
				last = r.Time
			}
			if len(left) > 0 && id != lastFrame(frames) {
				t.Errorf("frame %d %s: %v is missing or out of order in\n%s", id, dir, left[0], listing(list))
			}
		}
	}
	d.terminate(t)
}

// lastFrame is one that the end of a trace may have cut off.
func lastFrame(frames map[uint64][]trace.Record) uint64 {
	var last uint64
	for id := range frames {
		last = max(last, id)
	}
	return last
}

func listing(list []trace.Record) string {
	var b bytes.Buffer
	p := trace.NewPrinter(&b)
	for i := range list {
		p.Print(&list[i])
	}
	return b.String()
}

// TestTraceDrops: frames that are lost at either side of the tap, for causes that are made
// for real.
func TestTraceDrops(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	d.ok(t, "ping", "-c", "1", host4)
	f := follow(t, d)

	// A frame for another station, and ARP for another address.
	mac := host.MAC(t, "tap0")
	inject := host.Injector(t, "tap0")
	frame := append([]byte{2, 7, 7, 7, 7, 7}, mac...)
	if err := inject(append(append(frame, 0x08, 0x00), make([]byte, 46)...)); err != nil {
		t.Fatal(err)
	}
	f.wait(t, `"dropped"`, `"rx_otherhost"`, "02:07:07:07:07:07")
	r := runIn(t, host, nil, netlab.Peer(t, "ping"), "-c", "1", "-W", "1", "10.0.0.77")
	if r.code != 1 {
		t.Errorf("ping to nobody: %v", r)
	}
	f.wait(t, `"arp.requests_received_unknown_target_address"`, "10.0.0.77 is not an address of this stack")

	// Closed ports, by the kernel's own sockets.
	host.Do(t, func() {
		c, err := net.Dial("udp", stack4+":999")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte("x"))
		if c, err := net.DialTimeout("tcp", stack4+":998", 10*time.Second); err == nil {
			c.Close()
			t.Error("a connection to a closed port")
		}
	})
	f.wait(t, `"answered"`, `"udp.unknown_port_errors"`, "ICMP port unreachable")
	f.wait(t, `"answered"`, `"by":"RST"`, "no socket on TCP port 998")

	// What the kernel does not want, is told by the kernel.
	d.ok(t, "ustack", "neigh", "add", host4, "lladdr", "02:00:00:00:00:99")
	d.run(t, "ping", "-c", "1", "-W", "1", host4)
	f.wait(t, `"kfree_skb"`, "OTHERHOST", `"out"`)
	d.ok(t, "ustack", "neigh", "del", host4)

	// The interface is down.
	host.Down(t, "tap0")
	d.run(t, "ping", "-c", "1", "-W", "1", host4)
	f.wait(t, `"dropped"`, `"tx_down"`)
	host.Up(t, "tap0")

	ended := make(map[uint64]int)
	for _, r := range f.end(t) {
		if r.Step == "end" {
			ended[r.Frame]++
		}
		if r.Lost > 0 {
			t.Errorf("%d steps were lost", r.Lost)
		}
	}
	for id, n := range ended {
		if n != 1 {
			t.Errorf("frame %d ended %d times", id, n)
		}
	}
	if links := show[[]control.Link](t, d, "link"); links[0].State != "up" {
		t.Errorf("the link is %s", links[0].State)
	}
	d.terminate(t)
}

// TestTraceProgram: a frame ends at the program that holds its socket, and without rights the
// stack's steps are there alone.
func TestTraceProgram(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0", "--socket-mode", "0666")...)
	p := d.apps.Start(t, filepath.Join(bin, "ustack"), "--socket", d.sock, "nc", "-u", "-l", "7777")
	netlab.WaitFor(t, 10*time.Second, "nc to listen", func() bool { return strings.Contains(d.ok(t, "ustack", "ss"), ":7777") })

	ours := filepath.Join(scratch(t), "ustack")
	copyBinary(t, "ustack", ours)
	dir := filepath.Dir(d.sock)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	plain := d.ns.StartCmd(t, exec.Command("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all",
		ours, "--socket", d.sock, "trace", "udp", "port", "7777"))
	plain.WaitOutput(t, "the kernel's steps are left out", 20*time.Second)
	plain.WaitOutput(t, "following tap0: the stack's steps", 20*time.Second)
	f := follow(t, d, "udp", "port", "7777")
	host.Do(t, func() {
		c, err := net.Dial("udp", stack4+":7777")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte("to a program\n"))
	})
	who := fmt.Sprintf("pid %d (ustack)", p.PID())
	f.wait(t, `"delivered"`, "udp "+stack4+":7777", who)
	f.wait(t, `"client_in"`, who)
	plain.WaitOutput(t, `delivered to udp `+stack4+`:7777 > `+host4+`:\d+, pid \d+ \(ustack\)`, 20*time.Second)
	plain.Signal(t, syscall.SIGINT)
	if code := plain.Wait(t, 10*time.Second); code != 0 {
		t.Errorf("trace without rights ended with exit code %d:\n%s", code, plain.Output())
	}
	f.end(t)
	p.Kill(t)
	d.terminate(t)
}

// TestTraceEndsWithTheDaemon: neither waits for the other.
func TestTraceEndsWithTheDaemon(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	f := follow(t, d)
	d.ok(t, "ping", "-c", "1", host4)
	f.wait(t, `"end"`)
	d.terminate(t)
	if code := f.Wait(t, 10*time.Second); code != 0 {
		t.Errorf("trace ended with exit code %d:\n%s", code, f.Output())
	}
}

func TestTraceUsage(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	for args, want := range map[string]struct {
		code int
		text string
	}{
		"icmp adn udp":        {2, `filter "icmp adn udp": "adn" at column 6`},
		"-c -1":               {2, `-c -1: not a number of frames`},
		"--netns nowhere arp": {1, `--netns nowhere: there is no such namespace`},
	} {
		r := d.run(t, "ustack", append([]string{"trace"}, strings.Fields(args)...)...)
		if r.code != want.code || !strings.Contains(r.stderr, want.text) || strings.Count(r.stderr, "\n") > 2 || r.stdout != "" {
			t.Errorf("trace %s: %v, want code %d and %q", args, r, want.code, want.text)
		}
	}
	d.terminate(t)
	r := d.run(t, "ustack", "trace")
	if r.code != 1 || strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stderr, "ustack: ") {
		t.Errorf("trace without a daemon: %v", r)
	}
}
