package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// asMain, set in the environment, makes the test binary be ustack.
const asMain = "USTACK_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// ustack returns a command that runs ustack in a process of its own.
func ustack(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	if exe, err := os.Executable(); err == nil {
		cmd.Path = exe
	}
	// The race detector otherwise sleeps a second at the end of every process.
	cmd.Env = append(os.Environ(), asMain+"=1", "NOTIFY_SOCKET=", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// socketDir makes a folder whose path is short enough for a socket.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ustack-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// startUp starts a daemon in a namespace and waits for its ready line.
func startUp(t *testing.T, ns *netlab.NS, args ...string) (p *netlab.Proc, ready string) {
	t.Helper()
	p = ns.StartCmd(t, ustack(append([]string{"up", "--state-dir", t.TempDir()}, args...)...))
	return p, p.FirstLine(t, 20*time.Second)
}

// output runs ustack in a namespace to its end.
func output(t *testing.T, ns *netlab.NS, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := ustack(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	code = ns.StartCmd(t, cmd).Wait(t, 20*time.Second)
	return out.String(), errs.String(), code
}

func TestUp(t *testing.T) {
	t.Parallel()
	ns := netlab.New(t, "host")
	socket := filepath.Join(socketDir(t), "u.sock")
	p, ready := startUp(t, ns, "--socket", socket)
	want := `^ustack: ready on tap0: 10\.0\.0\.4/24, [0-9a-f:]{17}; socket ` + socket + `$`
	if !regexp.MustCompile(want).MatchString(ready) {
		t.Errorf("ready line %q", ready)
	}
	if out, stderr, code := output(t, ns, "ping", "--socket", socket, "-c", "1", "-w", "5", "10.0.0.5"); code != 0 {
		t.Errorf("ping: code %d\n%s%s", code, out, stderr)
	}
	stdout, _, code := output(t, ns, "status", "--socket", socket, "--json")
	var st control.Status
	if err := json.Unmarshal([]byte(stdout), &st); err != nil || code != 0 {
		t.Fatalf("status: %v, code %d\n%s", err, code, stdout)
	}
	if st.PID != p.PID() || len(st.Links) != 2 || st.Links[0].Name != "tap0" || st.Links[0].Spec != "tap:tap0" || st.Links[0].State != "up" {
		t.Errorf("status %+v", st)
	}

	t.Run("change", func(t *testing.T) { changeWhileUp(t, ns, socket) })
	t.Run("socket in use", func(t *testing.T) {
		_, stderr, code := output(t, ns, "up", "--socket", socket, "--link", "tap:tap1")
		if code != exitError || !strings.Contains(stderr, socket) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("code %d, %q", code, stderr)
		}
		if ns.HasLink("tap1") {
			t.Error("the link was opened nevertheless")
		}
	})
	t.Run("tap busy", func(t *testing.T) {
		other := filepath.Join(filepath.Dir(socket), "other.sock")
		_, stderr, code := output(t, ns, "up", "--socket", other)
		if code != exitError || !strings.Contains(stderr, "tap0") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("code %d, %q", code, stderr)
		}
		if _, err := os.Lstat(other); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})

	begin := time.Now()
	p.Signal(t, syscall.SIGTERM)
	if code := p.Wait(t, 5*time.Second); code != 0 {
		t.Errorf("ended with %d after %v:\n%s", code, time.Since(begin), p.Output())
	}
	if ns.HasLink("tap0") {
		t.Error("tap0 is left")
	}
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// changeWhileUp changes addresses, routes and neighbours, and reads them back.
func changeWhileUp(t *testing.T, ns *netlab.NS, socket string) {
	for _, step := range []struct {
		args string
		show string
		has  string
		not  string
	}{
		{"addr add 10.0.7.9/24", "addr", "10.0.7.9/24 static assigned", ""},
		{"addr del 10.0.7.9/24", "addr", "10.0.0.4/24", "10.0.7.9"},
		{"route add 192.0.2.0/24 via 10.0.0.5", "route", "192.0.2.0/24 via 10.0.0.5 dev tap0 proto static", ""},
		{"route del 192.0.2.0/24", "route", "default via 10.0.0.5 dev tap0 proto static", "192.0.2.0"},
		{"neigh add 10.0.0.9 lladdr 02:00:00:00:00:09", "neigh", "10.0.0.9 dev tap0 lladdr 02:00:00:00:00:09 PERMANENT", ""},
		{"neigh del 10.0.0.9", "neigh", "", "10.0.0.9"},
	} {
		_, stderr, code := output(t, ns, append(strings.Fields(step.args), "--socket", socket)...)
		if code != 0 || stderr != "" {
			t.Errorf("%s: code %d, %q", step.args, code, stderr)
		}
		stdout, _, _ := output(t, ns, step.show, "--socket", socket)
		stdout = regexp.MustCompile(` +`).ReplaceAllString(stdout, " ")
		if !strings.Contains(stdout, step.has) || step.not != "" && strings.Contains(stdout, step.not) {
			t.Errorf("after %s:\n%s", step.args, stdout)
		}
	}
	_, stderr, code := output(t, ns, "addr", "del", "10.0.7.9/24", "--socket", socket)
	if code != exitError || !strings.HasPrefix(stderr, "ustack: ") || !strings.Contains(stderr, "10.0.7.9/24") {
		t.Errorf("deleting what is not there: code %d, %q", code, stderr)
	}
}

func TestUpNotifiesSystemd(t *testing.T) {
	t.Parallel()
	ns := netlab.New(t, "host")
	dir := socketDir(t)
	socket, notify := filepath.Join(dir, "u.sock"), filepath.Join(dir, "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	config := filepath.Join(dir, "ustack.toml")
	if err := os.WriteFile(config, []byte("socket = \""+socket+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := ustack("up", "--state-dir", t.TempDir(), "--config", config)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+notify, "USTACK_SOCKET="+socket+".not")
	p := ns.StartCmd(t, cmd)
	message := func() string {
		t.Helper()
		b := make([]byte, 4096)
		manager.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := manager.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	if got := message(); !strings.HasPrefix(got, "READY=1\nSTATUS=ready on tap0: 10.0.0.4/24, ") {
		t.Errorf("ready: %q", got)
	}
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("the socket of the configuration file: %v", err)
	}
	p.Signal(t, syscall.SIGTERM)
	if got := message(); got != "STOPPING=1" {
		t.Errorf("stopping: %q", got)
	}
	if code := p.Wait(t, 5*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestUpEndsWhenTheLinkIsGone(t *testing.T) {
	t.Parallel()
	ns := netlab.New(t, "host")
	socket := filepath.Join(socketDir(t), "u.sock")
	p, _ := startUp(t, ns, "--socket", socket)
	ns.Run(t, "ip", "link", "del", "tap0")
	if code := p.Wait(t, 10*time.Second); code != exitError {
		t.Errorf("exit code %d", code)
	}
	if out := p.Output(); !regexp.MustCompile(`(?m)^ustack: the link tap0 ended: `).MatchString(out) {
		t.Errorf("printed:\n%s", out)
	}
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestUpWarnsOfWhatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	ns := netlab.New(t, "host")
	socket := filepath.Join(socketDir(t), "u.sock")
	p, _ := startUp(t, ns, "--socket", socket, "--gateway", "10.0.0.77", "--dns", "10.0.0.5")
	for _, want := range []string{`gateway 10\.0\.0\.77 is unreachable`, `DNS server 10\.0\.0\.5:53 does not answer`} {
		p.WaitOutput(t, `level=WARN msg="`+want, 15*time.Second)
		stdout, _, _ := output(t, ns, "status", "--socket", socket)
		if !regexp.MustCompile(`(?m)^warning .*` + want).MatchString(stdout) {
			t.Errorf("no warning of %s in\n%s", want, stdout)
		}
	}
}

func TestUpSurvivesAClosedOutput(t *testing.T) {
	t.Parallel()
	ns := netlab.New(t, "host")
	socket := filepath.Join(socketDir(t), "u.sock")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := ustack("up", "--state-dir", t.TempDir(), "--socket", socket, "-v")
	cmd.Stdout, cmd.Stderr = w, w
	p := ns.StartCmd(t, cmd)
	w.Close()
	netlab.WaitFor(t, 10*time.Second, "the daemon", func() bool {
		_, _, code := output(t, ns, "status", "--socket", socket)
		return code == 0
	})
	p.Signal(t, syscall.SIGTERM)
	if code := p.Wait(t, 5*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if ns.HasLink("tap0") {
		t.Error("tap0 is left")
	}
}

// A peer that takes nothing holds up the daemon's end only for the time of the
// drain, and not at all after a second signal.
func TestUpEndsWithAStuckPeer(t *testing.T) {
	for _, tt := range []struct {
		name        string
		signals     int
		least, most time.Duration
	}{{"one signal", 1, time.Second, 5 * time.Second}, {"two signals", 2, 0, time.Second}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ns := netlab.New(t, "host")
			socket := filepath.Join(socketDir(t), "u.sock")
			p, _ := startUp(t, ns, "--socket", socket)
			var lis net.Listener
			ns.Do(t, func() {
				var err error
				if lis, err = net.Listen("tcp4", "10.0.0.5:7"); err != nil {
					t.Fatal(err)
				}
			})
			defer lis.Close()
			client := &control.Client{Path: socket}
			defer client.Close()
			conn, err := client.DialContext(t.Context(), "tcp", "10.0.0.5:7")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			peer, err := lis.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			// Until every buffer on the way is full.
			for err == nil {
				conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				_, err = conn.Write(make([]byte, 1<<20))
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			begin := time.Now()
			for range tt.signals {
				p.Signal(t, syscall.SIGTERM)
				p.WaitOutput(t, `msg=ending`, time.Second)
			}
			code := p.Wait(t, 10*time.Second)
			if took := time.Since(begin); code != 0 || took < tt.least || took > tt.most {
				t.Errorf("ended with %d after %v, want %v to %v:\n%s", code, took, tt.least, tt.most, p.Output())
			}
			if ns.HasLink("tap0") {
				t.Error("tap0 is left")
			}
		})
	}
}
