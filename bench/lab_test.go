package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

// The lab starts this program again: here, the test binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == roleArg {
		os.Exit(runRole(os.Args[2:], os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

func testLab(t *testing.T) *lab {
	t.Helper()
	netlab.Require(t)
	root, err := checkout()
	if err != nil {
		t.Fatal(err)
	}
	return &lab{peers: filepath.Join(root, ".cache", "peers", "bin"), dir: t.TempDir()}
}

// Every subject does every job: what was sent arrives, and nothing is left behind.
func TestSubjects(t *testing.T) {
	l := testLab(t)
	jobs := []job{
		{Do: "stream", Write: 128 << 10, Total: 2 << 20, Time: 20 * time.Second},
		{Do: "stream", Write: 1 << 10, Total: 1 << 20, Time: 20 * time.Second, From: true, Streams: 2},
		{Do: "stream", Write: 16 << 10, Time: 10 * time.Millisecond},
		{Do: "stream", Write: 16 << 10, Time: 10 * time.Millisecond, From: true},
		{Do: "echo", Time: 10 * time.Millisecond},
		{Do: "connects", Time: 10 * time.Second, Count: 50, Parallel: 4},
		{Do: "push", Time: 10 * time.Millisecond},
		{Do: "pull", Time: 10 * time.Millisecond},
		{Do: "hold", Count: 20, Parallel: 4, Time: 10 * time.Second},
		{Do: "cycle", Count: 100, Parallel: 4, Time: 10 * time.Second},
		{Do: "release"},
	}
	for _, subject := range []string{vethOn, vethOff, native, daemon, underRun, water, pasta, slirp, naiveTap} {
		t.Run(subject, func(t *testing.T) {
			switch subject {
			case pasta, slirp:
				netlab.Peer(t, subject)
			case daemon, underRun:
				l.ustack = filepath.Join(t.TempDir(), "ustack")
				if out, err := exec.Command("go", "build", "-o", l.ustack, "../cmd/ustack").CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			in, err := l.make(t.Context(), subject, true, "")
			if err != nil {
				t.Fatal(err)
			}
			defer in.close()
			for _, j := range jobs {
				j.Addr = in.addr
				r, err := in.dial.do(t.Context(), j)
				switch {
				case err != nil:
					t.Fatalf("%+v: %v", j, err)
				case j.Do == "stream" && (r.Bytes < j.Total || r.Bytes == 0),
					j.Do == "echo" && (r.Count == 0 || r.P50 == 0 || r.P99 < r.P50),
					j.Do == "pull" && (r.Count == 0 || r.Sent < r.Count),
					j.Do == "push" && r.Sent == 0,
					j.Do == "hold" && r.Count != j.Count,
					j.Do == "cycle" && r.Count != j.Count:
					t.Errorf("%+v: %+v", j, r)
				case j.Do == "connects" && r.Count+r.Errors != j.Count:
					t.Errorf("%+v: %+v", j, r)
				}
			}
			if r, err := in.serve.do(t.Context(), job{Do: "packets"}); err != nil || r.Count == 0 {
				t.Errorf("datagrams that arrived: %+v, %v", r, err)
			}
			if cpu, err := in.allTime(); err != nil || cpu <= 0 {
				t.Errorf("processor time %v, %v", cpu, err)
			}
			if n, err := in.stackRSS(); err != nil || n < 1<<20 {
				t.Errorf("memory %d, %v", n, err)
			}
		})
	}
	if left, err := os.ReadDir(l.dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// The kernel's and the stack's impaired links lose nothing that TCP does not repair.
func TestImpairedLinks(t *testing.T) {
	l := testLab(t)
	p := path{rate: 1000, rtt: 2 * time.Millisecond, loss: 1}
	for _, subject := range []string{kernelCubic, native, nativeRACK, nativeCubicRACK, nativeCeiling} {
		in, err := l.make(t.Context(), subject, false, p.options())
		if err != nil {
			t.Fatal(err)
		}
		j := job{Do: "stream", Addr: in.addr, Write: 64 << 10, Total: 512 << 10, Time: 20 * time.Second, From: true}
		if subject == kernelCubic {
			j.Congestion = "cubic"
		}
		if r, err := in.dial.do(t.Context(), j); err != nil || r.Bytes != j.Total {
			t.Errorf("%s: %+v, %v", subject, r, err)
		}
		r, err := in.serve.do(t.Context(), job{Do: "counters"})
		if c := r.Counters; err != nil || c["retransmits"]+c["TcpRetransSegs"] == 0 {
			t.Errorf("%s: %v, %v", subject, c, err)
		}
		in.close()
	}
}

func TestInterruptEndsARow(t *testing.T) {
	l := testLab(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	r := newRunner(l, quickRun, os.Stderr)
	defer r.close()
	w := echoRow(quickRun, "x", "x", []string{vethOn}, nil, nil)
	run := w.run
	w.run = func(ctx context.Context, in *instance) (map[string]float64, error) {
		cancel(os.ErrProcessDone)
		return run(ctx, in)
	}
	if _, err := r.row(ctx, w); err != os.ErrProcessDone {
		t.Errorf("the row ends with %v", err)
	}
}

// Every switch passes what it is measured with.
func TestSwitches(t *testing.T) {
	l := testLab(t)
	root, err := checkout()
	if err != nil {
		t.Fatal(err)
	}
	l.ustack = filepath.Join(t.TempDir(), "ustack")
	if out, err := exec.Command("go", "build", "-o", l.ustack, "../cmd/ustack").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// Its module may be out of reach.
	l.vsock = buildVsock(t.Context(), root, t.TempDir(), t.Output())
	for subject, jobs := range map[string][]job{
		linuxBridge:   {{Do: "stream", Write: 128 << 10, Total: 2 << 20, Time: 20 * time.Second}},
		ustackBridge:  {{Do: "stream", Write: 128 << 10, Total: 2 << 20, Time: 20 * time.Second}},
		bridgeDrained: {{Do: "echo", Time: 10 * time.Millisecond}},
		bridgeStalled: {{Do: "echo", Time: 10 * time.Millisecond}},
		ustackFrames:  {{Do: "frames", Time: 10 * time.Millisecond}, {Do: "frames", Time: 10 * time.Millisecond}},
		vsockFrames:   {{Do: "frames", Time: 10 * time.Millisecond}, {Do: "frames", Time: 10 * time.Millisecond}},
		lookupFew:     {{Do: "lookup", Time: 10 * time.Millisecond}, {Do: "lookup", Time: 10 * time.Millisecond}},
		lookupAll:     {{Do: "lookup", Time: 10 * time.Millisecond}},
	} {
		t.Run(subject, func(t *testing.T) {
			in, err := l.make(t.Context(), subject, false, "")
			if errors.Is(err, errMissing) {
				t.Log(err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer in.close()
			for _, j := range jobs {
				p := in.dial
				if p == nil {
					p = in.serve
				}
				j.Addr = in.addr
				res, err := p.do(t.Context(), j)
				if err != nil {
					t.Fatalf("%s: %v", j.Do, err)
				}
				if res.Bytes+uint64(res.Count) == 0 {
					t.Errorf("%s: nothing passed: %+v", j.Do, res)
				}
			}
		})
	}
}
