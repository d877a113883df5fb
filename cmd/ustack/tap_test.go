package main

import (
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

// TestUpMTUOfAPreparedTap changes the MTU of a tap that was there before, both
// ways, and gives it back.
func TestUpMTUOfAPreparedTap(t *testing.T) {
	t.Parallel()
	for _, mtu := range []string{"1400", "9000"} {
		ns := netlab.New(t, "host")
		ns.Tap(t, "tap7", 0)
		socket := filepath.Join(socketDir(t), "u.sock")
		p, _ := startUp(t, ns, "--socket", socket, "--link", "tap:tap7", "--addr", "10.0.0.4/24", "--host-addr", "10.0.0.5/24", "--mtu", mtu)
		if got := ns.Link(t, "tap7").Attrs().MTU; mtu != strconv.Itoa(got) {
			t.Errorf("--mtu %s: the tap has %d", mtu, got)
		}
		if out, _, _ := output(t, ns, "link", "--socket", socket); !strings.Contains(out, "mtu "+mtu) {
			t.Errorf("--mtu %s: link says %s", mtu, out)
		}
		p.Signal(t, syscall.SIGTERM)
		if code := p.Wait(t, 10*time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if got := ns.Link(t, "tap7").Attrs().MTU; got != 1500 {
			t.Errorf("after --mtu %s the tap has %d, want 1500", mtu, got)
		}
	}
}

// TestUpTapDown brings the host's side of the tap down under the daemon, which
// says so, and up again.
func TestUpTapDown(t *testing.T) {
	t.Parallel()
	ns := netlab.New(t, "host")
	socket := filepath.Join(socketDir(t), "u.sock")
	startUp(t, ns, "--socket", socket, "--link", "tap:tap7", "--addr", "10.0.0.4/24", "--host-addr", "10.0.0.5/24")
	says := func(command, text string) bool {
		out, _, _ := output(t, ns, command, "--socket", socket)
		return strings.Contains(out, text)
	}
	ns.Down(t, "tap7")
	if !says("link", "DOWN") || !says("status", "ip link set tap7 up") {
		t.Error("a tap that is down is not shown as such")
	}
	ns.Up(t, "tap7")
	if says("link", "DOWN") || says("status", "ip link set tap7 up") {
		t.Error("a tap that is up again is shown as down")
	}
}
