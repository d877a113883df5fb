package hostnet

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/ustack/ustack/internal/netlab"
)

// childEnv holds the childConfig of a test binary that is to be a daemon.
const childEnv = "HOSTNET_TEST_CHILD"

type childConfig struct {
	Config
	// UID to become, 0 to remain root.
	UID int
}

func TestMain(m *testing.M) {
	if s := os.Getenv(childEnv); s != "" {
		os.Exit(childMain(s))
	}
	os.Exit(m.Run())
}

// childMain sets up, reports in one JSON line, and undoes at the end of standard
// input.
func childMain(s string) int {
	var cc childConfig
	if err := json.Unmarshal([]byte(s), &cc); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if cc.UID != 0 {
		if err := syscall.Setgroups(nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		if err := syscall.Setgid(cc.UID); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		if err := syscall.Setuid(cc.UID); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	}
	var rep childReport
	h, err := Setup(cc.Config)
	if err != nil {
		rep.Err = err.Error()
	} else {
		rep.Warnings, rep.Changes = h.Warnings(), h.Changes()
	}
	json.NewEncoder(os.Stdout).Encode(rep)
	if err != nil {
		return 1
	}
	io.Copy(io.Discard, os.Stdin)
	if err := h.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

type childReport struct {
	Err               string
	Warnings, Changes []string
}

// A child is a daemon in a process of its own.
type child struct {
	childReport
	cmd   *exec.Cmd
	stdin io.Closer
}

func startChild(t *testing.T, ns *netlab.NS, cc childConfig) *child {
	t.Helper()
	b, err := json.Marshal(cc)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: ns.Command(exe)}
	// The race detector would sleep for a second at the child's exit.
	c.cmd.Env = append(os.Environ(), childEnv+"="+string(b), "GORACE=atexit_sleep_ms=0")
	c.cmd.Stderr = os.Stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.kill() })
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &c.childReport)
	}
	if err != nil {
		t.Fatalf("the child says %q: %v", line, err)
	}
	return c
}

func (c *child) kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// end lets the child undo and waits for it.
func (c *child) end(t *testing.T) {
	t.Helper()
	c.stdin.Close()
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("the child: %v", err)
	}
}

// snapshot is the state of a namespace that Setup may change, one fact a line.
func snapshot(t *testing.T, ns *netlab.NS) []string {
	t.Helper()
	var out []string
	ns.Do(t, func() {
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			a := l.Attrs()
			out = append(out, fmt.Sprintf("link %s up=%v mtu=%d master=%d", a.Name, a.RawFlags&1, a.MTU, a.MasterIndex))
			addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
			if err != nil {
				t.Fatal(err)
			}
			for _, ad := range addrs {
				out = append(out, fmt.Sprintf("addr %s %s", a.Name, ad.IPNet))
			}
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			out = append(out, "route "+r.String())
		}
		for _, family := range []string{"ipv4", "ipv6"} {
			root := filepath.Join("/proc/sys/net", family)
			filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() || !strings.Contains(path, "/conf/") && filepath.Base(path) != "ip_forward" {
					return nil
				}
				if b, err := os.ReadFile(path); err == nil {
					out = append(out, path+"="+strings.TrimSpace(string(b)))
				}
				return nil
			})
		}
	})
	// Link-local addresses and multicast routes come by themselves in their time.
	out = slices.DeleteFunc(out, func(l string) bool { return strings.Contains(l, "fe80:") || strings.Contains(l, "ff00::") })
	out = append(out, tables(t, ns)...)
	slices.Sort(out)
	return out
}

// tables lists the chains and number of rules of every nftables table.
func tables(t *testing.T, ns *netlab.NS) []string {
	t.Helper()
	var out []string
	ns.Do(t, func() {
		conn, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		tabs, err := conn.ListTables()
		if err != nil {
			t.Fatal(err)
		}
		for _, tab := range tabs {
			out = append(out, fmt.Sprintf("table %s flags=%d", tab.Name, tab.Flags))
		}
		chains, err := conn.ListChains()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range chains {
			rules, err := conn.GetRules(c.Table, c)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("chain %s %s rules=%d", c.Table.Name, c.Name, len(rules)))
		}
	})
	return out
}

// sameState fails the test with what differs between two snapshots.
func sameState(t *testing.T, before, after []string) {
	t.Helper()
	for _, l := range before {
		if !slices.Contains(after, l) {
			t.Errorf("lost: %s", l)
		}
	}
	for _, l := range after {
		if !slices.Contains(before, l) {
			t.Errorf("left: %s", l)
		}
	}
}

func setupIn(t *testing.T, ns *netlab.NS, cfg Config) (h *Host, err error) {
	t.Helper()
	ns.Do(t, func() { h, err = Setup(cfg) })
	if h != nil {
		t.Cleanup(func() { h.Close() })
	}
	return h, err
}

func mustSetup(t *testing.T, ns *netlab.NS, cfg Config) *Host {
	t.Helper()
	h, err := setupIn(t, ns, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func mustClose(t *testing.T, h *Host) {
	t.Helper()
	if err := h.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// journals lists what is in a state directory besides the lock.
func journals(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if e.Name() != "lock" {
			out = append(out, e.Name())
		}
	}
	return out
}

// stateDirOf makes a directory that uid can use as StateDir.
func stateDirOf(t *testing.T, uid int) string {
	t.Helper()
	// Not t.TempDir: no other user passes its parent.
	dir, err := os.MkdirTemp("", "hostnet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Fatal(err)
	}
	return dir
}

func onlyOne(t *testing.T, warnings []string, parts ...string) {
	t.Helper()
	if len(warnings) != 1 {
		t.Fatalf("%d warnings, want 1: %q", len(warnings), warnings)
	}
	containsAll(t, warnings[0], parts...)
}

func containsAll(t *testing.T, s string, parts ...string) {
	t.Helper()
	if strings.Contains(s, "\n") {
		t.Errorf("more than one line: %q", s)
	}
	for _, p := range parts {
		if !strings.Contains(s, p) {
			t.Errorf("%q does not say %q", s, p)
		}
	}
}

func mkfifo(path string) error { return syscall.Mkfifo(path, 0o600) }
