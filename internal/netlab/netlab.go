// Package netlab gives tests network namespaces of their own, the wires between
// them, background processes that cannot outlive the test, real peers fetched as
// Debian packages, and a raw capture of every frame on an interface.
//
// A namespace has no name in the file system: it is held by the test process, so
// that it disappears with it however that ends. Everything here acts on
// namespaces the test made; the machine's own interfaces are never touched.
package netlab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Require skips the test where network namespaces and TAP devices cannot be made,
// and fails it where they have to be: when CI=true or USTACK_TEST_REQUIRE=1.
func Require(t testing.TB) {
	t.Helper()
	if why := lacking(); why != "" {
		refuse(t, why)
	}
}

// Strict reports whether a missing privilege or peer is a failure rather than a
// reason to skip.
func Strict() bool {
	return os.Getenv("CI") == "true" || os.Getenv("USTACK_TEST_REQUIRE") == "1"
}

// Lack skips the test because the machine lacks what it needs, or fails it where
// Strict.
func Lack(t testing.TB, why string) {
	t.Helper()
	refuse(t, why)
}

func refuse(t testing.TB, why string) {
	t.Helper()
	if Strict() {
		t.Fatal("netlab: " + why)
	}
	t.Skip("netlab: " + why)
}

// lacking says what this process may not do, or "".
func lacking() string {
	// Of this thread: the first one may be one whose capabilities a test has taken.
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return fmt.Sprintf("read capabilities: %v", err)
	}
	var caps uint64
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err = strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			if err != nil {
				return fmt.Sprintf("read capabilities: %v", err)
			}
		}
	}
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}} {
		if caps>>c.bit&1 == 0 {
			return "needs " + c.name + ": run the tests as root"
		}
	}
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return fmt.Sprintf("needs TAP devices: %v", err)
	}
	tun.Close()
	return ""
}

// WaitFor polls cond until it is true, for things that give no event to wait for,
// and fails the test after timeout.
func WaitFor(t testing.TB, timeout time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("netlab: waited %v for %s", timeout, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
