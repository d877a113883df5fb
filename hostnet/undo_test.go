package hostnet

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/ustack/ustack/internal/netlab"
)

// leave writes the journal of a daemon that died, in ns.
func leave(t *testing.T, ns *netlab.NS, dir string, changes ...change) {
	t.Helper()
	ns.Do(t, func() {
		here, err := currentNamespace()
		if err != nil {
			t.Fatal(err)
		}
		defer here.close()
		d := newStateDir(dir)
		if err := d.open(true); err != nil {
			t.Fatal(err)
		}
		defer d.unlock()
		j, err := d.create(here, "tap0")
		if err != nil {
			t.Fatal(err)
		}
		defer j.close(false)
		for _, c := range changes {
			c.N = j.next()
			if err := j.append(c); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Leftovers of every kind are undone, and what only looks like one is not.
func TestLeftovers(t *testing.T) {
	ns := newHost(t)
	ns.Tap(t, "tap1", 0)
	ns.Tap(t, "tap2", 0)
	ns.Bridge(t, "br0")
	index := func(name string) int { return ns.Link(t, name).Attrs().Index }
	wrong := 1 << 20
	before := snapshot(t, ns)

	// What the dead daemon did to tap1, with a table as kernels without owners
	// leave it behind.
	ns.Addr(t, "tap1", "10.0.1.5/24")
	ns.Up(t, "tap1")
	ns.Do(t, func() {
		tap, _ := netlink.LinkByName("tap1")
		br, _ := netlink.LinkByName("br0")
		if err := netlink.LinkSetMaster(tap, br); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetMTU(tap, 1400); err != nil {
			t.Fatal(err)
		}
	})
	ns.Sysctl(t, "net.ipv4.ip_forward", "1")
	addForward(t, ns, nftables.TableFamilyINet, "ustack_tap1", "forward", nftables.ChainPolicyAccept)
	dir := t.TempDir()
	leave(t, ns, dir,
		change{Op: opMTU, Link: "tap1", Index: index("tap1"), Old: "1500", New: "1400"},
		change{Op: opAddr, Link: "tap1", Index: index("tap1"), Addr: "10.0.1.5/24"},
		change{Op: opUp, Link: "tap1", Index: index("tap1")},
		change{Op: opMaster, Link: "tap1", Index: index("tap1"), Master: "br0", MasterIndex: index("br0")},
		change{Op: opRoute, Link: "tap1", Index: index("tap1"), Addr: "10.7.0.0/16"}, // gone already
		change{Op: opSysctl, Key: keyForward4, Old: "0", New: "1"},
		change{Op: opSysctl, Key: keyAcceptRA, Link: "gone0", Index: wrong, Old: "1", New: "2"},
		change{Op: opTable, Table: "ustack_tap1"},
		// Not its own: another interface by now, or a table that another owns.
		change{Op: opUp, Link: "up0", Index: wrong},
		change{Op: opUp, Link: "tap9", Index: index("up0")},
		change{Op: opAddr, Link: "up0", Index: wrong, Addr: "203.0.113.1/24"},
		change{Op: opTable, Table: "ustack_gone", Owned: true},
	)
	h := mustSetup(t, ns, Config{Tap: "tap2", StateDir: dir})
	if w := h.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
	mustClose(t, h)
	sameState(t, before, snapshot(t, ns))
	if left := journals(t, dir); len(left) > 0 {
		t.Errorf("journals left: %q", left)
	}
}

// Namespaces that come and go, as in tests, do not fill the state directory.
func TestLeftoversElsewhere(t *testing.T) {
	ns, elsewhere := newHost(t), netlab.New(t, "elsewhere")
	dir := t.TempDir()
	for range maxForeign + 3 {
		leave(t, elsewhere, dir, change{Op: opSysctl, Key: keyForward4, Old: "0", New: "1"})
	}
	old := journals(t, dir)[0]
	long := time.Now().Add(-foreignAge - time.Hour)
	if err := os.Chtimes(filepath.Join(dir, old), long, long); err != nil {
		t.Fatal(err)
	}
	elsewhere.Sysctl(t, "net.ipv4.ip_forward", "1")
	mustClose(t, mustSetup(t, ns, Config{Tap: "tap0", StateDir: dir}))
	left := journals(t, dir)
	if len(left) != maxForeign {
		t.Errorf("%d journals left, want %d", len(left), maxForeign)
	}
	if slices.Contains(left, old) {
		t.Error("the oldest is left")
	}
	if v := elsewhere.SysctlValue(t, "net.ipv4.ip_forward"); v != "1" {
		t.Error("another namespace was changed")
	}
}

// What cannot be undone is said, and kept for somebody who can.
func TestLeftoverUnprivileged(t *testing.T) {
	ns := newHost(t)
	ns.Tap(t, "tap1", nobody)
	ns.Up(t, "tap1")
	ns.Up(t, "tap0")
	ns.Addr(t, "tap0", "10.0.0.5/24")
	dir := stateDirOf(t, nobody)
	if err := os.Chown(dir, 0, 0); err != nil {
		t.Fatal(err)
	}
	leave(t, ns, dir,
		change{Op: opAddr, Link: "tap0", Index: ns.Link(t, "tap0").Attrs().Index, Addr: "10.0.0.5/24"},
		change{Op: opRoute, Link: "tap0", Index: 1 << 20, Addr: "10.7.0.0/16"},
	)
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, dir) {
		if err := os.Chown(name, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	cfg := Config{Tap: "tap1", StateDir: dir}
	// The pid in the journal is this process's, which the child takes for alive.
	for _, name := range journals(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		head, changes, err := decodeJournal(b)
		if err != nil || len(changes) != 2 {
			t.Fatal(err, changes)
		}
		head.Start++
		rewrite(t, filepath.Join(dir, name), head, changes)
	}
	c := startChild(t, ns, childConfig{Config: cfg, UID: nobody})
	if c.Err != "" {
		t.Fatal(c.Err)
	}
	onlyOne(t, c.Warnings, "which was killed", "ip addr add 10.0.0.5/24 dev tap0", "operation not permitted")
	c.end(t)
	left := journals(t, dir)
	if len(left) != 1 {
		t.Fatalf("journals: %q", left)
	}
	if err := os.Chown(dir, 0, 0); err != nil {
		t.Fatal(err)
	}
	h := mustSetup(t, ns, Config{Tap: "tap1", StateDir: dir})
	if w := h.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
	mustClose(t, h)
	if slices.ContainsFunc(snapshot(t, ns), func(l string) bool { return l == "addr tap0 10.0.0.5/24" }) {
		t.Error("the address is still there")
	}
	if ns.Link(t, "tap0").Attrs().Flags&net.FlagUp == 0 {
		t.Error("tap0 was brought down")
	}
}

func rewrite(t *testing.T, path string, head header, changes []change) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_TRUNC|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	j := &journal{f: f}
	defer j.close(false)
	if err := j.write(head); err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		if err := j.append(c); err != nil {
			t.Fatal(err)
		}
	}
}
