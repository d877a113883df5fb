package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ustack/ustack/internal/netlab"
)

// nobody is a user without any capability. It needs no entry in a user database.
const nobody = 65534

// A daemon without capabilities runs on a tap prepared for its user.
func TestUnprivilegedPrepared(t *testing.T) {
	ns := newHost(t)
	ns.Addr(t, "tap0", "10.0.0.5/24")
	ns.Up(t, "tap0")
	before := snapshot(t, ns)
	dir := stateDirOf(t, nobody)
	for _, cfg := range []Config{
		{Addrs: prefixes("10.0.0.5/24")},
		{Addrs: prefixes("10.0.0.5/24"), Explicit: true, MTU: 1500},
		{StateDir: "/nonexistent/ustack"},
	} {
		cfg.Tap = "tap0"
		if cfg.StateDir == "" {
			cfg.StateDir = dir
		}
		c := startChild(t, ns, childConfig{Config: cfg, UID: nobody})
		if c.Err != "" || len(c.Warnings) > 0 || len(c.Changes) > 0 {
			t.Errorf("%+v: %+v", cfg, c.childReport)
		}
		c.end(t)
	}
	sameState(t, before, snapshot(t, ns))
	if left := journals(t, dir); len(left) > 0 {
		t.Errorf("journals: %q", left)
	}
}

// Without the privilege for what is missing, it says what to run as root.
func TestUnprivilegedLacking(t *testing.T) {
	ns := newHost(t)
	ns.Tap(t, "tap1", nobody)
	ns.Up(t, "tap1")
	ns.Bridge(t, "br0")
	before := snapshot(t, ns)
	dir := stateDirOf(t, nobody)
	for _, tt := range []struct {
		name string
		cfg  Config
		want []string
	}{
		{"down", Config{Tap: "tap0"}, []string{"bring up tap0", "CAP_NET_ADMIN", "ip link set tap0 up"}},
		{"address", Config{Tap: "tap1", Addrs: prefixes("10.0.0.5/24"), Explicit: true}, []string{"CAP_NET_ADMIN", "ip addr add 10.0.0.5/24 dev tap1"}},
		{"MTU", Config{Tap: "tap1", MTU: 9000}, []string{"CAP_NET_ADMIN", "ip link set tap1 mtu 9000"}},
		{"bridge", Config{Tap: "tap1", Bridge: "br0"}, []string{"CAP_NET_ADMIN", "ip link set tap1 master br0"}},
		{"uplink", Config{Tap: "tap1", Uplink: "up0", Networks: prefixes("203.0.113.0/24")}, []string{"CAP_NET_ADMIN", "sysctl -w net.ipv4.ip_forward=1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.StateDir = dir
			c := startChild(t, ns, childConfig{Config: tt.cfg, UID: nobody})
			containsAll(t, c.Err, tt.want...)
		})
	}
	t.Run("masquerade", func(t *testing.T) {
		ns.Sysctl(t, "net.ipv4.ip_forward", "1")
		defer ns.Sysctl(t, "net.ipv4.ip_forward", "0")
		cfg := Config{Tap: "tap1", Uplink: "up0", Networks: prefixes("203.0.113.0/24"), StateDir: dir}
		c := startChild(t, ns, childConfig{Config: cfg, UID: nobody})
		containsAll(t, c.Err, "masquerade", "CAP_NET_ADMIN", "nft add rule")
	})
	t.Run("default address", func(t *testing.T) {
		cfg := Config{Tap: "tap1", Addrs: prefixes("10.0.0.5/24"), StateDir: dir}
		c := startChild(t, ns, childConfig{Config: cfg, UID: nobody})
		if c.Err != "" {
			t.Fatal(c.Err)
		}
		onlyOne(t, c.Warnings, "10.0.0.5/24", "CAP_NET_ADMIN", "ip addr add 10.0.0.5/24 dev tap1")
		c.end(t)
	})
	sameState(t, before, snapshot(t, ns))
	if left := journals(t, dir); len(left) > 0 {
		t.Errorf("journals: %q", left)
	}
}

// What a killed daemon left is undone by the next, whichever tap that is for.
func TestKilled(t *testing.T) {
	ns := newHost(t)
	ns.Tap(t, "tap1", 0)
	ns.Sysctl(t, "net.ipv6.conf.up0.accept_ra", "1")
	before := snapshot(t, ns)
	dir := stateDirOf(t, 0)
	cfg := Config{
		Tap: "tap0", MTU: 1400, Addrs: prefixes("10.0.0.5/24", "fd00::5/64"), StateDir: dir,
		Uplink: "up0", Networks: prefixes("10.0.0.4/24", "fd00::4/64", "10.9.0.0/16"),
	}
	c := startChild(t, ns, childConfig{Config: cfg})
	if c.Err != "" || len(c.Changes) < 8 {
		t.Fatalf("%+v", c.childReport)
	}
	during := snapshot(t, ns)
	c.kill()

	// The table goes with its process.
	if got := tables(t, ns); len(got) > 0 {
		t.Errorf("tables outlive their process: %q", got)
	}
	left := journals(t, dir)
	if len(left) != 1 {
		t.Fatalf("journals: %q", left)
	}

	// A daemon in another namespace leaves it alone.
	elsewhere := netlab.New(t, "elsewhere")
	elsewhere.Tap(t, "tap0", 0)
	h := mustSetup(t, elsewhere, Config{Tap: "tap0", StateDir: dir})
	if got := journals(t, dir); !slices.Contains(got, left[0]) {
		t.Errorf("journal of another namespace is gone: %q", got)
	}
	mustClose(t, h)

	// The same daemon again finds no leftover in its way.
	c = startChild(t, ns, childConfig{Config: cfg})
	if c.Err != "" || len(c.Warnings) > 0 {
		t.Fatalf("%+v", c.childReport)
	}
	sameState(t, during, snapshot(t, ns))
	c.kill()

	h = mustSetup(t, ns, Config{Tap: "tap1", StateDir: dir})
	if w := h.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
	mustClose(t, h)
	sameState(t, before, snapshot(t, ns))
	if left := journals(t, dir); len(left) > 0 {
		t.Errorf("journals left: %q", left)
	}
}

// A killed daemon's changes to a tap that another process has open by now stay.
func TestKilledInUse(t *testing.T) {
	ns := newHost(t)
	ns.Tap(t, "tap1", 0)
	ns.Up(t, "tap1")
	dir := stateDirOf(t, 0)
	c := startChild(t, ns, childConfig{Config: Config{Tap: "tap0", StateDir: dir}})
	c.kill()
	var err error
	var fds []*os.File
	ns.Do(t, func() {
		tap := &netlink.Tuntap{
			LinkAttrs: netlink.LinkAttrs{Name: "tap0"}, Mode: netlink.TUNTAP_MODE_TAP,
			Flags: netlink.TUNTAP_NO_PI, NonPersist: true, Queues: 1,
		}
		err = netlink.LinkAdd(tap)
		fds = tap.Fds
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, f := range fds {
			f.Close()
		}
	}()
	h := mustSetup(t, ns, Config{Tap: "tap1", StateDir: dir})
	if ns.Link(t, "tap0").Attrs().Flags&net.FlagUp == 0 {
		t.Error("a tap in use was brought down")
	}
	mustClose(t, h)
	if left := journals(t, dir); len(left) != 1 {
		t.Errorf("journals: %q", left)
	}
}

// Forwarding lasts as long as somebody needs it, in whatever order they come and
// go, and then is what it was before the first.
func TestSharedForwarding(t *testing.T) {
	for _, end := range []string{"first in, first out", "last in, first out", "first is killed"} {
		t.Run(end, func(t *testing.T) {
			ns := newHost(t)
			ns.Tap(t, "tap1", 0)
			ns.Sysctl(t, "net.ipv4.conf.all.accept_redirects", "0")
			ns.Sysctl(t, "net.ipv6.conf.up0.accept_ra", "1")
			before := snapshot(t, ns)
			dir := stateDirOf(t, 0)
			forward := func(want string) {
				t.Helper()
				for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
					if got := ns.SysctlValue(t, key); got != want {
						t.Errorf("%s = %s, want %s", key, got, want)
					}
				}
			}
			forward("0")
			a := startChild(t, ns, childConfig{Config: Config{
				Tap: "tap0", StateDir: dir, Addrs: prefixes("10.0.0.5/24"), Uplink: "up0", Networks: prefixes("10.0.0.4/24", "fd00::4/64"),
			}})
			b := startChild(t, ns, childConfig{Config: Config{
				Tap: "tap1", StateDir: dir, Addrs: prefixes("10.0.1.5/24"), Uplink: "up0", Networks: prefixes("10.0.1.4/24", "fd01::4/64"),
			}})
			if a.Err+b.Err != "" || len(a.Warnings)+len(b.Warnings) > 0 {
				t.Fatalf("%+v %+v", a.childReport, b.childReport)
			}
			forward("1")
			switch end {
			case "first in, first out":
				a.end(t)
				forward("1")
				b.end(t)
			case "last in, first out":
				b.end(t)
				forward("1")
				a.end(t)
			case "first is killed":
				a.kill()
				h := mustSetup(t, ns, Config{Tap: "tap0", StateDir: dir})
				forward("1")
				if n := len(journals(t, dir)); n != 2 {
					t.Errorf("%d journals, want those of the two alive", n)
				}
				b.end(t)
				mustClose(t, h)
			}
			forward("0")
			sameState(t, before, snapshot(t, ns))
		})
	}
}

// Whatever lies in the state directory, Setup works and says what it saw.
func TestHostileStateDir(t *testing.T) {
	ns := newHost(t)
	for _, tt := range []struct {
		name    string
		make    func(path string) error
		warning []string // of the one expected; none for nil
	}{
		{"empty", func(p string) error { return os.WriteFile(p, nil, 0o600) }, nil},
		{"cut short", func(p string) error { return os.WriteFile(p, []byte(`{"format":"ustack-hostnet-1","pid"`), 0o600) }, nil},
		{"garbage", func(p string) error { return os.WriteFile(p, []byte("garbage\n"), 0o600) }, []string{"unreadable", "line 1", corruptName}},
		{"huge", func(p string) error { return os.WriteFile(p, make([]byte, maxFile+1), 0o600) }, []string{"unreadable", "longer than", corruptName}},
		{"link", func(p string) error { return os.Symlink("/etc/passwd", p) }, []string{"unreadable", corruptName}},
		{"pipe", mkfifo, []string{"unreadable", "not a regular file", corruptName}},
		{"folder", func(p string) error { return os.Mkdir(p, 0o700) }, []string{"unreadable"}},
		{"another boot", func(p string) error {
			return os.WriteFile(p, []byte(`{"format":"ustack-hostnet-1","pid":1,"start":1,"boot":"x","netns":1,"cookie":1,"tap":"tap0"}`+"\n"), 0o600)
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			name := journalPrefix + "1-00" + journalSuffix
			if err := tt.make(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			h := mustSetup(t, ns, Config{Tap: "tap0", StateDir: dir})
			if tt.warning == nil {
				if w := h.Warnings(); len(w) > 0 {
					t.Errorf("warnings: %q", w)
				}
			} else {
				onlyOne(t, h.Warnings(), tt.warning...)
			}
			if slices.Contains(journals(t, dir), name) {
				t.Errorf("it is still there: %q", journals(t, dir))
			}
			mustClose(t, h)
		})
	}
}

// A state directory that others can write to is not used.
func TestStateDirOfOthers(t *testing.T) {
	ns := newHost(t)
	dir := stateDirOf(t, 0)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	_, err := setupIn(t, ns, Config{Tap: "tap0", StateDir: dir})
	if err == nil {
		t.Fatal("no error")
	}
	containsAll(t, err.Error(), dir, "can be written by others", "chmod go-w")
	if ns.Link(t, "tap0").Attrs().Flags&net.FlagUp != 0 {
		t.Error("changed without a journal")
	}
	if _, err := setupIn(t, ns, Config{Tap: "tap0", StateDir: filepath.Join(dir, "a/b")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want not exist", err)
	}
	sub := filepath.Join(dir, "made")
	mustClose(t, mustSetup(t, ns, Config{Tap: "tap0", StateDir: sub}))
	if st, err := os.Stat(sub); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// Another process may hold the directory; that ends in an error, not in a wait
// without end, and the next in line gets it.
func TestStateDirLocked(t *testing.T) {
	first, second := newStateDir(t.TempDir()), newStateDir("")
	if err := first.open(true); err != nil {
		t.Fatal(err)
	}
	second.candidates, second.wait = first.candidates, 20*time.Millisecond
	for range 2 {
		err := second.open(true)
		if err == nil {
			t.Fatal("locked twice")
		}
		containsAll(t, err.Error(), "held by another process", first.path)
	}
	second.unlock()
	first.unlock()
	if err := second.open(false); err != nil {
		t.Error(err)
	}
	second.unlock()
}

// Daemons that come and go at once do not step on each other's forwarding.
func TestConcurrent(t *testing.T) {
	ns := newHost(t)
	for i := range 4 {
		ns.Tap(t, fmt.Sprintf("tap%d", i+1), 0)
	}
	before, dir := snapshot(t, ns), t.TempDir()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 3 {
				var h *Host
				var err error
				ns.Do(t, func() {
					h, err = Setup(Config{
						Tap: fmt.Sprintf("tap%d", i+1), StateDir: dir, Uplink: "up0",
						Networks: prefixes(fmt.Sprintf("10.0.%d.4/24", i), fmt.Sprintf("fd0%d::4/64", i)),
					})
				})
				if err != nil {
					t.Error(err)
					return
				}
				for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
					if v := ns.SysctlValue(t, key); v != "1" {
						t.Errorf("%s = %s while tap%d needs it", key, v, i+1)
					}
				}
				mustClose(t, h)
			}
		})
	}
	wg.Wait()
	sameState(t, before, snapshot(t, ns))
	if left := journals(t, dir); len(left) > 0 {
		t.Errorf("journals left: %q", left)
	}
}
