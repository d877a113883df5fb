// Package e2e tests the built binaries as their users have them: bin/ustack on a TAP,
// bin/curl and bin/ping through it, and kernel sockets with real programs on the
// other side, in network namespaces that the tests make. See lab_test.go for the
// map.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
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

// bin is the folder of the binaries under test.
var bin string

// stateDir is where the daemons of all tests keep their records, so that none of
// them meets those of the machine.
var stateDir string

func TestMain(m *testing.M) {
	flag.Parse()
	bin = os.Getenv("USTACK_E2E_BIN")
	if bin == "" {
		root, err := filepath.Abs("..")
		if err == nil {
			// Quick when they are up to date.
			cmd := exec.Command("make", "--no-print-directory", "-s", "build")
			cmd.Dir, cmd.Stdout, cmd.Stderr = root, os.Stderr, os.Stderr
			err = cmd.Run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e: build the binaries:", err)
			os.Exit(1)
		}
		bin = filepath.Join(root, "bin")
	}
	var err error
	if stateDir, err = os.MkdirTemp("", "ustack-e2e-state-"); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(stateDir)
	os.Exit(code)
}

// A result is what a command that has ended left.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	const most = 2000
	cut := func(s string) string {
		if len(s) > most {
			return fmt.Sprintf("%s… (%d bytes)", s[:most], len(s))
		}
		return s
	}
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.code, cut(r.stdout), cut(r.stderr))
}

// runIn runs a command in a namespace to its end, which has to come within two
// minutes. It may be called on any goroutine; exit code -1 is a failure of the test.
func runIn(t testing.TB, ns *netlab.NS, env []string, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := ns.Command(name, args...)
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	r := result{stdout.String(), stderr.String(), 0}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		r.code = -1
		t.Errorf("%s %s did not end\n%v", name, strings.Join(args, " "), r)
	case errors.As(err, &exit):
		r.code = netlab.ExitCode(exit.ProcessState)
	case err != nil:
		r.code = -1
		t.Errorf("%s: %v", name, err)
	}
	return r
}

// scratch makes a folder with a path short enough for a unix socket, which other
// users may enter.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ustack-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// copyBinary copies one of our binaries to where everybody may run it. A process of
// its own does so: a descriptor of ours that is open for writing can be inherited
// by a child of another test, and then the copy is "text file busy".
func copyBinary(t testing.TB, name, to string) {
	t.Helper()
	if out, err := exec.Command("install", "-m", "755", filepath.Join(bin, name), to).CombinedOutput(); err != nil {
		t.Fatalf("install %s: %v\n%s", to, err, out)
	}
}

// A daemon is a running `ustack up`.
type daemon struct {
	*netlab.Proc
	ns   *netlab.NS
	sock string
	// apps is an empty namespace in which the programs run that use the stack:
	// whatever they reach, they reach through the daemon.
	apps *netlab.NS
	// ready is the line that says so.
	ready string
}

// up starts a daemon in a namespace and waits until it is ready.
func up(t testing.TB, ns *netlab.NS, args ...string) *daemon {
	t.Helper()
	return upAt(t, ns, filepath.Join(scratch(t), "ustack.sock"), args...)
}

// upAt is up with a given path for the control socket.
func upAt(t testing.TB, ns *netlab.NS, sock string, args ...string) *daemon {
	t.Helper()
	return upCmd(t, ns, exec.Command(filepath.Join(bin, "ustack"), append([]string{"up", "--socket", sock, "--state-dir", stateDir}, withTapOptions(args)...)...), sock)
}

func upCmd(t testing.TB, ns *netlab.NS, cmd *exec.Cmd, sock string) *daemon {
	t.Helper()
	d := &daemon{ns: ns, sock: sock, apps: netlab.New(t, "apps")}
	d.Proc = ns.StartCmd(t, cmd)
	d.ready = d.FirstLine(t, 20*time.Second)
	return d
}

// run runs one of our binaries against the daemon, to its end.
func (d *daemon) run(t testing.TB, name string, args ...string) result {
	t.Helper()
	return runIn(t, d.apps, []string{"USTACK_SOCKET=" + d.sock}, filepath.Join(bin, name), args...)
}

// ok is run for what has to succeed; it returns standard output.
func (d *daemon) ok(t testing.TB, name string, args ...string) string {
	t.Helper()
	r := d.run(t, name, args...)
	if r.code != 0 {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), r)
	}
	return r.stdout
}

// client returns a client of the daemon in the test's own process.
func (d *daemon) client(t testing.TB) *control.Client {
	t.Helper()
	c := &control.Client{Path: d.sock}
	t.Cleanup(func() { c.Close() })
	return c
}

// show decodes the answer of a reading command.
func show[T any](t testing.TB, d *daemon, command string) T {
	t.Helper()
	var v T
	out := d.ok(t, "ustack", command, "--json")
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("ustack %s --json: %v\n%s", command, err, out)
	}
	return v
}

// terminate ends the daemon as systemd does and checks how it ends.
func (d *daemon) terminate(t testing.TB) {
	t.Helper()
	d.Signal(t, syscall.SIGTERM)
	if code := d.Wait(t, 5*time.Second); code != 0 {
		t.Errorf("ustack up ended with exit code %d:\n%s", code, d.Output())
	}
	if _, err := os.Lstat(d.sock); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket file is left: %v", err)
	}
}

// raced reports whether the binaries under test have the race detector, which
// multiplies the memory they take.
func raced() bool { return os.Getenv("USTACK_E2E_RACE") != "" }

// match fails the test unless text matches.
func match(t testing.TB, what, text, expr string) {
	t.Helper()
	if !regexp.MustCompile("(?ms)" + expr).MatchString(text) {
		t.Errorf("%s does not match %q:\n%s", what, expr, text)
	}
}

// kernelPing has the kernel's ping reach addr from ns: three answers within 10 s.
// On a loaded machine answers come late, so that ping sends more than three, and
// the last one is still on its way when it ends; with -W instead of -w it would not
// wait for late ones.
func kernelPing(t testing.TB, ns *netlab.NS, addr string, args ...string) {
	t.Helper()
	args = append([]string{"-c", "3", "-i", "0.05", "-w", "10"}, append(args, addr)...)
	match(t, "ping "+strings.Join(args, " "), ns.Run(t, "ping", args...), ` ([3-9]|\d\d+) received`)
}
