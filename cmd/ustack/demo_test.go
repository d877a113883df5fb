package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ustack/ustack/internal/netlab"
)

// checkScreen holds the output of the demo to one screen with the whole round trip.
func checkScreen(t *testing.T, screen, client string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(screen, "\n"), "\n")
	if len(lines) > 45 {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		if utf8.RuneCountInString(line) > 100 {
			t.Errorf("too long: %s", line)
		}
	}
	want := `(?s)ARP +who has 10\.0\.0\.5\?.*ARP +10\.0\.0\.5 is at .*echo request.*echo reply.*1 received.*` +
		`DNS .* A www\.baidu\.com\?.* A www\.baidu\.com = 203\.0\.113\.80.*SYN.*SYN ACK.*GET / HTTP/1\.1.*200 OK.*FIN.*` +
		`sees you as ` + regexp.QuoteMeta(client)
	if !regexp.MustCompile(want).MatchString(screen) {
		t.Errorf("the screen does not match %s", want)
	}
	if t.Failed() {
		t.Log("\n" + screen)
	}
}

func TestDemoInNamespaces(t *testing.T) {
	t.Parallel()
	ns := netlab.New(t, "outer")
	before := ns.Run(t, "ip", "-o", "addr")
	stdout, stderr, code := output(t, ns, "demo")
	if code != 0 || stderr != "" {
		t.Errorf("code %d\n%s", code, stderr)
	}
	checkScreen(t, stdout, "203.0.113.1")
	if after := ns.Run(t, "ip", "-o", "addr"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestDemoInMemory(t *testing.T) {
	stdout, stderr, code := try(t, "demo", "--memory")
	if code != 0 || stderr != "" {
		t.Errorf("code %d\n%s", code, stderr)
	}
	checkScreen(t, stdout, "10.0.0.4")
	if !strings.Contains(stdout, "--memory asks for it") {
		t.Errorf("the reason is not given:\n%s", stdout)
	}
}

// When nobody reads the screen any more, the demo ends and cleans up.
func TestDemoWithoutAReader(t *testing.T) {
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	cmd := ustack("demo", "--memory")
	cmd.Env = append(cmd.Env, "TMPDIR="+dir)
	cmd.Stdout = w
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != exitError {
		t.Errorf("ended with %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// An ordinary user gets a user namespace where the system permits it, and else the
// reason why not.
func TestDemoAsOrdinaryUser(t *testing.T) {
	netlab.Require(t)
	dir := socketDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	// The test binary may be in a folder that only root can enter.
	program := filepath.Join(dir, "ustack")
	copyFile(t, "/proc/self/exe", program)
	cmd := ustack("demo")
	cmd.Path, cmd.Dir, cmd.Env = program, "/", append(cmd.Env, "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	ended := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	defer ended.Stop()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, out.String(), errs.String())
	}
	client := "203.0.113.1"
	if strings.Contains(out.String(), "wire in memory") {
		client = "10.0.0.4"
	}
	checkScreen(t, out.String(), client)
	if left, err := filepath.Glob(filepath.Join(dir, "ustack-demo-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	r, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, r); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
