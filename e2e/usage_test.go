package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Wrong input is answered with one line that says what, on what, and what to do, and
// with exit code 2 for wrong usage and 1 for what did not work.
func TestBadInput(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	dir := scratch(t)
	config := filepath.Join(dir, "ustack.toml")
	writeFile(t, config, "gatway = [\"10.0.0.5\"]\n")
	d := up(t, host, static("tap:tap0")...)
	free := filepath.Join(dir, "free.sock")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"up", "--link", "tup:tap0"}, 2, `tup.*tap`},
		{[]string{"up", "--link", "tap:tap0,quueues=2"}, 2, `quueues.*queues`},
		{[]string{"up", "--link", "tap:a-name-that-is-too-long"}, 2, `a-name-that-is-too-long`},
		{[]string{"up", "--addr", "10.0.0.4"}, 2, `10\.0\.0\.4.*/`},
		{[]string{"up", "--addr", "10.0.0.400/24"}, 2, `10\.0\.0\.400/24`},
		{[]string{"up", "--mtu", "20"}, 2, `20.*68`},
		{[]string{"up", "--mtu", "70000"}, 2, `70000.*65521`},
		{[]string{"up", "--mac", "01:00:00:00:00:01"}, 2, `multicast`},
		{[]string{"up", "--gateway", "192.0.2.9"}, 2, `192\.0\.2\.9`},
		{[]string{"up", "--dns", "example"}, 2, `example`},
		{[]string{"up", "--config", config}, 2, `gatway.*gateway`},
		{[]string{"up", "--config", dir + "/none"}, 2, `none`},
		{[]string{"up", "--sokcet", "x"}, 2, `sokcet.*socket`},
		{[]string{"up", "extra"}, 2, `extra`},
		{[]string{"statsu"}, 2, `statsu.*stat`},
		{[]string{}, 2, `.`},
		{[]string{"up", "--socket", d.sock, "--link", "tap:tap1"}, 1, `(?i)ustack.sock.*pid`},
		{[]string{"up", "--socket", free, "--link", "tap:tap0"}, 1, `tap0`},
		{[]string{"up", "--socket", free, "--link", "tap:tap1", "--uplink", "eth7", "--addr", "10.3.0.4/24", "--host-addr", "10.3.0.5/24"}, 1, `eth7`},
		{[]string{"up", "--socket", free, "--link", "tap:tap1", "--bridge", "br7", "--addr", "10.3.0.4/24"}, 1, `br7`},
		{[]string{"status", "--socket", free}, 1, `free.sock.*ustack up`},
	} {
		r := runIn(t, host, nil, filepath.Join(bin, "ustack"), c.args...)
		name := "ustack " + strings.Join(c.args, " ")
		if r.code != c.code {
			t.Errorf("%s: want exit code %d: %v", name, c.code, r)
		}
		match(t, name, r.stderr, c.want)
		match(t, name, r.stderr, `\Austack: [^\n]*\n\z`)
		if r.stdout != "" {
			t.Errorf("%s: standard output: %q", name, r.stdout)
		}
	}
	d.terminate(t)
}

// Without the capability the message names it, and nothing is left.
func TestNoPermission(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	dir := scratch(t)
	if err := os.Chown(dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	prog := filepath.Join(dir, "ustack")
	copyBinary(t, "ustack", prog)
	script := `mount -t tmpfs -o mode=755 tun /dev/net && mknod -m 666 /dev/net/tun c 10 200 &&
		exec setpriv --reuid 12345 --regid 12345 --clear-groups --bounding-set=-all -- "$0" up --socket "$1"`
	r := runIn(t, host, nil, "unshare", "--mount", "sh", "-c", script, prog, filepath.Join(dir, "x.sock"))
	if r.code != 1 {
		t.Errorf("want exit code 1: %v", r)
	}
	match(t, "message", r.stderr, `(?i)cap_net_admin`)
}

// The control socket of another user: the message names the remedy.
func TestSocketOfAnotherUser(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	prog := filepath.Join(scratch(t), "curl")
	copyBinary(t, "curl", prog)
	r := runIn(t, d.apps, nil, "setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "--",
		prog, "--socket", d.sock, "-sS", "http://"+host4+"/")
	if r.code == 0 {
		t.Errorf("a stranger used the socket: %v", r)
	}
	match(t, "message", r.stderr, `--socket-group`)
	d.terminate(t)
}

// The defaults need no flag, and readiness is one line.
func TestUpWithoutFlags(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	before := hostState2(t, host)
	begin := time.Now()
	d := up(t, host)
	t.Logf("ready after %v: %s", time.Since(begin).Round(time.Millisecond), d.ready)
	match(t, "the ready line", d.ready, `10\.0\.0\.4.*tap0|tap0.*10\.0\.0\.4`)
	kernelPing(t, host, stack4)
	for _, cmd := range []string{"status", "link", "addr", "neigh", "route", "ss", "stats", "version"} {
		d.ok(t, "ustack", cmd)
		out := d.ok(t, "ustack", cmd, "--json")
		if !strings.HasPrefix(out, "{") && !strings.HasPrefix(out, "[") {
			t.Errorf("ustack %s --json: %s", cmd, out)
		}
	}
	d.terminate(t)
	if after := hostState2(t, host); after != before {
		t.Errorf("the host was\n%s\nand is\n%s", before, after)
	}
}

func hostState2(t testing.TB, ns *netlab.NS) string {
	t.Helper()
	return ns.Run(t, "ip", "-o", "link") + ns.Run(t, "ip", "-o", "addr") + ns.Run(t, "nft", "list", "ruleset")
}

// The demo needs nothing, shows the round trip, and leaves nothing.
func TestDemo(t *testing.T) {
	t.Parallel()
	outer := netlab.New(t, "outer")
	before := hostState2(t, outer)
	r := runIn(t, outer, nil, filepath.Join(bin, "ustack"), "demo")
	if r.code != 0 {
		t.Fatalf("demo: %v", r)
	}
	match(t, "demo", r.stdout, `(?i)arp.*www\.baidu\.com.*(200|<html)`)
	if after := hostState2(t, outer); after != before {
		t.Errorf("the demo left\n%s\nwhere there was\n%s", after, before)
	}
}

// An ordinary user sees the same, over the pipe if namespaces are not permitted.
func TestDemoOfOrdinaryUser(t *testing.T) {
	t.Parallel()
	outer := netlab.New(t, "outer")
	prog := filepath.Join(scratch(t), "ustack")
	copyBinary(t, "ustack", prog)
	r := runIn(t, outer, nil, "setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "--no-new-privs",
		"--inh-caps=-all", "--bounding-set=-all", "--", prog, "demo")
	if r.code != 0 {
		t.Fatalf("demo: %v", r)
	}
	match(t, "demo", r.stdout, `(?i)arp.*www\.baidu\.com.*(200|<html)`)
}

// make install brings ustack and what belongs to it, and no curl or ping.
func TestInstall(t *testing.T) {
	t.Parallel()
	dest := scratch(t)
	cmd := exec.Command("make", "-s", "-C", netlab.Root(t), "install", "DESTDIR="+dest, "PREFIX=/usr")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	for _, want := range []string{
		"bin/ustack", "share/man/man1/ustack.1", "share/man/man1/ustack-up.1",
		"share/bash-completion/completions/ustack", "share/zsh/site-functions/_ustack",
		"share/fish/vendor_completions.d/ustack.fish", "lib/systemd/system/ustack.service",
	} {
		if fi, err := os.Stat(filepath.Join(dest, "usr", want)); err != nil || fi.Size() == 0 {
			t.Errorf("%s is missing or empty: %v", want, err)
		}
	}
	unit, err := os.ReadFile(filepath.Join(dest, "usr/lib/systemd/system/ustack.service"))
	if err != nil {
		t.Fatal(err)
	}
	match(t, "the unit", string(unit), `^ExecStart=/usr/bin/ustack up`)
	for _, never := range []string{"bin/curl", "bin/ping"} {
		if _, err := os.Stat(filepath.Join(dest, "usr", never)); err == nil {
			t.Errorf("%s would shadow the system's", never)
		}
	}
}
