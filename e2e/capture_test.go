package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

// A capturing is an ustack capture under way.
type capturing struct {
	*netlab.Proc
	file string // of -w
}

// startCapture runs ustack capture with -w, and waits until it captures.
func startCapture(t testing.TB, d *daemon, args ...string) *capturing {
	t.Helper()
	c := &capturing{file: filepath.Join(scratch(t), "a.pcapng")}
	c.Proc = d.apps.Start(t, filepath.Join(bin, "ustack"), append([]string{"capture", "--socket", d.sock, "-w", c.file}, args...)...)
	c.WaitOutput(t, `capturing on`, 10*time.Second)
	return c
}

// end ends the capture as a terminal's user does, and returns the counts.
func (c *capturing) end(t testing.TB) (captured, dropped int) {
	t.Helper()
	c.Signal(t, os.Interrupt)
	if code := c.Wait(t, 20*time.Second); code != 0 {
		t.Fatalf("exit code %d: %s", code, c.Output())
	}
	return counts(t, c.Output())
}

func counts(t testing.TB, text string) (captured, dropped int) {
	t.Helper()
	m := regexp.MustCompile(`(\d+) packets? captured\n(\d+) packets? dropped by capture\n`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no counts in %q", text)
	}
	captured, _ = strconv.Atoi(m[1])
	dropped, _ = strconv.Atoi(m[2])
	return captured, dropped
}

// tcpdump reads a file, which has to be whole.
func tcpdump(t testing.TB, file string, args ...string) string {
	t.Helper()
	cmd := exec.Command(netlab.Peer(t, "tcpdump"), append([]string{"-Z", "root", "-n", "-r", file}, args...)...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || strings.Contains(errs.String(), "truncated") {
		t.Fatalf("tcpdump: %v: %s", err, errs.String())
	}
	return string(out)
}

func lines(text, expr string) (n int) {
	re := regexp.MustCompile(expr)
	for l := range strings.Lines(text) {
		if re.MatchString(l) {
			n++
		}
	}
	return n
}

// TestCapture captures pings and a transfer to a file, which tcpdump and tshark read, and sees the
// same as lines.
func TestCapture(t *testing.T) {
	netlab.Require(t)
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	watch := d.apps.Start(t, filepath.Join(bin, "ustack"), "capture", "--socket", d.sock, "-n", "-e", "-c", "4", "icmp")
	watch.WaitOutput(t, `capturing on`, 10*time.Second)
	c := startCapture(t, d, "-i", "tap0")
	small := startCapture(t, d, "-s", "64", "icmp", "or", "arp")
	d.ok(t, "ping", "-c", "2", "-i", "0.2", host4)
	if code := watch.Wait(t, 10*time.Second); code != 0 {
		t.Fatalf("exit code %d: %s", code, watch.Output())
	}
	text := watch.Output()
	for _, seq := range []string{"1", "2"} {
		match(t, "the lines", text, `(?m)^\d\d:\d\d:\d\d\.\d{6} [0-9a-f:]{17} > [0-9a-f:]{17}, ethertype IPv4 \(0x0800\), length 98: 10\.0\.0\.4 > 10\.0\.0\.5: ICMP echo request, id \d+, seq `+seq+`, length 64$`)
		match(t, "the lines", text, `10\.0\.0\.5 > 10\.0\.0\.4: ICMP echo reply, id \d+, seq `+seq+`, length 64\n`)
	}
	captured, dropped := c.end(t)
	out := tcpdump(t, c.file, "icmp")
	if captured < 4 || dropped != 0 || lines(out, "ICMP echo request") != 2 || lines(out, "ICMP echo reply") != 2 {
		t.Errorf("%d captured, %d dropped:\n%s", captured, dropped, out)
	}
	if n, _ := small.end(t); n < 4 {
		t.Errorf("%d captured", n)
	}
	match(t, "of 64 bytes each", tcpdump(t, small.file, "-e", "icmp"), `length 98: .*\[\|icmp\]|length 98: .*ICMP echo request`)

	tshark := exec.Command(netlab.Peer(t, "tshark"), "-n", "-r", c.file, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "_ws.col.Info", "icmp")
	fields, err := tshark.Output()
	if err != nil {
		t.Fatalf("tshark: %v", err)
	}
	match(t, "tshark's fields", string(fields), `(?m)^tap0\t(0x0+)?2\t+Echo \(ping\) request .*\n^tap0\t(0x0+)?1\t+Echo \(ping\) reply`)
}

// TestCaptureDropped shows frames that are dropped, with the reason of each: for another station,
// and while the interface is down.
func TestCaptureDropped(t *testing.T) {
	netlab.Require(t)
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	watch := d.apps.Start(t, filepath.Join(bin, "ustack"), "capture", "--socket", d.sock, "-n", "-t", "-c", "2", "dropped")
	watch.WaitOutput(t, `capturing on`, 10*time.Second)
	c := startCapture(t, d)
	inject := host.Injector(t, "tap0")
	frame := append([]byte{2, 0, 0, 0, 0, 0x77, 2, 0, 0, 0, 0, 0x78, 8, 6}, make([]byte, 46)...)
	if err := inject(frame); err != nil {
		t.Fatal(err)
	}
	watch.WaitOutput(t, `\[dropped: rx_otherhost\]`, 10*time.Second)
	host.Down(t, "tap0")
	d.run(t, "ping", "-c", "1", "-W", "1", "10.0.0.77")
	if code := watch.Wait(t, 10*time.Second); code != 0 {
		t.Fatalf("exit code %d: %s", code, watch.Output())
	}
	match(t, "the lines", watch.Output(), `(?m)\[dropped: rx_otherhost\]\n.*\[dropped: tx_down\]\n`)
	c.end(t)
	back := d.ok(t, "ustack", "capture", "-r", c.file, "-n", "-t", "ether", "src", "02:00:00:00:00:78")
	match(t, "the file", back, `\[dropped: rx_otherhost\]`)
	fields, err := exec.Command(netlab.Peer(t, "tshark"), "-n", "-r", c.file, "-T", "fields", "-e", "frame.comment").Output()
	if err != nil {
		t.Fatalf("tshark: %v", err)
	}
	match(t, "tshark's comments", string(fields), `(?s)dropped: rx_otherhost.*dropped: tx_down`)
}

// TestCaptureSuperFrames: what leaves as super-frames is one frame, or with --split those that
// the wire would have.
func TestCaptureSuperFrames(t *testing.T) {
	netlab.Require(t)
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	whole, split := startCapture(t, d, "tcp"), startCapture(t, d, "--split", "tcp")
	l := listenIn(t, host, "tcp", net.JoinHostPort(host4, "7000"))
	const size = 1 << 20
	got := make(chan int64, 1)
	go func() {
		n := int64(-1)
		if c, err := l.Accept(); err == nil {
			n, _ = bufio.NewReader(c).WriteTo(discard{})
			c.Close()
		}
		got <- n
	}()
	cmd := d.apps.Command(filepath.Join(bin, "ustack"), "nc", "-N", host4, "7000")
	cmd.Env = append(os.Environ(), "USTACK_SOCKET="+d.sock)
	cmd.Stdin = bytes.NewReader(make([]byte, size))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nc: %v: %s", err, out)
	}
	if n := <-got; n != size {
		t.Fatalf("%d bytes came", n)
	}
	whole.end(t)
	split.end(t)
	// The default tap has offloads; those of WIRES may not.
	offloads := strings.Contains(d.ok(t, "ustack", "link"), "tso4")
	long := func(c *capturing) int { return lines(tcpdump(t, c.file, "greater", "1515"), "length") }
	if n := long(whole); offloads != (n > 0) {
		t.Errorf("%d super-frames, offloads %v", n, offloads)
	}
	if n := long(split); n > 0 {
		t.Errorf("%d frames are longer than the MTU", n)
	}
	// All checksums are in place, and all bytes there.
	out := tcpdump(t, split.file, "-vv", "src", "host", stack4)
	if n := strings.Count(out, "incorrect"); n > 0 {
		t.Errorf("%d wrong checksums", n)
	}
	sum := 0
	for _, m := range regexp.MustCompile(`(?m)^ +10\.0\.0\.4.*length (\d+)`).FindAllStringSubmatch(out, -1) {
		n, _ := strconv.Atoi(m[1])
		sum += n
	}
	if sum < size {
		t.Errorf("%d bytes in segments, %d were sent", sum, size)
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// TestCapturePipe: another program reads a capture live, by way of ustack capture and of the
// protocol itself; a reader that has enough ends it quietly.
func TestCapturePipe(t *testing.T) {
	netlab.Require(t)
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	shell := func(command string) *netlab.Proc {
		cmd := exec.Command("/bin/sh", "-c", command)
		cmd.Env = append(os.Environ(), "USTACK_SOCKET="+d.sock, "U="+filepath.Join(bin, "ustack"),
			"TCPDUMP="+netlab.Peer(t, "tcpdump"), "TSHARK="+netlab.Peer(t, "tshark"), "CURL="+netlab.Peer(t, "curl"))
		return d.apps.StartCmd(t, cmd)
	}
	live := []*netlab.Proc{
		shell(`"$U" capture -U -w - icmp | "$TCPDUMP" -Z root -n -l -r - -c 2`),
		shell(`"$U" capture -w - icmp | "$TSHARK" -n -l -i - -c 2`),
		shell(`"$CURL" -sN --unix-socket "$USTACK_SOCKET" 'http://ustack/v1/capture?filter=icmp' | "$TCPDUMP" -Z root -n -l -r - -c 2`),
		shell(`"$U" capture -n icmp | head -2`),
	}
	ping := d.apps.Start(t, filepath.Join(bin, "ustack"), "ping", "--socket", d.sock, "-i", "0.2", host4)
	for i, p := range live {
		p.WaitOutput(t, `(?s)(request.*reply|reply.*request)`, 20*time.Second)
		if code := p.Wait(t, 20*time.Second); code != 0 {
			t.Errorf("%d: exit code %d: %s", i, code, p.Output())
		}
		if text := p.Output(); strings.Contains(text, "pipe") && !strings.Contains(text, "named pipe") {
			t.Errorf("%d: %s", i, text)
		}
	}
	ping.Signal(t, os.Interrupt)
	ping.Wait(t, 5*time.Second)
	// Nothing of them is left in the daemon.
	netlab.WaitFor(t, 10*time.Second, "the captures to end", func() bool {
		n := 0
		entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.PID()))
		for _, e := range entries {
			if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", d.PID(), e.Name())); strings.HasPrefix(to, "socket:") {
				n++
			}
		}
		return n <= 2
	})
}

// TestCaptureSlowReader: a reader that stops loses records, which are counted, and holds up
// nobody.
func TestCaptureSlowReader(t *testing.T) {
	netlab.Require(t)
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	c := startCapture(t, d, "-B", "1024")
	c.Signal(t, syscall.SIGSTOP)
	exchangeBytes(t, host, d, 32<<20)
	c.Signal(t, syscall.SIGCONT)
	captured, dropped := c.end(t)
	if captured == 0 || dropped == 0 {
		t.Errorf("%d captured, %d dropped", captured, dropped)
	}
	if n := lines(tcpdump(t, c.file), "^"); n < captured {
		t.Errorf("%d lines of %d frames", n, captured)
	}
}

// exchangeBytes has the stack receive size bytes from the host.
func exchangeBytes(t testing.TB, host *netlab.NS, d *daemon, size int) {
	t.Helper()
	l := listenIn(t, host, "tcp", net.JoinHostPort(host4, "0"))
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Write(make([]byte, size))
			c.Close()
		}
	}()
	conn, err := d.client(t).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(60 * time.Second))
	n, err := bufio.NewReaderSize(conn, 1<<20).WriteTo(discard{})
	if err != nil || n != int64(size) {
		t.Fatalf("%d bytes came, %v", n, err)
	}
}

// TestCaptureDiskFull captures to a file system of 1 MiB: what fits stays readable.
func TestCaptureDiskFull(t *testing.T) {
	netlab.Require(t)
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	dir := scratch(t)
	copied := filepath.Join(scratch(t), "copy")
	cmd := exec.Command("/bin/sh", "-c", `mount -t tmpfs -o size=1m none "$DIR" && "$U" capture -w "$DIR/a"; code=$?; cp "$DIR/a" "$COPY"; exit $code`)
	cmd.Env = append(os.Environ(), "USTACK_SOCKET="+d.sock, "U="+filepath.Join(bin, "ustack"), "DIR="+dir, "COPY="+copied)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	p := d.apps.StartCmd(t, cmd)
	p.WaitOutput(t, `capturing on`, 10*time.Second)
	exchangeBytes(t, host, d, 8<<20)
	if code := p.Wait(t, 20*time.Second); code != 1 {
		t.Errorf("exit code %d", code)
	}
	m := regexp.MustCompile(`ustack: capture: after (\d+) frames, which are whole: write .*: no space left on device\n`).FindStringSubmatch(p.Output())
	if m == nil {
		t.Fatalf("it says %q", p.Output())
	}
	n, _ := strconv.Atoi(m[1])
	if out := tcpdump(t, copied, "-t"); n == 0 || lines(out, `^(IP|ARP)`) != n {
		t.Errorf("%d frames, %d lines: %.300s", n, lines(out, `^(IP|ARP)`), out)
	}
}

// TestCaptureErrors has one clear line for what cannot be.
func TestCaptureErrors(t *testing.T) {
	netlab.Require(t)
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	for args, want := range map[string]string{
		"-i tap7":                       `ustack: no link "tap7" to capture on: there is tap0` + "\n",
		"-i tap7 -w /dev/null":          `ustack: no link "tap7" to capture on: there is tap0` + "\n",
		"-w /proc/no/file":              "ustack: capture: open /proc/no/file: no such file or directory\n",
		"host nobody.at.all.invalid -n": `"nobody.at.all.invalid" at column 6: lookup nobody.at.all.invalid`,
	} {
		r := d.run(t, "ustack", append([]string{"capture"}, strings.Fields(args)...)...)
		if r.code != 1 || !strings.Contains(r.stderr, want) || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("%s: %v\nwant %s", args, r, want)
		}
	}
	// A daemon that ends, ends the capture in good order.
	c := startCapture(t, d)
	d.ok(t, "ping", "-c", "1", host4)
	d.terminate(t)
	if code := c.Wait(t, 5*time.Second); code != 0 {
		t.Errorf("exit code %d: %s", code, c.Output())
	}
	if n, dropped := counts(t, c.Output()); n < 2 || dropped != 0 {
		t.Errorf("%d captured, %d dropped", n, dropped)
	}
	if lines(tcpdump(t, c.file, "icmp"), "echo") != 2 {
		t.Error("the frames are not in the file")
	}
}
