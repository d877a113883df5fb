package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestResolveDefaults(t *testing.T) {
	for _, tt := range []struct {
		name, args                 string
		addrs, hostAddrs, gateways string
	}{
		{"nothing", "", "[10.0.0.4/24]", "[10.0.0.5/24]", "[10.0.0.5]"},
		{"uplink", "--uplink eth0", "[10.0.0.4/24]", "[10.0.0.5/24]", "[10.0.0.5]"},
		{"other gateway", "--gateway 10.0.0.1", "[10.0.0.4/24]", "[10.0.0.5/24]", "[10.0.0.1]"},
		{"address only", "--addr 192.168.7.2/24", "[192.168.7.2/24]", "[]", "[]"},
		{"address and gateway", "--addr 192.168.7.2/24 --gateway 192.168.7.1", "[192.168.7.2/24]", "[]", "[192.168.7.1]"},
		{"address and host", "--addr 192.168.7.2/24 --host-addr 192.168.7.1/24", "[192.168.7.2/24]", "[192.168.7.1/24]", "[192.168.7.1]"},
		{"host elsewhere", "--addr 192.168.7.2/24 --host-addr 10.9.9.1/24", "[192.168.7.2/24]", "[10.9.9.1/24]", "[]"},
		{"both families", "--addr 192.168.7.2/24,2001:db8::2/64 --host-addr 192.168.7.1/24 --host-addr 2001:db8::1/64",
			"[192.168.7.2/24 2001:db8::2/64]", "[192.168.7.1/24 2001:db8::1/64]", "[192.168.7.1 2001:db8::1]"},
		{"link-local gateway", "--addr 2001:db8::2/64 --gateway fe80::1", "[2001:db8::2/64]", "[]", "[fe80::1]"},
		{"dhcp", "--dhcp", "[]", "[]", "[]"},
		{"dhcp on the host", "--dhcp --host-addr 10.0.0.1/24", "[]", "[10.0.0.1/24]", "[]"},
		{"slaac", "--slaac", "[]", "[]", "[]"},
		{"bridge", "--bridge br0", "[]", "[]", "[]"},
		{"no host behind the link", "--link pipe:", "[]", "[]", "[]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, _ := parseUp(t, strings.Fields(tt.args)...)
			s, err := f.resolve(nil)
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprint(s.addrs, s.hostAddrs, s.gateways)
			if want := fmt.Sprint(tt.addrs, " ", tt.hostAddrs, " ", tt.gateways); got != want {
				t.Errorf("addrs, host-addrs, gateways:\ngot  %s\nwant %s", got, want)
			}
		})
	}
}

func TestResolveErrors(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--link nonsense", `--link: link "nonsense": the kind is missing`},
		{"--link tapp:tap0", `--link: link "tapp:tap0": unknown kind "tapp" (nearest: "tap")`},
		{"--link tap:name-that-is-too-long", `--link: link "tap:name-that-is-too-long": `},
		{"--link tap:tap0,queue=2", `--link: link "tap:tap0,queue=2": tap has no option "queue" (nearest: "queues")`},
		{"--link tap:tap0,mtu=1400 --mtu 1500", `--link: link "tap:tap0,mtu=1400": --mtu 1500 says another MTU`},
		{"--addr 10.0.0.4", `--addr "10.0.0.4": the prefix length is missing: write 10.0.0.4/24`},
		{"--addr 2001:db8::4", `--addr "2001:db8::4": the prefix length is missing: write 2001:db8::4/64`},
		{"--addr 10.0.0.4/33", `--addr "10.0.0.4/33": the prefix length must be 1 to 32`},
		{"--addr 10.0.0.4/0", `--addr "10.0.0.4/0": the prefix length must be 1 to 32`},
		{"--addr 10.0.0.256/24", `--addr "10.0.0.256/24": not an address with a prefix length`},
		{"--addr 10.0.0.0/24", `--addr "10.0.0.0/24": the address of the network itself: write a host's, such as 10.0.0.1/24`},
		{"--addr 10.0.0.255/24", `--addr "10.0.0.255/24": the broadcast address of the network: write a host's, such as 10.0.0.254/24`},
		{"--addr 224.0.0.1/24", `--addr "224.0.0.1/24": not an address that a host can have`},
		{"--addr 127.0.0.1/8", `--addr "127.0.0.1/8": not an address that a host can have`},
		{"--addr ::ffff:10.0.0.4/120", `--addr "::ffff:10.0.0.4/120": an IPv4-mapped address: write 10.0.0.4`},
		{"--addr 10.0.0.4/24 --addr 10.0.0.4/16", `--addr 10.0.0.4/16: given twice`},
		{"--mac 02:00", `--mac "02:00": not a hardware address`},
		{"--mac 01:00:00:00:00:04", `--mac 01:00:00:00:00:04: a multicast address`},
		{"--mac 00:00:00:00:00:00", `--mac 00:00:00:00:00:00: all zero`},
		{"--mtu 10", `--mtu 10: out of range: use 68 to 65521 bytes`},
		{"--mtu 70000", `--mtu 70000: out of range: use 68 to 65521 bytes`},
		{"--mtu 70000 --link pipe:", `--mtu 70000: out of range: use 68 to 65535 bytes`},
		{"--mtu -1", `--mtu -1: out of range`},
		{"--mtu 1000 --addr 2001:db8::4/64", `--mtu 1000: too small for IPv6: use at least 1280`},
		{"--gateway x", `--gateway "x": not an IP address`},
		{"--gateway 0.0.0.0", `--gateway 0.0.0.0: not the address of a host`},
		{"--gateway 192.168.1.1", `--gateway 192.168.1.1: unreachable: not in the network of any --addr (10.0.0.4/24)`},
		{"--gateway 10.0.0.4", `--gateway 10.0.0.4: the stack's own address`},
		{"--gateway 10.0.0.5 --gateway 10.0.0.6", `--gateway 10.0.0.6: a second default gateway`},
		{"--dns x", `--dns "x": not a server`},
		{"--dns 10.0.0.1:0", `--dns "10.0.0.1:0": port 0`},
		{"--dns 127.0.0.53", `--dns 127.0.0.53: the stack cannot reach the host's loopback`},
		{"--dns [::1]:53", `--dns ::1: the stack cannot reach the host's loopback`},
		{"--metrics 9100", `--metrics "9100": not HOST:PORT: write one such as 127.0.0.1:9100`},
		{"--metrics ::1:9100", `--metrics "::1:9100": not HOST:PORT`},
		{"--metrics 127.0.0.1:http", `--metrics "127.0.0.1:http": not a port`},
		{"--metrics 127.0.0.1:65536", `--metrics "127.0.0.1:65536": not a port`},
		{"--metrics 127.0.0.1:-1", `--metrics "127.0.0.1:-1": not a port`},
		{"--metrics a..b:9100", `--metrics "a..b:9100": not an address of this host`},
		{"--search a..b", `--search "a..b": not a domain name`},
		{"--addr 10.0.0.4/24 --host-addr 10.0.0.4/24", `--host-addr 10.0.0.4/24: also the stack's own address`},
		{"--host-addr 10.0.0.9/24", `--host-addr 10.0.0.9/24: the stack has no address`},
		{"--dhcp --host-addr 10.0.0", `--host-addr "10.0.0": not an address with a prefix length`},
		{"--dhcp --host-addr 10.0.0.9/24,10.0.0.9/24", `--host-addr 10.0.0.9/24: given twice`},
		{"--bridge br0 --dhcp --host-addr 10.0.0.9/24", `--host-addr 10.0.0.9/24: a tap in the bridge br0 has no address of its own`},
		{"--bridge br0 --uplink eth0", `--uplink eth0: the bridge br0 forwards already`},
		{"--bridge a/b", `--bridge "a/b": not the name of an interface`},
		{"--uplink interface-too-long", `--uplink "interface-too-long": not the name of an interface`},
		{"--uplink tap0", `--uplink tap0: that is the tap itself`},
		{"--addr 10.0.0.4/24 --uplink eth0", `--uplink eth0: the host needs an address on the tap`},
		{"--link pipe: --addr 10.0.0.4/24 --host-addr 10.0.0.5/24", `--host-addr: the link pipe: has no interface on this host`},
		{"--socket-mode 999", `--socket-mode "999": write octal permissions`},
		{"--socket-mode 0060", `--socket-mode "0060": write octal permissions`},
		{"--socket-group no-such-group", `--socket-group "no-such-group": no such group`},
		{"--socket-group -1", `--socket-group "-1": no such group`},
		{"--congestion-control bbr", `--congestion-control "bbr": use reno or cubic`},
		{"--loss-detection none", `--loss-detection "none": use rack or sack`},
		{"--memory much", `--memory "much": not a size`},
		{"--memory M", `--memory "M": not a size`},
		{"--memory -1M", `--memory "-1M": not a size`},
		{"--memory 8589934592G", `--memory "8589934592G": not a size`},
		{"--memory 64K", `--memory 64K: too small: use at least 1M`},
		{"--log-level loud", `--log-level "loud": use debug, info, warn or error`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			f, _ := parseUp(t, strings.Fields(tt.args)...)
			_, err := f.resolve(nil)
			var usage *usageError
			if !errors.As(err, &usage) || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got  %v\nwant %s …", err, tt.want)
			}
		})
	}
}

func TestErrorNamesTheFileALineIsIn(t *testing.T) {
	f, fs := parseUp(t)
	from, err := applyConfig("u.toml", "\naddr = \"10.0.0.4\"\n", fs)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.resolve(from)
	if want := `u.toml:2: addr "10.0.0.4": the prefix length is missing`; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s …", err, want)
	}
}

func TestMemorySetting(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "64M": 64 << 20, "64m": 64 << 20, "2G": 2 << 30, "2048k": 2 << 20, "1048576": 1 << 20} {
		f, _ := parseUp(t, "--memory="+text)
		if s, err := f.resolve(nil); err != nil || s.memory != want {
			t.Errorf("%q: %d bytes, %v, want %d", text, s.memory, err, want)
		}
	}
}

func TestSocketMode(t *testing.T) {
	for args, want := range map[string]string{
		"":                                       "-rw-------",
		"--socket-group 0":                       "-rw-rw----",
		"--socket-group root --socket-mode 0666": "-rw-rw-rw-",
		"--socket-mode 0o640":                    "-rw-r-----",
	} {
		f, _ := parseUp(t, strings.Fields(args)...)
		s, err := f.resolve(nil)
		if err != nil {
			t.Errorf("%q: %v", args, err)
			continue
		}
		if s.socketMode.String() != want {
			t.Errorf("%q: mode %v, want %v", args, s.socketMode, want)
		}
	}
}
