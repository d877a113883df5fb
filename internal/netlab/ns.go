package netlab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netns"
)

// An NS is a network namespace.
type NS struct {
	name string
	ns   *netns.NS
	nl   *netlink.Handle
}

// New makes a namespace with the loopback interface up; name is for messages only.
// It goes away at the end of the test. Sysctls that a namespace inherits from the
// machine are set to known values: no forwarding, no reverse path filter, reno,
// IPv6 on, ping sockets for everybody.
func New(t testing.TB, name string) *NS {
	t.Helper()
	Require(t)
	space, err := netns.New(name)
	if err != nil {
		refuse(t, err.Error())
	}
	t.Cleanup(space.Close)
	ns := &NS{name: name, ns: space, nl: space.Netlink()}
	for _, kv := range [][2]string{
		{"net.ipv4.ip_forward", "0"},
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
		{"net.ipv4.tcp_congestion_control", "reno"},
		{"net.ipv4.ping_group_range", "0 2147483647"},
		{"net.ipv6.conf.all.disable_ipv6", "0"},
		{"net.ipv6.conf.default.disable_ipv6", "0"},
	} {
		ns.Sysctl(t, kv[0], kv[1])
	}
	return ns
}

// Name returns the name given to New.
func (ns *NS) Name() string { return ns.name }

// Path names the namespace for nsenter(1) and setns(2) while the test process runs.
func (ns *NS) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.ns.File().Fd())
}

// Netlink returns an rtnetlink handle of the namespace, closed with it.
func (ns *NS) Netlink() *netlink.Handle { return ns.nl }

// Do runs f in the namespace, on the calling goroutine, so that f may call t.Fatal.
// Goroutines that f starts are not in the namespace; sockets and files that f opens
// stay in it. A dial to a name or to several addresses starts goroutines: dial one
// address.
func (ns *NS) Do(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	old, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		t.Fatalf("netlab: open this thread's namespace: %v", err)
	}
	defer old.Close()
	if err := unix.Setns(int(ns.ns.File().Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		t.Fatalf("netlab: enter %s: %v", ns.name, err)
	}
	defer func() {
		// A thread that could not leave the namespace stays locked to this goroutine
		// and ends with it.
		if err := unix.Setns(int(old.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Errorf("netlab: leave %s: %v", ns.name, err)
			return
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// Command returns a command that will run in the namespace. Whoever starts it
// waits for it; Start is for processes in the background.
func (ns *NS) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + ns.Path(), "--", name}, args...)...)
}

// Run runs a command, a peer's or one of PATH, in the namespace and returns what it printed on standard
// output; an exit code other than 0 fails the test and shows its standard error.
func (ns *NS) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	var out, errOut strings.Builder
	c := ns.Command(resolve(t, name), args...)
	c.Stdout, c.Stderr = &out, &errOut
	if err := c.Run(); err != nil {
		t.Fatalf("netlab: %s: %s %s: %v\n%s%s", ns.name, name, strings.Join(args, " "), err, out.String(), errOut.String())
	}
	return out.String()
}

// Sysctl sets a kernel parameter of the namespace, such as "net.ipv4.ip_forward".
// A dot inside an interface name is written as a slash, as sysctl(8) has it.
func (ns *NS) Sysctl(t testing.TB, key, value string) {
	t.Helper()
	swap := strings.NewReplacer(".", "/", "/", ".")
	path := filepath.Join("/proc/sys", swap.Replace(key))
	var err error
	ns.Do(t, func() { err = os.WriteFile(path, []byte(value), 0) })
	if err != nil {
		t.Fatalf("netlab: %s: set %s to %q: %v", ns.name, key, value, err)
	}
}

// SysctlValue reads a kernel parameter of the namespace.
func (ns *NS) SysctlValue(t testing.TB, key string) string {
	t.Helper()
	swap := strings.NewReplacer(".", "/", "/", ".")
	path := filepath.Join("/proc/sys", swap.Replace(key))
	var b []byte
	var err error
	ns.Do(t, func() { b, err = os.ReadFile(path) })
	if err != nil {
		t.Fatalf("netlab: %s: read %s: %v", ns.name, key, err)
	}
	return strings.TrimSpace(string(b))
}
