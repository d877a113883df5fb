package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// head is the top of RESULTS.md: what was measured where, and how to repeat it.
func head(root string, took time.Duration) string {
	var b strings.Builder
	b.WriteString("# Results\n\nWritten by `make bench`. ")
	b.WriteString("Absolute figures drift with the machine; only ratios within one run count.\n\n")
	var u unix.Utsname
	unix.Uname(&u)
	release, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-") // without whose build it is
	fmt.Fprintf(&b, "- %s, %d processors; Linux %s %s; %s\n", cpuModel(), runtime.NumCPU(),
		release, unix.ByteSliceToString(u.Machine[:]), runtime.Version())
	fmt.Fprintf(&b, "- ustack %s; %s, in %.0f s\n", commit(root), time.Now().UTC().Format("2006-01-02 15:04 UTC"), took.Seconds())
	b.WriteString("- MTU 1500. Congestion control: the kernel's sockets, peers' included, reno; ustack and naive netstack's default, reno\n")
	b.WriteString("- To repeat: `make bench` as root; `go run ./bench -only REGEXP` does single rows, `-list` names them\n")
	return b.String()
}

// remarks say how to read the table.
func remarks() []string {
	var all []string
	for _, s := range []string{vethOn, vethOff, native, daemon, underRun, water, pasta, slirp, naiveTap, kernelReno, kernelCubic, nativeCeiling} {
		all = append(all, fmt.Sprintf("%s: %s.", s, about[s]))
	}
	return append(all,
		"\"To\" and \"from\" are as the stack sees it. The kernel's side always dials; the receiver counts, from its first byte on. Writes are of 128 KiB where nothing else is said.",
		"The payload of every stream row was verified once by each subject, outside the timed rounds (SHA-256 over all bytes).",
		"Processors are not pinned, except for round trips: there the kernel's side runs on processor 0 and everything of the stack's side on processor 1, each Go program with GOMAXPROCS 1.",
		"Processor time is of whole processes, by their CPU clocks; the stack's side is application and stack (daemon, pasta … included). With veth, much of the receiver's work is done in the sender's time, so that only both sides together compare.",
		"Impaired links: the delay is that of a round trip, loss is of frames each way; the queue before the link holds twice what fills it, and 100 frames; goodput from the first byte on, slow start included; without offloads on either side. In a round all subjects meet the same accidents, in each round others: each has a new link for it, with the round's number as the seed. All subjects, and several rounds, are measured at the same time, but at 40 ms without loss and at 1 ms with 0.1 %.",
		"Why reno, SACK and a retransmission timeout of at least 100 ms: `go run ./bench -only grid` measures the alternatives; bench/profiles/loss-grid.txt is what it printed.",
		"Programs (iperf3, curl, true, connections made by a program): what runs on the stack dials, a server of the kernel's answers: beside a veth or beside the daemon's tap; with pasta the program is in its namespace. \"To\" is iperf3's -R; the rate is what its receiver tells. Calls are what the closing summary of `ustack run -v` counts. The start of `true` is the difference of medians, both by turns.",
		"Switches: the 64-byte frames have QEMU's framing, 32 to a write; what arrives is counted, and none is lost on purpose: the peer's switch waits for a socket without room, ours drops. The way through the switch alone is measured with ports that make frames and forget them.",
		"Captures: `ustack capture -w FILE -C 200 -W 2`, which shares the processors with both sides of the stream; just before, the same stream without it. A super-frame counts as one frame.",
		"While nobody watches, a frame costs one atomic load more for link.Observers and one a call for captures, and no allocation: benchstat finds no difference to a commit without them, bench/observers.txt.",
		"Connections: the kernel's side dials, the server writes a byte and closes first, so that TIME-WAIT is the stack's; local ports 32768 to 60999.",
	)
}

// commit names what is checked out.
func commit(root string) string {
	git := exec.Command("git", "describe", "--tags", "--always", "--dirty")
	git.Dir = root
	out, err := git.Output()
	if err != nil {
		return "of an unknown commit"
	}
	return strings.TrimSpace(string(out))
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
