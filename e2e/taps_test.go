package e2e

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ustack/ustack/internal/netlab"
)

// tapOptions makes every test use one kind of tap: `make test-wires` runs all tests
// over each kind.
var tapOptions = flag.String("tap", "", "`OPTIONS` of every tap for which a test names none, such as offload=off; \"\" runs the tests that are meant for all kinds of tap over each")

// A driver is a way to open a tap.
type driver struct{ name, spec string }

// drivers are the ways to open tap0, for tests that cover all of them: four, or the
// one that -tap names.
func drivers() []driver {
	if *tapOptions != "" {
		return []driver{{*tapOptions, "tap:tap0," + *tapOptions}}
	}
	return []driver{
		{"native", "tap:tap0"},
		{"native without offloads", "tap:tap0,offload=off"},
		{"native with 2 queues", "tap:tap0,queues=2"},
		{"water", "tap:tap0,driver=water"},
	}
}

// withTapOptions adds those of -tap to the arguments of `ustack up`: to each tap for which they name
// none, as its link or as a port of its switch.
func withTapOptions(args []string) []string {
	if *tapOptions == "" {
		return args
	}
	args = slices.Clone(args)
	given := false
	for i, arg := range args {
		if i == 0 || args[i-1] != "--link" && args[i-1] != "--port" {
			continue
		}
		given = true
		if strings.HasPrefix(arg, "tap:") && !strings.Contains(arg, ",") {
			args[i] += "," + *tapOptions
		}
	}
	if !given {
		args = append([]string{"--link", "tap:tap0," + *tapOptions}, args...)
	}
	return args
}

// prepareTap makes the persistent tap that a spec opens.
func prepareTap(t testing.TB, ns *netlab.NS, spec string, uid int) {
	t.Helper()
	if strings.Contains(spec, "queues=") {
		ns.MultiQueueTap(t, "tap0", uid)
		return
	}
	ns.Tap(t, "tap0", uid)
}

// The flag reaches every daemon that a test starts with a tap of its own, and no other.
func TestTapOptions(t *testing.T) {
	if *tapOptions != "" {
		d := up(t, netlab.New(t, "host"))
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", d.PID()))
		if err != nil {
			t.Fatal(err)
		}
		match(t, "the command line", strings.ReplaceAll(string(args), "\x00", " "), `--link tap:tap0,`+*tapOptions)
		d.terminate(t)
	}
	set := *tapOptions
	defer func() { *tapOptions = set }()
	for _, c := range []struct{ set, args, want string }{
		{"", "--link tap:tap0", "--link tap:tap0"},
		{"queues=2", "--link tap:tap1 --addr 10.0.0.4/24", "--link tap:tap1,queues=2 --addr 10.0.0.4/24"},
		{"queues=2", "--dhcp", "--link tap:tap0,queues=2 --dhcp"},
		{"queues=2", "--link tap:tap0,driver=water", "--link tap:tap0,driver=water"},
		{"queues=2", "--link pipe:", "--link pipe:"},
		{"queues=2", "--port tap:tap0 --port stream:/a --port tap:tap1,mtu=9000", "--port tap:tap0,queues=2 --port stream:/a --port tap:tap1,mtu=9000"},
	} {
		*tapOptions = c.set
		if got := strings.Join(withTapOptions(strings.Fields(c.args)), " "); got != c.want {
			t.Errorf("-tap %q, up %s: %s, want %s", c.set, c.args, got, c.want)
		}
	}
}
