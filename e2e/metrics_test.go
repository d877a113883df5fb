package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

// scrape asks for metrics with curl and returns the series by name and labels.
func scrape(t testing.TB, ns *netlab.NS, args ...string) map[string]float64 {
	t.Helper()
	r := runIn(t, ns, nil, netlab.Peer(t, "curl"), append([]string{"-sS", "--fail", "--max-time", "10"}, args...)...)
	if r.code != 0 {
		t.Fatalf("curl %s: %v", strings.Join(args, " "), r)
	}
	all := make(map[string]float64)
	for line := range strings.Lines(r.stdout) {
		name, value, ok := cutLast(strings.TrimSpace(line))
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Errorf("%q: %v", line, err)
		}
		all[name] = v
	}
	return all
}

// cutLast splits at the last blank: labels may hold some.
func cutLast(line string) (name, value string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return line, "", false
	}
	return line[:i], line[i+1:], true
}

// A switch shows its ports on its control socket, although there is no stack.
func TestMetricsOfASwitch(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	sock := filepath.Join(scratch(t), "ustack.sock")
	cmd := exec.Command(filepath.Join(bin, "ustack"), "bridge", "--socket", sock, "--state-dir", stateDir, "--port", "tap:tap0", "--port", "tap:tap1")
	d := upCmd(t, host, cmd, sock)
	unix := []string{"--unix-socket", sock, "http://ustack/metrics"}
	const in, out = `ustack_bridge_port_frames_received_total{port="tap0"}`, `ustack_bridge_port_frames_sent_total{port="tap1"}`
	before := scrape(t, host, unix...)
	if before[`ustack_bridge_port_state{port="tap0",state="forwarding"}`] != 1 {
		t.Errorf("%v", before)
	}
	// A broadcast into one tap comes out of the other.
	host.Addr(t, "tap0", "10.9.0.1/24")
	r := runIn(t, host, nil, netlab.Peer(t, "ping"), "-c", "1", "-W", "1", "10.9.0.2")
	match(t, "ping", r.stdout, "1 packets transmitted")
	after := scrape(t, host, unix...)
	for _, series := range []string{in, out} {
		if after[series] <= before[series] {
			t.Errorf("%s: %v, then %v", series, before[series], after[series])
		}
	}
	for series := range after {
		if strings.HasPrefix(series, "ustack_tcp") || strings.HasPrefix(series, "ustack_link") {
			t.Errorf("%s without a stack", series)
		}
	}
	d.terminate(t)
}

// Prometheus reads the same on the control socket and on TCP, and what it reads is what
// happened: connects by outcome, frames as the kernel counts them, a link that goes down.
func TestMetrics(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0", "--metrics", "127.0.0.1:0")...)
	m := regexp.MustCompile(`; metrics (http://127\.0\.0\.1:\d+/metrics)$`).FindStringSubmatch(d.ready)
	if m == nil {
		t.Fatalf("ready line %q", d.ready)
	}
	tcp := []string{m[1]}
	unix := []string{"--unix-socket", d.sock, "http://ustack/metrics"}

	before := scrape(t, host, unix...)
	echoTCP(t, listenIn(t, host, "tcp", net.JoinHostPort(host4, "7")))
	nc := runIn(t, d.apps, []string{"USTACK_SOCKET=" + d.sock}, filepath.Join(bin, "ustack"), "nc", "-z", host4, "7")
	if nc.code != 0 {
		t.Errorf("nc: %v", nc)
	}
	for range 2 {
		if r := d.run(t, "ustack", "nc", "-z", host4, "8"); r.code == 0 {
			t.Errorf("a port that is closed: %v", r)
		}
	}
	after := scrape(t, host, tcp...)
	connects := func(outcome string) string {
		return fmt.Sprintf(`ustack_tcp_connect_duration_seconds_count{outcome=%q}`, outcome)
	}
	for series, grew := range map[string]float64{
		connects("ok"): 1, connects("refused"): 2, connects("timeout"): 0,
		`ustack_tcp_resets_received_total`:                                            2,
		`ustack_control_requests_total{kind="flow",outcome="ok",request="dial"}`:      1,
		`ustack_control_requests_total{kind="flow",outcome="error",request="dial"}`:   2,
		`ustack_control_requests_total{kind="http",outcome="ok",request="/metrics"}`:  1,
		`ustack_control_requests_total{kind="http",outcome="ok",request="/v1/links"}`: 0,
	} {
		was, ok := before[series]
		if now, is := after[series]; !ok || !is || now-was != grew {
			t.Errorf("%s: %v (%v), then %v (%v); want %v more", series, was, ok, now, is, grew)
		}
	}
	if after["process_open_fds"] < 5 || after["go_goroutines"] < 5 || after["ustack_memory_ceiling_bytes"] < 1<<20 {
		t.Errorf("process: %v", after)
	}
	for series := range before {
		if _, ok := after[series]; !ok && strings.HasPrefix(series, "ustack_") {
			t.Errorf("%s is gone", series)
		}
	}

	// The kernel counts what the stack sent as received on the tap.
	kernel := func() float64 {
		text := host.Run(t, "cat", "/proc/net/dev")
		m := regexp.MustCompile(`(?m)^ *tap0: *\d+ +(\d+) `).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("no tap0 in\n%s", text)
		}
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	sent := func() float64 { return scrape(t, host, unix...)[`ustack_link_frames_sent_total{link="tap0"}`] }
	netlab.WaitFor(t, 10*time.Second, "both to count the same", func() bool { return kernel() == sent() })

	up := `ustack_link_up{link="tap0"}`
	if after[up] != 1 {
		t.Errorf("%s %v", up, after[up])
	}
	host.Run(t, "ip", "link", "set", "tap0", "down")
	down := scrape(t, host, tcp...)
	if down[up] != 0 {
		t.Errorf("brought down: %s %v", up, down[up])
	}
	const lost = `ustack_link_frames_dropped_total{link="tap0",reason="tx_down"}`
	d.run(t, "ustack", "ping", "-c", "1", "-W", "1", host4)
	if now := scrape(t, host, tcp...); now[lost] <= down[lost] {
		t.Errorf("%s %v, then %v", lost, down[lost], now[lost])
	}

	// On TCP there is nothing else.
	for _, path := range []string{"/", "/v1/status", "/v1/addrs"} {
		url := strings.TrimSuffix(m[1], "/metrics") + path
		if r := runIn(t, host, nil, netlab.Peer(t, "curl"), "-s", "-o", os.DevNull, "-w", "%{http_code}", url); r.stdout != "404" {
			t.Errorf("%s: %v", url, r)
		}
	}
	r := runIn(t, host, nil, netlab.Peer(t, "curl"), "-sS", "-D", "-", "-H", "Accept: application/openmetrics-text", unix[0], unix[1], unix[2])
	match(t, "OpenMetrics", r.stdout, `(?i)^content-type: application/openmetrics-text;.*# EOF\n\z`)
	r = runIn(t, host, nil, netlab.Peer(t, "curl"), "-sS", "--compressed", "-D", "-", unix[0], unix[1], unix[2])
	match(t, "compressed", r.stdout, `(?i)^content-encoding: .*ustack_link_up`)

	// A port that is taken is an error before the link is touched.
	address := strings.TrimSuffix(strings.TrimPrefix(m[1], "http://"), "/metrics")
	r = runIn(t, host, nil, filepath.Join(bin, "ustack"), "up", "--socket", filepath.Join(scratch(t), "s"), "--link", "tap:tap1", "--metrics", address)
	if r.code != 1 || host.HasLink("tap1") {
		t.Errorf("a port in use: tap1 %v, %v", host.HasLink("tap1"), r)
	}
	match(t, "a port in use", r.stderr, `\Austack: metrics on `+regexp.QuoteMeta(address)+`: .*address already in use: another program [^\n]*\n\z`)

	d.terminate(t)
	if c, err := dialIn(t, host, "tcp", address); err == nil {
		c.Close()
		t.Error("the port is open after the end")
	}
}
