package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// parseUp parses the flags of up as the command does.
func parseUp(t *testing.T, args ...string) (*upFlags, *pflag.FlagSet) {
	t.Helper()
	f := &upFlags{}
	fs := pflag.NewFlagSet("up", pflag.ContinueOnError)
	f.register(fs)
	fs.StringVar(&f.socket, "socket", "", "")
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f, fs
}

func TestConfigHasTheNamesOfTheFlags(t *testing.T) {
	f, fs := parseUp(t)
	_, err := applyConfig("u.toml", `
link = "tap:tap9"
port = ["tap:tap8,isolated", "tap:tap7"]
addr = ["10.1.0.4/24", "2001:db8::4/64"]
gateway = "10.1.0.1"
dns = ["10.1.0.53:5353"]
search = ["lab.example"]
mac = "02:00:00:00:00:09"
mtu = 1400
dhcp = true
slaac = true
host-addr = ["10.1.0.5/24"]
uplink = "eth0"
bridge = "br0"
metrics = "127.0.0.1:9100"
state-dir = "/run/u"
congestion-control = "cubic"
loss-detection = "rack"
memory = "64M"
socket = "/run/u.sock"
socket-group = "staff"
socket-mode = 0o660
log-level = "warn"
`, fs)
	if err != nil {
		t.Fatal(err)
	}
	want := upFlags{
		link: "tap:tap9", ports: []string{"tap:tap8,isolated", "tap:tap7"}, addr: []string{"10.1.0.4/24", "2001:db8::4/64"}, gateway: []string{"10.1.0.1"},
		dns: []string{"10.1.0.53:5353"}, search: []string{"lab.example"}, mac: "02:00:00:00:00:09", mtu: 1400,
		dhcp: true, slaac: true, hostAddr: []string{"10.1.0.5/24"}, uplink: "eth0", bridge: "br0", metrics: "127.0.0.1:9100", stateDir: "/run/u", congestion: "cubic", lossDetection: "rack", memory: "64M",
		socket: "/run/u.sock", socketGroup: "staff", socketMode: "0660", logLevel: "warn",
	}
	for name, pair := range map[string][2]any{
		"port": {f.ports, want.ports}, "addr": {f.addr, want.addr}, "gateway": {f.gateway, want.gateway}, "dns": {f.dns, want.dns},
		"search": {f.search, want.search}, "host-addr": {f.hostAddr, want.hostAddr},
	} {
		if !slices.Equal(pair[0].([]string), pair[1].([]string)) {
			t.Errorf("%s: got %q, want %q", name, pair[0], pair[1])
		}
	}
	for name, pair := range map[string][2]any{
		"link": {f.link, want.link}, "mac": {f.mac, want.mac}, "mtu": {f.mtu, want.mtu}, "dhcp": {f.dhcp, want.dhcp},
		"slaac": {f.slaac, want.slaac}, "uplink": {f.uplink, want.uplink}, "bridge": {f.bridge, want.bridge}, "state-dir": {f.stateDir, want.stateDir},
		"congestion-control": {f.congestion, want.congestion}, "loss-detection": {f.lossDetection, want.lossDetection},
		"memory": {f.memory, want.memory}, "metrics": {f.metrics, want.metrics},
		"socket": {f.socket, want.socket}, "socket-group": {f.socketGroup, want.socketGroup},
		"socket-mode": {f.socketMode, want.socketMode}, "log-level": {f.logLevel, want.logLevel},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %v, want %v", name, pair[0], pair[1])
		}
	}
	// Whatever flag comes later is a key of the file as well.
	fs.VisitAll(func(flag *pflag.Flag) {
		if !slices.Contains(notInConfig, flag.Name) && flag.Value.String() == flag.DefValue {
			t.Errorf("the test sets no %s", flag.Name)
		}
	})
}

func TestFlagsWinOverConfig(t *testing.T) {
	f, fs := parseUp(t, "--addr", "10.2.0.4/24", "--dhcp=false")
	from, err := applyConfig("u.toml", "addr = [\"10.1.0.4/24\"]\ndhcp = true\nmtu = 1400\n", fs)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.addr, []string{"10.2.0.4/24"}) || f.dhcp || f.mtu != 1400 {
		t.Errorf("addr %q, dhcp %v, mtu %d", f.addr, f.dhcp, f.mtu)
	}
	if got := from.of("mtu"); got != "u.toml:3: mtu" {
		t.Errorf("mtu comes from %q", got)
	}
	if got := from.of("addr"); got != "--addr" {
		t.Errorf("addr comes from %q", got)
	}
}

func TestConfigErrors(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "mtu = 1400\n\nadress = \"10.0.0.4/24\"\n", `u.toml:3: adress: unknown key: did you mean addr?`},
		{"underscore", "host_addr = \"10.0.0.5/24\"\n", `u.toml:1: host_addr: unknown key: did you mean host-addr?`},
		{"far off", "colour = 1\n", `u.toml:1: colour: unknown key: use one of link, port, addr, gateway`},
		{"table", "mtu = 1400\n[stack]\naddr = \"10.0.0.4/24\"\n", `u.toml:2: stack: unknown key: `},
		{"only a flag", "config = \"other.toml\"\n", `u.toml:1: config: unknown key`},
		{"string for number", "mtu = \"big\"\n", `u.toml:1: mtu: big is not a whole number`},
		{"number for string", "\nlink = 3\n", `u.toml:2: link: 3 is not a string`},
		{"number in list", "addr = [3]\n", `u.toml:1: addr: 3 is not a string`},
		{"string for bool", "dhcp = \"yes\"\n", `u.toml:1: dhcp: yes is not true or false`},
		{"syntax", "mtu = 1400\naddr = [\n", `u.toml:`},
		{"twice", "mtu = 1400\nmtu = 1500\n", `u.toml:2: `},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, fs := parseUp(t)
			_, err := applyConfig("u.toml", tt.text, fs)
			var usage *usageError
			if !errors.As(err, &usage) || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line that begins with %q", err, tt.want)
			}
		})
	}
}

func TestConfigFileErrors(t *testing.T) {
	_, fs := parseUp(t)
	for _, path := range []string{filepath.Join(t.TempDir(), "none.toml"), t.TempDir(), "/dev/zero"} {
		_, err := loadConfig(path, fs)
		var usage *usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want a usage error that names it", path, err)
		}
	}
}

func TestConfigExampleIsValid(t *testing.T) {
	const path = "../../packaging/ustack.toml"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, fs := parseUp(t)
	from, err := loadConfig(path, fs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.resolve(from); err != nil {
		t.Error(err)
	}
	// What is commented out in it is valid as well, key by key.
	for line := range strings.Lines(string(text)) {
		setting, ok := strings.CutPrefix(line, "#")
		if !ok || strings.HasPrefix(setting, " ") || strings.TrimSpace(setting) == "" {
			continue
		}
		_, fs := parseUp(t)
		if _, err := applyConfig(path, setting, fs); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("addr = [\"10.0.0.4/24\"]\nmtu = 1400\n")
	f.Add("[stack]\nx.y = 1\n")
	f.Add("\"\\u0061ddr\" = 1979-05-27T07:32:00Z")
	f.Fuzz(func(t *testing.T, text string) {
		flags, fs := &upFlags{}, pflag.NewFlagSet("up", pflag.ContinueOnError)
		flags.register(fs)
		from, err := applyConfig("u.toml", text, fs)
		if err == nil {
			_, err = flags.resolve(from)
		}
		var usage *usageError
		if err != nil && !errors.As(err, &usage) {
			t.Errorf("not a usage error: %v", err)
		}
	})
}
